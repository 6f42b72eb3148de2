"""Which recordings a command is meant for: by model, age and text.

The rule: every command that takes some of the recordings takes them by the same options.
"""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import wraps
from typing import Any, NamedTuple

import click

from proxy.commands.options import duration_option
from proxy.commands.recordings import Listed, Recordings, asked
from proxy.store.codec import Damaged
from proxy.transcript import assembled_text


class Wanted(NamedTuple):
    """Which recordings are wanted; None asks for nothing."""

    model: str | None
    older_than_s: float | None
    newer_than_s: float | None
    text: str | None

    def of(self, recorded: Recordings) -> Iterator[Listed]:
        """Those that are wanted, the newest first."""
        listed = recorded.newest_first(self._wants)
        return (each for each in listed if self.text is None or _says(recorded, each.summary.key, self.text))

    def _wants(self, each: Listed) -> bool:
        return (
            (self.model is None or fnmatchcase(each.summary.model or "", self.model))
            and (self.older_than_s is None or each.age_s >= self.older_than_s)
            and (self.newer_than_s is None or each.age_s <= self.newer_than_s)
        )


def wanted_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for a command, which gets them as one argument, `wanted`."""

    @click.option("--model", metavar="GLOB", help="Only those of models such as 'gpt-4*'.")
    @duration_option("--older-than", "Only those recorded longer ago, such as 7d.")
    @duration_option("--newer-than", "Only those recorded since, such as 1h.")
    @click.option("--text", metavar="WORD", help="Only those with this in the request or the answer; reads them all.")
    @wraps(command)
    def with_wanted(
        *, model: str | None, older_than: float | None, newer_than: float | None, text: str | None, **others: object
    ) -> object:
        return command(wanted=Wanted(model, older_than, newer_than, text), **others)

    return with_wanted


def _says(recorded: Recordings, key: str, word: str) -> bool:
    """Whether the word, in whatever case, is in a text of the request or in the answer."""
    try:
        recording = recorded.read(key)
    except Damaged:
        return False
    if recording is None:
        return False
    answer = assembled_text(recording.body) or recording.body.decode(errors="replace")
    texts = [answer, *_texts(asked(recording))]
    return any(word.casefold() in text.casefold() for text in texts)


def _texts(value: object) -> Iterator[str]:
    """The strings of a JSON document, without the names of its members."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
