"""What is measured: the command that starts it, and how it is told where to listen and whom to ask.

The rule: a subject is one row of the table, and all that sets it apart from the others stands here.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

DIRECT, BARE_TEE = "direct", "bare tee"  # what the others are compared with


class Place(NamedTuple):
    """Where a subject is to run."""

    port: int
    """To listen on, at 127.0.0.1."""
    upstream_url: str
    """Ends in `/v1`."""
    directory: Path
    """Empty, its own, and gone at the end."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that answers under `http://127.0.0.1:{port}/v1`."""

    name: str
    command: Callable[[Place], Sequence[str]] | None = None
    """Writes what files it needs; None where nothing stands between the client and the upstream."""
    caches: bool = False
    """Whether a second request with the same body must not reach the upstream."""
    only: str | None = None
    """The one group of scenarios in which it tells something new; None for all."""


def _tee(place: Place) -> Sequence[str]:
    return sys.executable, "-m", "benchmarks.tee", str(place.port), place.upstream_url


_CONFIG = """\
server:
  port: {port}
upstream:
  base_url: {upstream_url}
cache:
  directory: {directory}/recordings
  memory_limit: {memory_limit}
log:
  format: json
"""


def _reprise(memory_limit: str, place: Place) -> Sequence[str]:
    config = place.directory / "config.yaml"
    config.write_text(_CONFIG.format(**place._asdict(), memory_limit=memory_limit))
    return sys.executable, "-m", "proxy", "serve", "--config", str(config)


SUBJECTS = (
    Subject(DIRECT),
    Subject(BARE_TEE, _tee),
    Subject("reprise", partial(_reprise, "64MiB"), caches=True),
    Subject("reprise, from disk", partial(_reprise, "0"), caches=True, only="hits"),
)
