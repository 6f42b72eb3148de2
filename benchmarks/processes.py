"""Programs that were started here: their time on a core, their memory, their end.

The rule: whatever was started is ended, with all that it started itself, and nothing else is.
"""

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

_PATIENCE_S = 1.0  # for an orderly end
_LOOKED_AFTER_S = 0.03
_QUIET_LOOKS = 3  # in a row: what is written in batches waits a little for more
_QUIET_SHARE = 0.04  # of a core: housekeeping
_SETTLED_WITHIN_S = 10.0
_SET_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None)
_KB_A_MB = 1024
_REPOSITORY = Path(__file__).parent.parent


class Memory(NamedTuple):
    rss_mb: float
    """Resident, summed over the processes: what they share counts for each of them."""
    pss_mb: float
    """Proportional: what n processes share, here or elsewhere, counts for each of them as the n-th part."""


class Program:
    """A program, in a process group of its own, so that Ctrl-C reaches it only through us."""

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        *,
        core: int | None = None,
        talks: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start it in that directory, where its log is.

        `core`: the only one it may use; None for any. `talks`: its standard input and output are pipes to us.
        `settings`: what its environment has besides ours.
        """
        self._log = directory / "log"
        with self._log.open("ab") as sink, _on(core):
            self._popen = subprocess.Popen(
                command,
                cwd=directory,
                env=environment_with(settings),
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else sink,
                stderr=sink,
                start_new_session=True,
                preexec_fn=_end_with_us,  # noqa: PLW1509 - there is but one thread here
            )

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def tell(self, order: bytes) -> None:
        assert self._popen.stdin is not None  # noqa: S101 - only those that talk are told
        self._popen.stdin.write(order)
        self._popen.stdin.flush()

    def hear(self) -> bytes:
        """A line of its output.

        Raises:
            ProgramFailed: there is none, since it has ended.
        """
        assert self._popen.stdout is not None  # noqa: S101 - only those that talk are heard
        line = self._popen.stdout.readline()
        if not line:
            raise ProgramFailed(f"it ended:\n{self.last_words()}")
        return line

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def cpu_s(self) -> float:
        """User and system time so far, of it and of the processes under it that are still there."""
        return sum(map(_cpu_s, self._tree()))

    def own_cpu_s(self) -> float:
        """The same, without the processes under it."""
        return _cpu_s(self._popen.pid)

    def settled_cpu_s(self) -> float:
        """The same, when what the program does after it has answered is done, such as writing to disk."""
        deadline_s, used_s, quiet = time.monotonic() + _SETTLED_WITHIN_S, self.cpu_s(), 0
        while time.monotonic() < deadline_s and quiet < _QUIET_LOOKS:
            time.sleep(_LOOKED_AFTER_S)
            before_s, used_s = used_s, self.cpu_s()
            quiet = quiet + 1 if used_s - before_s < _QUIET_SHARE * _LOOKED_AFTER_S else 0
        return used_s

    def memory(self) -> Memory:
        """What it and the processes under it hold now."""
        rollups = [_rollup(pid) for pid in self._tree()]
        return Memory(sum(each["Rss"] for each in rollups), sum(each["Pss"] for each in rollups))

    def end(self) -> None:
        """Ask it to end, and make it when it does not."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        if self._popen.returncode is None:
            self._signal(signal.SIGTERM)
            deadline_s = time.monotonic() + _PATIENCE_S
            while time.monotonic() < deadline_s and not self._has_ended():
                time.sleep(0.01)
            # While it is not waited for, no other process can have its number.
            self._signal(signal.SIGKILL)
            self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def _tree(self) -> list[int]:
        children = _children()
        tree = [self._popen.pid]
        for pid in tree:
            tree += children.get(pid, ())
        return tree


class ProgramFailed(Exception):
    """A program that was started does not do what it was started for."""


def allow_many_connections() -> None:
    """Raise our own limit of open files, and with it that of what is started, as far as we may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _end_with_us() -> None:
    """Even if we are killed and end nothing any more; see PR_SET_PDEATHSIG in prctl(2)."""
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


@contextmanager
def _on(core: int | None) -> Iterator[None]:
    """What is started meanwhile may use this core only, with all its threads from the first on."""
    if core is None:
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def environment_with(settings: Mapping[str, str]) -> Mapping[str, str]:
    """These settings in our environment, without what else would change a subject's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPRISE_")}
    # What is installed has been compiled; where this is set a checkout would be compiled at each start.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    paths = [str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **settings}


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                # After the name in brackets, which may hold anything: the state, and the parent (proc(5)).
                parent = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    return children


def _cpu_s(pid: int) -> float:
    # clock_getcpuclockid(3), to the nanosecond; /proc counts in hundredths of a second.
    with suppress(OSError):  # it has ended meanwhile
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def _rollup(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(size_kb) / _KB_A_MB for name, size_kb, _ in fields}
