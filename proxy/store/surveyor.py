"""The process that answers inquiries about all that is recorded, as the one that started it sees it.

A thread would not do: while it looked through thousands of recordings, each hit would take twice as long.

The rule: nothing but data goes to it and comes from it.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired  # once, since programs under test replace what is in there
from threading import Timer
from typing import IO, Any, cast

from proxy.inquiry import Inquiry
from proxy.store.database import ShelfTrouble
from proxy.store.parts import receive, send
from proxy.store.reading import Layer

_LONGEST_S = 30.0  # for an answer, which takes tenths of a second where a processor is free
_GONE_S = 1.0  # until one that was killed is gone

# Where all processors have something to do it gets a tenth of one: with less, somebody would wait for minutes. Niceness
# comes first, since importing takes a while too. Modules are where the parent has found them.
_PROGRAM = """
import os, sys
os.nice(10)
import json
sys.path[:] = json.loads(sys.argv[1])
from proxy.store.search import main
main()
"""


class Surveyor:
    """Has the process, from the first inquiry on; for one thread, but for `give_up`."""

    def __init__(self, directory: Path, beneath: Layer | None) -> None:
        """`directory`: of the shelf; `beneath`: the layer beneath it."""
        self._directory = directory
        self._beneath = beneath
        self._process: _Process | None = None
        self._is_over = False

    def ask(self, inquiry: Inquiry) -> str | None:
        """The answer; None if it was given up.

        Raises:
            ShelfTrouble: there is none.
            OSError: the system gives no process.
        """
        if self._is_over:
            return None
        try:
            answer = self._at_work().answer(inquiry)
        except EOFError as error:
            status = self.end()
            if self._is_over:
                return None
            raise ShelfTrouble(f"the process that searches has ended: exit status {status}") from error
        if answer["trouble"] is not None:
            raise ShelfTrouble(answer["trouble"])
        told: str = answer["told"]
        return told

    def give_up(self) -> None:
        """End what is under way; there will be no other answer."""
        self._is_over = True
        if (process := self._process) is not None:
            process.kill()

    def end(self) -> int | None:
        """Have no process, until it is needed again; how it ended, see `subprocess.Popen.returncode`."""
        process, self._process = self._process, None
        return None if process is None else process.end()

    def _at_work(self) -> "_Process":
        if self._process is not None and not self._process.is_alive:
            self.end()
        if self._process is None:
            self._process = _Process(_introduction(self._directory, self._beneath))
        return self._process


class _Process:
    def __init__(self, introduction: Iterator[bytes]) -> None:
        """Raises `OSError`."""
        self._introduction = introduction
        # In a process group of its own no terminal interrupts it: it ends when its input does.
        self._process = Popen(  # noqa: S603 - this interpreter, and no word of a client's
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
            stdin=PIPE,
            stdout=PIPE,
            process_group=0,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def answer(self, inquiry: Inquiry) -> dict[str, Any]:
        """What it finds.

        Raises:
            EOFError: it has ended, or had to, since it took too long.
        """
        watchdog = Timer(_LONGEST_S, self.kill)
        watchdog.daemon = True  # a program that ends does not wait for it
        watchdog.start()
        try:
            send(cast("IO[bytes]", self._process.stdin), chain(self._introduction, inquiry.dump()))
            found: dict[str, Any] = json.loads(receive(cast("IO[bytes]", self._process.stdout)))
        except BrokenPipeError as error:
            raise EOFError from error
        finally:
            watchdog.cancel()
        return found

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int | None:
        self.kill()
        with suppress(BrokenPipeError, TimeoutExpired):  # what it was to be sent nobody will read
            self._process.communicate(timeout=_GONE_S)
        return self._process.returncode


def _introduction(directory: Path, beneath: Layer | None) -> Iterator[bytes]:
    """What there is to be looked through: the first thing that a process is sent."""
    packed = () if beneath is None else beneath.packed()
    yield json.dumps({"directory": str(directory), "beneath": len(packed)}).encode("ascii")
    for summary, entry in packed:
        yield summary.to_json()
        yield entry
