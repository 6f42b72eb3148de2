"""The proxy under test, as a process of its own: its settings, its log, its figures, its end.

The rule: it is started as a user starts it, and looked at from outside only.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import yaml

from tests.commands import environment

_STARTS_WITHIN_S = 20.0
_ENDS_WITHIN_S = 20.0


class Figures(NamedTuple):
    """What the kernel says of a process; None where there is no /proc."""

    resident_bytes: int
    largest_bytes: int
    threads: int
    descriptors: int


class Subject(Protocol):
    """A proxy that is running."""

    @property
    def port(self) -> int: ...

    @property
    def generation(self) -> int:
        """How many times it has been started."""
        ...

    @property
    def is_steady(self) -> bool:
        """Whether it runs, and nobody has told it to end."""
        ...

    def figures(self) -> Figures | None: ...


class Program:
    """`reprise serve`, and everything that can be done to it."""

    def __init__(
        self, directory: Path, settings: dict[str, dict[str, object]], read_line: Callable[[bytes], None]
    ) -> None:
        self.directory = directory
        self.port = 0
        self.generation = 0
        self.is_steady = False
        self.config = directory / "config.yaml"
        self.first_config = directory / "first.yaml"
        """The settings as they were first, for whoever else works with the same recordings."""
        self._settings = {**settings, "cache": {**settings["cache"], "directory": str(self.store)}}
        self._read_line = read_line
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]

    @property
    def store(self) -> Path:
        return self.directory / "store"

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self.write_settings()
        self.first_config.write_bytes(self.config.read_bytes())
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "serve", "--config", str(self.config)),
            cwd=self.directory,
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._reading = asyncio.create_task(self._read_log(self._process.stderr))
        async with asyncio.timeout(_STARTS_WITHIN_S):
            said = (await self._process.stdout.readline()).decode()
        self.port = int(said.strip().removesuffix("/v1").rpartition(":")[2])
        self.generation += 1
        self.is_steady = True

    def write_settings(self, **changed: dict[str, object]) -> None:
        """Write its settings, with these sections changed; they count when it is started, or told to reload."""
        settings = {section: {**values, **changed.pop(section, {})} for section, values in self._settings.items()}
        self.config.write_text(yaml.safe_dump({**settings, **changed}))

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    async def restart(self) -> None:
        """Kill it, and start it again in the same directory."""
        await self.kill()
        await self.start()

    async def kill(self) -> None:
        """As the kernel does when memory is short."""
        self.is_steady = False
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def end(self) -> int:
        """Ask it to end; its exit code."""
        self.is_steady = False
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_ENDS_WITHIN_S):
            code = await self._process.wait()
            await self._reading
        return code

    def figures(self) -> Figures | None:
        return figures_of(self._process.pid)

    async def _read_log(self, stderr: asyncio.StreamReader) -> None:
        async for line in stderr:
            if self.is_steady or line.endswith(b"\n"):  # one that is killed may be in the middle of a line
                self._read_line(line)


def figures_of(process_id: int) -> Figures | None:
    """The figures of a process, where the system shows them."""
    of_process = Path(f"/proc/{process_id}")
    try:
        status = dict(line.split(":", 1) for line in (of_process / "status").read_text().splitlines())
        resident, largest = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return Figures(resident, largest, int(status["Threads"]), len(list((of_process / "fd").iterdir())))
    except (OSError, KeyError, ValueError):
        return None
