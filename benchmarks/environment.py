"""What the figures depend on besides the code, as it was before anything was measured.

The rule: a reader who should not believe a figure is told so above the table.
"""

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks import peers
from benchmarks.scenarios import Scale
from benchmarks.stage import Cores

_PACKAGES = ("reprise", "aiohttp", "uvloop", "httptools", "orjson", "diskcache", "structlog")
_QUIET_LOAD = 0.5  # processes that want to run, over the last minute


def environment(cores: Cores) -> dict[str, Any]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load_core": cores.load,
        "subject_core": cores.subject,
        "load_average_before": os.getloadavg()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
        "nginx": _nginx_version(),
    }


def preamble(facts: dict[str, Any], scale: Scale, notes: Sequence[str]) -> Iterator[str]:
    """What a reader must know before he believes a figure."""
    packages = [f"{name} {number}" for name, number in facts["packages"].items() if number]
    named = ", ".join([*packages, *filter(None, [facts["nginx"]])])
    yield f"{facts['python']} on {facts['cores']} cores; {named}"
    if facts["subject_core"] is None:
        yield "There is but one core: subject, upstream and load generator share it, and times say little."
    else:
        yield (
            f"Pinned: the upstream and the load generator to core {facts['load_core']}, "
            f"the subjects to core {facts['subject_core']}."
        )
    if facts["load_average_before"] > _QUIET_LOAD:
        yield f"THE MACHINE IS NOT QUIET (load average {facts['load_average_before']:.1f}): trust no figure."
    yield from notes
    more = f", {scale.rounds * scale.repeats} of misses, filled stores and workers" if scale.repeats > 1 else ""
    yield f"Median (lowest-highest) of {scale.rounds} rounds{more}; every byte of every answer was compared."
    yield "* the load generator could do no more; the subject might.  ! the subject could do no more: frames queued."
    yield ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _nginx_version() -> str | None:
    program = peers.nginx_program()
    if program is None:
        return None
    said = subprocess.run((program, "-v"), capture_output=True, text=True, check=False).stderr
    return said.strip().rpartition("version: ")[2].replace("/", " ")
