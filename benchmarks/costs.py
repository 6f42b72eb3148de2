"""What something costs this machine: time on a core, time by the clock, bytes written, bytes on disk, memory.

The rule: a process's own are taken from the kernel's books; what others do meanwhile shows in the elapsed time only.
"""

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_KB_A_MB = 1024
_LOOKED_AFTER_S = 0.01
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are (stat(2))


class Cost(NamedTuple):
    """Of what one process did."""

    cpu_s: float
    """User and system, all threads."""
    elapsed_s: float
    handed_bytes: int = 0
    """Handed to the kernel by write(2) and its like."""
    written_bytes: int = 0
    """The pages that had to go to a disk for it, as a whole; 0 where the directory is on a tmpfs."""
    peak_mb: float = 0.0
    """The most memory that it held (RSS); known of a command alone."""


class Meter:
    """Reads what this process has used since the meter was made."""

    def __init__(self) -> None:
        self._at_first = _so_far()

    def read(self) -> Cost:
        first, now = self._at_first, _so_far()
        return Cost(
            now.cpu_s - first.cpu_s,
            now.elapsed_s - first.elapsed_s,
            now.handed_bytes - first.handed_bytes,
            now.written_bytes - first.written_bytes,
        )


def of_command(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Cost:
    """Run a command to its end; what it says goes nowhere.

    Raises:
        CommandFailed: it ended with another exit code than 0.
    """
    started_s, peak_mb = time.monotonic(), 0.0
    with subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.DEVNULL) as process:
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak_mb = max(peak_mb, _peak_mb(process.pid))
            time.sleep(_LOOKED_AFTER_S)
        elapsed_s = time.monotonic() - started_s
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(used.ru_utime + used.ru_stime, elapsed_s, peak_mb=peak_mb)


def _peak_mb(pid: int) -> float:
    # Not ru_maxrss: that begins with what we held when the process was forked.
    found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / _KB_A_MB if found else 0.0


class CommandFailed(Exception):
    """A command did not do what it was started for."""


def disk_bytes(directory: Path) -> int:
    """What a directory takes on its disk, with everything in it."""
    return sum(path.lstat().st_blocks * _BLOCK_BYTES for path in (directory, *directory.rglob("*")))


def _so_far() -> Cost:
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return Cost(time.process_time(), time.monotonic(), int(counts["wchar"]), int(counts["write_bytes"]))
