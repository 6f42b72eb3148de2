"""The command line as its users meet it: processes, what they say, and the codes with which they exit.

The rule: whatever a user does, he never sees a traceback.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tests import warm
from tests.harness import KEPT_SETTINGS, PATIENCE_S, Connection

_ROOT = Path(__file__).parent.parent
_REPRISE = (sys.executable, "-m", "proxy")
_CONTROL_SEQUENCE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Ended(NamedTuple):
    """A command that has come to its end."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def reprise(*arguments: object, at: Path, stdin: bytes = b"", **settings: object) -> Ended:
    """Run a command in a directory, away from any terminal; `cache__ttl=5` stands for `cache.ttl` in its environment.

    It has the rights of an ordinary user, who can't read what is not readable.
    """
    return _ended(*warm.run([*map(str, arguments)], at, environment(**settings), stdin))


def bytes_of(*arguments: object, at: Path) -> bytes:
    """What a command that ends well writes to stdout, byte for byte."""
    code, out, err = warm.run([*map(str, arguments)], at, environment(), b"")
    assert code == 0, err
    return out


def on_terminal(
    *arguments: object, at: Path, columns: int = 100, typed: str = "", until: str | None = None, **settings: object
) -> Ended:
    """Run a command on a terminal, where both of its outputs are; control sequences are taken out of them.

    `until`: what it shows when it is time to interrupt it.
    """
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    command, env = [*_REPRISE, *map(str, arguments)], environment(**settings)
    with subprocess.Popen(command, cwd=at, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        too_late = threading.Timer(60, process.kill)
        too_late.start()
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        for piece in _pieces(ours):
            shown += piece
            if until is not None and until.encode() in shown:
                process.send_signal(signal.SIGINT)
                until = None
        process.wait()
        too_late.cancel()
        too_late.join()
    return _ended(process.returncode, _CONTROL_SEQUENCE.sub(b"", shown).replace(b"\r\n", b"\n"), b"")


class Running:
    """A command that runs until it is told to stop."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdout = process.stdout
        self._err: list[bytes] = []
        self._grown = asyncio.Condition()
        self._reading = asyncio.create_task(self._read_log(process.stderr))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def line(self) -> str:
        """The next line on stdout; empty at its end."""
        async with asyncio.timeout(PATIENCE_S):
            return (await self._stdout.readline()).decode().rstrip("\n")

    async def lines_until(self, beginning: str) -> list[str]:
        """The next lines, up to the one that begins so."""
        lines = [await self.line()]
        while not lines[-1].startswith(beginning):
            assert not self._stdout.at_eof(), lines
            lines.append(await self.line())
        return lines

    async def logged(self, event: str, number: int = 0) -> dict[str, Any]:
        """The n-th line of an event in the log, waiting for it."""
        async with asyncio.timeout(PATIENCE_S), self._grown:
            await self._grown.wait_for(lambda: len(self.log(event)) > number)
        return self.log(event)[number]

    def log(self, event: str) -> list[dict[str, Any]]:
        """All of them so far."""
        return [line for line in map(orjson.loads, self._err) if line["event"] == event]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self) -> Ended:
        """Wait for its end; `out` is the rest of what it said."""
        async with asyncio.timeout(PATIENCE_S):
            out = await self._stdout.read()
            await self._reading
            return _ended(await self._process.wait(), out, b"".join(self._err))

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def _read_log(self, stderr: asyncio.StreamReader) -> None:
        async for line in stderr:
            async with self._grown:
                self._err.append(line)
                self._grown.notify_all()


@asynccontextmanager
async def running(*arguments: object, at: Path, **settings: object) -> AsyncIterator[Running]:
    """Start a command in a directory."""
    process = await asyncio.create_subprocess_exec(
        *_REPRISE,
        *map(str, arguments),
        cwd=at,
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    command = Running(process)
    try:
        yield command
    finally:
        await command.kill()


@contextmanager
def simulating(at: Path) -> Iterator[str]:
    """The base URL of a simulated upstream, a process of its own that ends with the block."""
    command = [*_REPRISE, "simulate", "--port", "0"]
    with subprocess.Popen(command, cwd=at, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def connect(base_url: str) -> Connection:
    """Connect to what a command has said that it listens on."""
    host, _, port = base_url.removeprefix("http://").removesuffix("/v1").rpartition(":")
    return Connection(*await asyncio.open_connection(host, int(port)))


@contextmanager
def port_in_use() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def environment(**settings: object) -> dict[str, str]:
    """That of the tests, without settings and colours of theirs."""
    env = os.environ.items()
    ours = {name: value for name, value in env if not name.startswith("REPRISE_") or name in KEPT_SETTINGS}
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        ours.pop(name, None)
    given = {f"REPRISE_{name.upper()}": str(value) for name, value in settings.items()}
    return {**ours, **given, "PYTHONPATH": str(_ROOT), "TERM": "xterm-256color"}


def _pieces(ours: int) -> Iterator[bytes]:
    """What is shown on a terminal, until nobody has its other end any more."""
    try:
        while piece := os.read(ours, 65536):
            yield piece
    except OSError:  # Linux's way to say so
        return
    finally:
        os.close(ours)


def _ended(code: int, out: bytes, err: bytes) -> Ended:
    ended = Ended(code, out.decode(), err.decode())
    assert "Traceback" not in ended.out + ended.err, ended
    return ended
