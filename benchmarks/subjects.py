"""What is measured: the command that starts it, and how it is told where to listen and whom to ask.

The rule: a subject is one row of the table, and all that sets it apart from the others stands here.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks import peers
from benchmarks.place import Place
from benchmarks.processes import environment_with

# The rows that others are compared with; the last is that of a store by itself, which is not started here.
DIRECT, NGINX, NGINX_CACHE, BARE_TEE, BARE_HANDLER = "direct", "nginx", "nginx cache", "bare tee", "bare handler"
DISKCACHE = "diskcache"
YARDSTICKS = (NGINX, BARE_TEE, NGINX_CACHE, BARE_HANDLER, DISKCACHE)
REPRISE, FROM_DISK, ONE_WORKER, TWO_WORKERS = "reprise", "reprise, from disk", "one worker", "two workers"
# Not other subjects, but what goes on while the same one answers.
ALONE, MISSING, COUNTING = "alone", "while one misses", "beside one that counts"

# What a subject can take part in: a scenario is of one kind.
Kind = Literal[
    "miss",
    "stream",
    "hit",
    "joined",
    "separate",
    "large miss",
    "large hit",
    "filled",
    "workers",
    "idle",
    "start",
    "hour",
]
_PASSES_ON: frozenset[Kind] = frozenset(("miss", "stream", "separate", "large miss", "idle", "start", "hour"))
_HITS: frozenset[Kind] = frozenset(("hit", "large hit"))

# What the bare handler has ready: the answer to this question, plain, and streamed in so many frames.
READY_NUMBER, READY_FRAMES = 7_000_000_000, 200


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that answers under `http://127.0.0.1:{port}/v1`."""

    name: str
    kinds: frozenset[Kind]
    """Of the scenarios that it takes part in."""
    command: Callable[[Place], Sequence[str]] | None = None
    """Writes what files it needs; None where nothing stands between the client and the upstream."""
    environment: Mapping[str, str] = field(default_factory=dict)
    caches: bool = False
    """A second request with the same body must not reach the upstream."""
    ready: bool = False
    """It has one answer for all, and never asks the upstream."""
    remakes: bool = False
    """It does not pass on the bytes of an answer, only its text."""
    optional: bool = False
    """The run goes on without it when it fails."""
    slow: bool = False
    """It takes part in the lighter scenarios only, one round of each."""
    workers: int = 0
    """Processes that answer, on whatever cores there are; 0 for a subject with a core of its own."""
    recordings: int = 0
    """In its store from the start, made by `filling.fill`."""
    replays: bool = False
    """It answers what is in its store, and nothing else."""
    absent: str | None = None
    """Why it cannot be measured here."""


def subjects(kinds: AbstractSet[str], litellm: Path | None, stores: Sequence[int]) -> tuple[list[Subject], list[str]]:
    """Those that can be measured here in scenarios of these kinds; and notes: which cannot, and what else to know.

    Where stores are filled, there are subjects with so many recordings.
    """
    found, notes = [], []
    for each in _all(litellm, stores):
        if kinds.isdisjoint(each.kinds):
            continue
        if reason := each.absent or _refused(each.environment):
            notes.append(f"Absent: {each.name}: {reason}")
        else:
            found.append(each)
        if each in found and each.remakes:
            notes.append(f"{each.name} makes answers anew: only their text was compared.")
    return found, notes


def _all(litellm: Path | None, stores: Sequence[int]) -> Iterator[Subject]:
    no_nginx = None if peers.nginx_program() else "it is not installed"
    no_litellm = None if litellm else "it is not installed, or was not named with --litellm"
    yield Subject(DIRECT, _PASSES_ON - {"idle", "start", "hour"} | {"hit"})
    yield Subject(NGINX, _PASSES_ON - {"hour"}, peers.nginx, absent=no_nginx)
    cached = partial(peers.nginx, caches=True)
    yield Subject(NGINX_CACHE, frozenset(("hit",)), cached, caches=True, absent=no_nginx)
    yield Subject(BARE_TEE, _PASSES_ON, _tee)
    yield Subject(BARE_HANDLER, _HITS, _handler, ready=True)
    yield Subject(
        "LiteLLM",
        frozenset(("miss", "stream", "hit", "start")),
        partial(peers.litellm, litellm or Path()),
        caches=True,
        remakes=True,
        slow=True,
        optional=True,
        absent=no_litellm,
    )
    yield Subject(REPRISE, _PASSES_ON | _HITS | {"joined"}, _reprise, caches=True)
    yield from _variants()
    yield from _filled(stores)


def _variants() -> Iterator[Subject]:
    """Reprise with a setting that is not the default, by the environment."""
    variant = partial(Subject, command=_reprise, caches=True)
    yield variant(FROM_DISK, _HITS, environment={"REPRISE_CACHE__MEMORY_LIMIT": "0"})
    yield variant(
        "reprise, no fast lane",
        frozenset(("miss", "stream", "hit")),
        environment={"REPRISE_SERVER__FAST_LANE": "false"},
    )
    yield variant(ONE_WORKER, frozenset(("workers",)), workers=1)
    yield variant(TWO_WORKERS, frozenset(("workers",)), workers=2, environment={"REPRISE_SERVER__WORKERS": "2"})


def replaying(recordings: int) -> Subject:
    """Reprise in replay mode, on whatever cores there are, with a store that is filled."""
    return Subject(
        f"replay of {recordings:,} recordings",
        frozenset(),
        partial(_reprise, recordings=recordings),
        {"REPRISE_CACHE__MODE": "replay"},
        caches=True,
        workers=1,
        recordings=recordings,
        replays=True,
    )


def filled_name(recordings: int, *, from_disk: bool) -> str:
    return f"{recordings:,} recordings, {'from disk' if from_disk else 'from memory'}"


def _filled(stores: Sequence[int]) -> Iterator[Subject]:
    for count in stores:
        for memory_limit in ("64MiB", "0"):
            yield Subject(
                filled_name(count, from_disk=memory_limit == "0"),
                frozenset(("filled",)),
                partial(_reprise, recordings=count),
                # A million of them would not be left whole by the limit that is the default.
                {"REPRISE_CACHE__MEMORY_LIMIT": memory_limit, "REPRISE_CACHE__SIZE_LIMIT": "1TiB"},
                caches=True,
                recordings=count,
            )


def _tee(place: Place) -> Sequence[str]:
    return sys.executable, "-m", "benchmarks.tee", str(place.port), place.upstream_url


def _handler(place: Place) -> Sequence[str]:
    return sys.executable, "-m", "benchmarks.handler", str(place.port), str(READY_NUMBER), str(READY_FRAMES)


_CONFIG = """\
server:
  port: {port}
upstream:
  base_url: {upstream_url}
  name: benchmark
cache:
  directory: {store}
"""


def _reprise(place: Place, recordings: int = 0) -> Sequence[str]:
    store = place.directory / "recordings"
    if recordings:
        store = place.shared / f"filled-{recordings}"
        _fill_once(store, recordings)
    config = place.directory / "config.yaml"
    config.write_text(_CONFIG.format(**place._asdict(), store=store))
    return sys.executable, "-m", "proxy", "serve", "--config", str(config)


def _fill_once(store: Path, recordings: int) -> None:
    from benchmarks.filling import fill  # noqa: PLC0415 - it loads the proxy, which few runs need here

    if not store.exists():
        fill(store, recordings)


def _refused(environment: Mapping[str, str]) -> str | None:
    """What the proxy has against these settings."""
    if not environment:
        return None
    checked = subprocess.run(
        (sys.executable, "-m", "proxy", "check", "--config", "/dev/null"),
        env=environment_with(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    return None if checked.returncode == 0 else checked.stderr.strip()
