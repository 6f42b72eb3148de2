"""Answers letters: what one is about, and a reply that is shown while it is written.

python letters.py < letter.txt
"""

import sys
from collections.abc import Iterator

from openai import OpenAI

MODEL = "gpt-4o-mini"


def topic(letter: str) -> str:
    """What a letter is about, in a few words."""
    answer = OpenAI().chat.completions.create(
        model=MODEL,
        max_tokens=3,
        messages=[
            {"role": "system", "content": "Name the topic of the letter in at most three words."},
            {"role": "user", "content": letter},
        ],
    )
    return (answer.choices[0].message.content or "").strip(" .").lower()


def reply(letter: str) -> Iterator[str]:
    """A reply to a letter, piece by piece."""
    stream = OpenAI().chat.completions.create(
        model=MODEL,
        stream=True,
        messages=[
            {"role": "system", "content": "Answer the letter in the name of a small bookshop, in three sentences."},
            {"role": "user", "content": letter},
        ],
    )
    for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            yield text


def main() -> None:
    letter = sys.stdin.read()
    print(f"Topic: {topic(letter)}\n")
    for text in reply(letter):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
