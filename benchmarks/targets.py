"""What the proxy has promised: each a figure of one run against a named row of the same run, or against a number.

The rule: what was not measured is neither reached nor missed.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from benchmarks.report import Figures
from benchmarks.scenarios import Scale, beside_name, missed_name
from benchmarks.subjects import (
    ALONE,
    BARE_HANDLER,
    BARE_TEE,
    COUNTING,
    FROM_DISK,
    MISSING,
    NGINX,
    NGINX_CACHE,
    ONE_WORKER,
    REPRISE,
    TWO_WORKERS,
    filled_name,
)


class Bound(NamedTuple):
    value: float
    row: str | None = None
    """The subject that it is a multiple of; None where it is a number by itself."""


class Target(NamedTuple):
    what: str
    scenario: str
    figure: str
    must: Bound
    aim: Bound | None
    at: Literal["most", "least"] = "most"
    subject: str = REPRISE
    against: str | None = None
    """The scenario of the other row, where it is not the same."""


class Verdict(NamedTuple):
    target: str
    level: Literal["must", "aim"]
    bound: str
    is_ratio: bool
    measured: float | None
    reached: bool | None


def targets(scale: Scale) -> Iterator[Target]:
    """All of them, in the order in which they were promised."""
    misses, streams, hits, stream_hits = (
        "plain misses, 32 at once",
        "paced streams, 60 at once",
        "plain hits, 32 at once",
        "stream hits, 32 at once",
    )
    cpu, frame_cpu = "cpu_us_per_answer", "cpu_s_per_100000_frames"
    yield Target("CPU a plain miss", misses, cpu, Bound(1.2, BARE_TEE), Bound(3, NGINX))
    yield Target("CPU a frame, 60 streams", streams, frame_cpu, Bound(1.15, BARE_TEE), Bound(1.3, NGINX))
    lone = "paced streams, 1 at once"
    yield Target("added to the first byte, p50", lone, "first_byte_p50_us", Bound(1.3, BARE_TEE), Bound(2, NGINX))
    yield Target("added to a frame, p99, 60 streams", streams, "frame_p99_us", Bound(1.5, BARE_TEE), Bound(1, NGINX))
    rate = Bound(0.8, BARE_HANDLER), Bound(1, NGINX_CACHE)
    yield Target("plain hits a second", hits, "answers_per_s", *rate, at="least")
    yield Target("CPU a stream hit", stream_hits, cpu, Bound(1.3, BARE_HANDLER), Bound(1.3, NGINX_CACHE))
    for what in ("plain", "stream"):
        scenario, from_memory = f"{what} hits, 1 at once", (Bound(3, REPRISE), Bound(2, REPRISE))
        yield Target(f"a {what} hit from disk, p50", scenario, "whole_p50_us", *from_memory, subject=FROM_DISK)
    yield from _of_stores(scale.stores)
    one, many = "100 listeners on one stream", "100 streams"
    joined = Bound(0.5, REPRISE), Bound(0.3, REPRISE)
    yield Target("CPU a frame to each of 100 listeners", one, frame_cpu, *joined, against=many)
    yield Target(
        "kB an idle stream", f"{scale.idle_streams:,} idle streams", "kb_per_idle_stream", Bound(40), Bound(18)
    )
    start = "start, and memory at rest"
    yield Target("ms to the first answer", start, "start_ms", Bound(600), Bound(300))
    yield Target("MB at rest", start, "rest_rss_mb", Bound(80), Bound(50))
    on_all_cores, one_worker = "plain hits, 64 at once, on all cores", Bound(1.7, ONE_WORKER)
    figure = "answers_per_s_alone"
    yield Target(
        "plain hits a second, two workers", on_all_cores, figure, one_worker, None, at="least", subject=TWO_WORKERS
    )
    yield from _of_misses(scale)


def _of_stores(stores: Sequence[int]) -> Iterator[Target]:
    for from_disk in (False, True):
        few, many = (filled_name(count, from_disk=from_disk) for count in (min(stores), max(stores)))
        where = "disk" if from_disk else "memory"
        yield Target(
            f"a hit from {where} among {max(stores):,} recordings, p50",
            "plain hits among many, 1 at once",
            "whole_p50_us",
            Bound(1.3, few),
            Bound(1.1, few),
            subject=many,
        )


def _of_misses(scale: Scale) -> Iterator[Target]:
    missed, among = missed_name(scale), f"the nearest of {scale.searched:,} recordings"
    yield Target(f"ms to name {among}, the first time", missed, "first_miss_ms", Bound(1000), None)
    yield Target(f"ms to name {among}, at most", missed, "miss_max_ms", Bound(1000), None)
    for at_once in (1, 32):
        yield Target(
            f"CPU a hit while one misses, {at_once} at once",
            beside_name(scale, at_once),
            "proxy_cpu_us_per_answer",
            Bound(1.1, ALONE),
            None,
            subject=MISSING,
        )
        yield Target(
            f"hits a second while one misses, {at_once} at once",
            beside_name(scale, at_once),
            "answers_per_s",
            Bound(0.9, COUNTING),
            Bound(0.95, ALONE),
            at="least",
            subject=MISSING,
        )


def verdicts(all_targets: Iterator[Target], figures: Figures) -> Iterator[Verdict]:
    for target in all_targets:
        yield _verdict(target, "must", target.must, figures)
        if target.aim is not None:
            yield _verdict(target, "aim", target.aim, figures)


def _verdict(target: Target, level: Literal["must", "aim"], bound: Bound, figures: Figures) -> Verdict:
    own = target.scenario, target.subject
    if bound.row is None:
        measured = figures.median(*own, target.figure)
    else:
        measured = figures.ratio(target.figure, own, (target.against or target.scenario, bound.row))
    is_most = target.at == "most"
    reached = None if measured is None else measured <= bound.value if is_most else measured >= bound.value
    said = f"{'<=' if is_most else '>='} {bound.value:g}{f' x {bound.row}' if bound.row else ''}"
    return Verdict(target.what, level, said, bound.row is not None, measured, reached)
