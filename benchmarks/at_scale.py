"""The store at the size that it may grow to: what a recording costs when it is stored, found, listed, or gives way.

The rule: the proxy's own store and commands are measured, without the traffic around them; plain diskcache is given the
same bytes in the same run.
"""

import asyncio
import os
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import NamedTuple

import diskcache

from benchmarks import costs, questions
from benchmarks.costs import Cost, Meter
from benchmarks.filling import UPSTREAM_NAME, fill, numbers, recordings
from benchmarks.questions import Question
from benchmarks.report import Measurement
from proxy.recording import Recording
from proxy.store.codec import decode
from proxy.store.disk import Shelf
from proxy.store.tiered import TieredStore

REPRISE, DISKCACHE = "reprise", "diskcache"

_REPOSITORY = Path(__file__).parent.parent
_PROGRAM = sys.executable, "-m", "proxy"
_LIMIT_BYTES = 2**40
_STREAM_FRAMES = 200
_BURST, _BETWEEN_BURSTS_S = 32, 0.05  # clients whose answers end at once, and time in which a disk is done with them
_ASKED_AGAIN_AFTER_S = 0.001
_PATIENCE_S = 60.0
_OTHERS = 9  # a seed for recordings that are not in the store yet
_LOOKED_UP = 2000
_COMMANDS = {
    "listing": ("cache", "ls", "--json"),
    "listing the newest ten": ("cache", "ls", "--limit", "10"),
    "stats": ("cache", "stats"),
    "verify": ("cache", "verify"),
}
_RESIDENT = re.compile(r"VmRSS:\s+(\d+) kB")


Figures = dict[str, float]


class _Scale(NamedTuple):
    plain: int
    """Answers to store, as fast as it goes."""
    streams: int
    bursts: int
    sizes: Sequence[int]
    """Of full stores, the smallest first."""
    evicting: int
    """Answers to store where each drives out others."""


_QUICK = _Scale(plain=2000, streams=200, bursts=10, sizes=(1000, 20_000), evicting=500)
_FULL = _Scale(plain=20_000, streams=2000, bursts=60, sizes=(1000, 100_000, 1_000_000), evicting=5000)


def measure(quick: bool) -> Iterator[Measurement]:  # noqa: FBT001 - the one thing there is to say
    """Measure, and say on standard error how far it has come; some 20 seconds, or ten minutes in full.

    Raises:
        NotStored: what was found is not what was stored, or nothing was.
        CommandFailed: a command did not end well.
    """
    scale = _QUICK if quick else _FULL
    with TemporaryDirectory(prefix="reprise-benchmark-") as name:
        yield from _storing(Path(name), scale)
        for size in scale.sizes:
            yield from _at_size(Path(name) / f"filled-{size}", size, scale)


def _storing(place: Path, scale: _Scale) -> Iterator[Measurement]:
    plain, streams = list(recordings(numbers(scale.plain))), list(recordings(numbers(scale.streams), _STREAM_FRAMES))
    ours, theirs = place / "plain", place / "plain-by-diskcache"
    _tell("storing plain answers")
    yield Measurement("storing plain answers", REPRISE, 0, _stored(asyncio.run(_keep(ours, plain)), ours, plain))
    yield Measurement("storing plain answers", DISKCACHE, 0, _stored(_set(theirs, plain), theirs, plain))
    yield from _evicting(scale, len(plain), ours, theirs)
    _tell("storing plain answers in bursts")
    some = plain[: scale.bursts * _BURST]
    cost = asyncio.run(_keep(place / "bursts", some, in_bursts=True))
    figures = _stored(cost, place / "bursts", some)
    del figures["elapsed_us_each"]  # that is how long the bursts were apart
    yield Measurement("storing plain answers, 32 each 50 ms", REPRISE, 0, figures)
    _tell("storing streams")
    ours, theirs = place / "streams", place / "streams-by-diskcache"
    yield Measurement("storing streams", REPRISE, 0, _stored(asyncio.run(_keep(ours, streams)), ours, streams))
    yield Measurement("storing streams", DISKCACHE, 0, _stored(_set(theirs, streams), theirs, streams))


async def _keep(
    directory: Path, stored: Sequence[Recording], *, in_bursts: bool = False, limit_bytes: int = _LIMIT_BYTES
) -> Cost:
    """Store them as the proxy does; the cost of that, from the moment when the store is open until it is closed."""
    store = await TieredStore.open(directory, size_limit_bytes=limit_bytes, memory_limit_bytes=0)
    meter = Meter()
    for turn, each in enumerate(stored):
        if in_bursts and turn % _BURST == 0:
            await asyncio.sleep(_BETWEEN_BURSTS_S)
        while not store.keep(each):  # noqa: ASYNC110 - the store tells nobody when there is room again
            await asyncio.sleep(_ASKED_AGAIN_AFTER_S)
    await store.close()
    return meter.read()


def _set(directory: Path, stored: Sequence[Recording], **settings: int) -> Cost:
    """Store what was asked and answered with diskcache as it comes."""
    with diskcache.Cache(str(directory), **settings) as cache:
        meter = Meter()
        for each in stored:
            cache.set(each.key, each.request.body + each.body)
        return meter.read()


def _stored(cost: Cost, directory: Path, stored: Sequence[Recording]) -> Figures:
    recorded_bytes = sum(len(each.request.body) + len(each.body) for each in stored)
    return _each(cost, len(stored)) | {
        "handed_per_recorded_byte": cost.handed_bytes / recorded_bytes,
        "written_per_recorded_byte": cost.written_bytes / recorded_bytes,
        "disk_per_recorded_byte": costs.disk_bytes(directory) / recorded_bytes,
    }


def _evicting(scale: _Scale, size: int, ours: Path, theirs: Path | None = None) -> Iterator[Measurement]:
    """Stores that are full: each recording that is stored drives others out."""
    scenario = f"storing plain answers, {size:,} fill the store"
    _tell(scenario)
    new = list(recordings(numbers(scale.evicting, _OTHERS)))
    with closing(Shelf.open(ours, _LIMIT_BYTES)) as shelf:
        limit_bytes, count = shelf.volume_bytes(), shelf.count
        cost = asyncio.run(_keep(ours, new, limit_bytes=limit_bytes))
        evicted, over_bytes = count + len(new) - shelf.count, shelf.volume_bytes() - limit_bytes
    yield Measurement(scenario, REPRISE, 0, _evicted(cost, len(new), evicted, over_bytes))
    if theirs is not None:
        with diskcache.Cache(str(theirs)) as cache:
            limit_bytes, count = cache.volume(), len(cache)
            cost = _set(theirs, new, size_limit=limit_bytes)
            evicted, over_bytes = count + len(new) - len(cache), cache.volume() - limit_bytes
        yield Measurement(scenario, DISKCACHE, 0, _evicted(cost, len(new), evicted, over_bytes))


def _evicted(cost: Cost, new: int, evicted: int, over_bytes: int) -> Figures:
    return _each(cost, new) | {
        "evicted_each": evicted / new,
        "handed_bytes_each": cost.handed_bytes / new,
        "over_limit_bytes": float(max(0, over_bytes)),
    }


def _at_size(store: Path, size: int, scale: _Scale) -> Iterator[Measurement]:
    among = f"{size:,} recordings"
    _tell(among)
    meter = Meter()
    fill(store, size)
    elapsed_s = meter.read().elapsed_s
    filled = {"elapsed_us_each": elapsed_s * 1e6 / size, "disk_bytes_each": costs.disk_bytes(store) / size}
    yield Measurement(f"{among}: filling", REPRISE, 0, filled)
    yield Measurement(f"{among}: a look-up on disk", REPRISE, 0, _looked_up(store, size))
    yield Measurement(f"{among}: start", REPRISE, 0, _started(store, size))
    for what, command in _COMMANDS.items():
        _tell(f"{among}: {what}")
        cost = costs.of_command((*_PROGRAM, *command), _environment(store), store.parent)
        spent = {"cpu_ms": cost.cpu_s * 1000, "elapsed_ms": cost.elapsed_s * 1000, "peak_mb": cost.peak_mb}
        yield Measurement(f"{among}: {what}", REPRISE, 0, _each(cost, size) | spent)
    yield from _evicting(scale, size, store)


def _looked_up(store: Path, size: int) -> Figures:
    """Recordings here and there, each once: from the shelf, and as the proxy fetches what is not in memory."""
    # The same ones in each run, and no secret.
    chosen = random.Random(size).sample(numbers(size), min(size, _LOOKED_UP))  # noqa: S311
    wanted = list(recordings(chosen))
    got_us, fetched_us = list(_got_us(store, wanted)), asyncio.run(_fetched_us(store, wanted))
    return {
        "get_p50_us": median(got_us),
        "get_p99_us": _p99(got_us),
        "fetch_p50_us": median(fetched_us),
        "fetch_p99_us": _p99(fetched_us),
    }


def _got_us(store: Path, wanted: Iterable[Recording]) -> Iterator[float]:
    with closing(Shelf.open(store, _LIMIT_BYTES)) as shelf:
        for each in wanted:
            began_s = time.perf_counter()
            entry = shelf.get(each.key)
            yield (time.perf_counter() - began_s) * 1e6
            if entry is None or decode(entry, each.key).body != each.body:
                raise NotStored(each.key)


async def _fetched_us(store: Path, wanted: Iterable[Recording]) -> list[float]:
    opened = await TieredStore.open(store, size_limit_bytes=_LIMIT_BYTES, memory_limit_bytes=0)
    times_us = []
    for each in wanted:
        began_s = time.perf_counter()
        found = await opened.fetch(each.key)
        times_us.append((time.perf_counter() - began_s) * 1e6)
        if found is None or found.body != each.body:
            raise NotStored(each.key)
    await opened.close()
    return times_us


def _started(store: Path, size: int) -> Figures:
    """A proxy that begins with a store of that size: its first answer, a hit that asks nobody, and its memory."""
    number = numbers(size)[size // 2]
    began_s = time.monotonic()
    with Popen((*_PROGRAM, "serve", "--port", "0"), cwd=store.parent, env=_environment(store), stdout=PIPE) as proxy:
        try:
            answer = _ask(_announced_port(proxy), Question(number))
            answered_s = time.monotonic()
            memory = Path(f"/proc/{proxy.pid}/status").read_text()
        finally:
            proxy.terminate()
    if answer != questions.plain_body(number):
        raise NotStored(str(number))
    resident = _RESIDENT.search(memory)
    return {"first_hit_ms": (answered_s - began_s) * 1000, "rss_mb": int(resident[1]) / 1024 if resident else 0.0}


def _announced_port(proxy: "Popen[bytes]") -> int:
    assert proxy.stdout is not None  # noqa: S101 - it is a pipe
    return int(proxy.stdout.readline().rpartition(b":")[2].removesuffix(b"/v1\n"))


def _ask(port: int, question: Question) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    with closing(connection):
        # Nobody listens upstream: an answer is a recorded one.
        connection.request("POST", questions.PATH.decode(), question.body(), {"Content-Type": "application/json"})
        return connection.getresponse().read()


def _environment(store: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPRISE_")}
    ours = {
        "REPRISE_CACHE__DIRECTORY": str(store),
        "REPRISE_CACHE__SIZE_LIMIT": str(_LIMIT_BYTES),
        "REPRISE_UPSTREAM__NAME": UPSTREAM_NAME,
        "REPRISE_UPSTREAM__BASE_URL": "http://127.0.0.1:9/v1",
        "REPRISE_LOG__LEVEL": "warning",
    }
    return kept | ours | {"PYTHONPATH": os.pathsep.join((str(_REPOSITORY), kept.get("PYTHONPATH", "")))}


def _each(cost: Cost, of: int) -> Figures:
    return {"cpu_us_each": cost.cpu_s * 1e6 / of, "elapsed_us_each": cost.elapsed_s * 1e6 / of}


def _p99(times_us: Sequence[float]) -> float:
    return quantiles(times_us, n=100)[-1]


def _tell(scenario: str) -> None:
    print(f"{scenario} ...", file=sys.stderr, flush=True)


class NotStored(Exception):
    """What was stored is not found, or not as it was."""
