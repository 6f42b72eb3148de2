"""The program of the process that looks through all that is recorded, see `surveyor`.

The rule: it writes nothing but answers, and ends when nobody can ask it any more.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from proxy.inquiry import Inquiry
from proxy.store.database import ShelfTrouble
from proxy.store.directory import UnusableDirectory, holds_store
from proxy.store.disk import Shelf
from proxy.store.parts import receive, send
from proxy.store.shelved import Shelved
from proxy.store.summary import Summary

_Packed = Sequence[tuple[Summary, bytes]]


def main() -> None:
    """Answer inquiries."""
    asked, told = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        facts = json.loads(receive(asked))
        directory = Path(facts["directory"])
        beneath = [(Summary.from_json(receive(asked)), receive(asked)) for _ in range(facts["beneath"])]
        while True:
            inquiry = Inquiry.load(receive(asked), receive(asked))
            send(told, [_answer(inquiry, directory, beneath)])


def _answer(inquiry: Inquiry, directory: Path, beneath: _Packed) -> bytes:
    answer = trouble = None
    try:
        answer = _looked_up(inquiry, directory, beneath)
    except (ShelfTrouble, UnusableDirectory) as error:
        trouble = str(error)
    except Exception as error:  # noqa: BLE001 - what nobody foresaw may quote what it was about: a request
        trouble = type(error).__name__
    return json.dumps({"told": answer, "trouble": trouble}).encode("ascii")


def _looked_up(inquiry: Inquiry, directory: Path, beneath: _Packed) -> str:
    if not holds_store(directory):
        return inquiry.answer(Shelved(None, beneath))
    # Opened anew each time, for it may have been moved away, and another be in its place.
    with closing(Shelf.open(directory, 0)) as shelf:
        return inquiry.answer(Shelved(shelf, beneath))
