"""The program's tests: they ask a model once, when they are written, and its recorded answers ever after."""

import subprocess
import sys
from pathlib import Path

import letters

LETTER = "Dear all, the second volume of my atlas has not arrived. Could you look into it? Yours, A. Reader"


def test_a_letter_has_a_topic(reprise):
    assert 1 <= len(letters.topic(LETTER).split()) <= 3


def test_a_reply_comes_piece_by_piece(reprise):
    pieces = list(letters.reply(LETTER))

    assert len(pieces) > 10
    assert "".join(pieces).endswith(".")


def test_the_program_says_topic_and_reply(reprise):
    """It runs as a process of its own: all it needs is the environment, which the fixture has set."""
    program = [sys.executable, Path(__file__).with_name("letters.py")]
    said = subprocess.run(program, input=LETTER, capture_output=True, text=True, check=True).stdout

    assert said == f"Topic: {letters.topic(LETTER)}\n\n{''.join(letters.reply(LETTER))}\n"
