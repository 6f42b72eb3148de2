"""What is done to each subject, in the order of the table, and how much of it.

The rule: a scenario does the same to every subject that takes part in it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import doing
from benchmarks.doing import Figures
from benchmarks.questions import Question
from benchmarks.stage import Running, Stage
from benchmarks.subjects import Kind

GROUPS = (
    "misses",
    "streams",
    "hits",
    "joins",
    "bodies",
    "filled",
    "workers",
    "start",
    "memory",
    "idle",
    "nearest",
    "store",
)

_CROWD = 100  # listeners, or streams
_BODIES = {"2 KB": 2_000, "200 KB": 200_000, "2 MB": 2_000_000}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    rounds: int
    repeats: int
    """Of what scatters by a tenth from one second to the next, in each round."""
    milliseconds: int
    """Each scenario that asks one question after the other, a round."""
    streams_at_once: Sequence[int]
    """Besides one alone."""
    streams_each: int
    """Paced streams that each connection asks for, one after the other."""
    short_streams: int
    """Of which only the first byte counts."""
    idle_streams: int
    stores: Sequence[int]
    """Recordings of each store that is filled beforehand."""
    searched: int
    """Recordings of the store in which the nearest is looked for."""
    searches: int
    """Each round, when nothing else is asked."""
    hour: int
    """Requests after which memory is looked at again: ten a second for an hour."""
    is_quick: bool
    """What is told apart from the rest by far is measured once."""


QUICK = Scale(
    rounds=3,
    repeats=1,
    milliseconds=200,
    streams_at_once=(60, 500),
    streams_each=1,
    short_streams=40,
    idle_streams=500,
    stores=(1_000, 20_000),
    searched=1_000,
    searches=5,
    hour=1_200,
    is_quick=True,
)
FULL = Scale(
    rounds=5,
    repeats=3,
    milliseconds=1_000,
    streams_at_once=(20, 60, 500),
    streams_each=2,
    short_streams=300,
    idle_streams=5_000,
    stores=(1_000, 100_000, 1_000_000),
    searched=10_000,
    searches=5,
    hour=36_000,
    is_quick=False,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that is done to each subject once a round, or a few times."""

    name: str
    group: str
    kind: Kind
    measure: Callable[[Stage, Running], Figures]
    prepare: Callable[[Stage, Running], object] | None = None
    """Done before the first round."""
    fresh: bool = False
    """The subject is started anew each time."""
    light: bool = False
    """Those that are slow take part, too."""
    once: bool = False
    """One round is enough."""
    repeats: int = 1
    """How often it is done in a round."""


def scenarios(scale: Scale) -> Iterator[Scenario]:
    """All of them, in the order of the table."""
    yield from _misses(scale)
    yield from _streams(scale)
    yield from _hits(scale)
    yield from _joins()
    yield from _bodies(scale)
    yield from _filled(scale)
    yield _of_workers(scale)
    yield Scenario("start, and memory at rest", "start", "start", doing.start, fresh=True, light=True)
    hour = partial(doing.hour, scale.hour)
    yield Scenario(f"memory after {scale.hour:,} requests", "memory", "hour", hour, fresh=True, once=True)
    idle = partial(doing.idle, scale.idle_streams)
    yield Scenario(f"{scale.idle_streams:,} idle streams", "idle", "idle", idle, fresh=True, once=scale.is_quick)


def missed_name(scale: Scale) -> str:
    return f"a miss in replay among {scale.searched:,}"


def beside_name(scale: Scale, at_once: int) -> str:
    return f"hits in replay among {scale.searched:,}, {at_once} at once"


def _of_workers(scale: Scale) -> Scenario:
    question = Question(doing.RECORDED_FROM)
    hits, prepare = partial(doing.worker_hits, scale.milliseconds, question), partial(doing.record, question)
    return Scenario("plain hits, 64 at once, on all cores", "workers", "workers", hits, prepare, repeats=scale.repeats)


def _misses(scale: Scale) -> Iterator[Scenario]:
    for at_once in (1, 32):
        measure, warm = partial(doing.misses, at_once, scale.milliseconds, 0), partial(doing.misses, at_once, 100, 0)
        name = f"plain misses, {at_once} at once"
        yield Scenario(name, "misses", "miss", measure, warm, light=True, repeats=scale.repeats)


def _streams(scale: Scale) -> Iterator[Scenario]:
    lone = partial(doing.lone_streams, scale.short_streams, scale.streams_each)
    yield Scenario("paced streams, 1 at once", "streams", "stream", lone, light=True)
    for at_once in scale.streams_at_once:
        measure = partial(doing.paced_streams, at_once, scale.streams_each)
        yield Scenario(f"paced streams, {at_once} at once", "streams", "stream", measure)
    fast = partial(doing.fast_streams, 8, scale.milliseconds)
    yield Scenario("streams at full speed, 8 at once", "streams", "stream", fast)


def _hits(scale: Scale) -> Iterator[Scenario]:
    for what, frames in (("plain", 0), ("stream", doing.FRAMES)):
        for at_once in (1, 32):
            question = Question(doing.RECORDED_FROM, frames)
            measure, prepare = (
                partial(doing.hits, at_once, scale.milliseconds, question),
                partial(doing.record, question),
            )
            yield Scenario(f"{what} hits, {at_once} at once", "hits", "hit", measure, prepare, light=at_once == 1)


def _joins() -> Iterator[Scenario]:
    yield Scenario(f"{_CROWD} streams", "joins", "separate", partial(doing.crowd, _CROWD, streams=_CROWD))
    yield Scenario(f"{_CROWD} listeners on one stream", "joins", "joined", partial(doing.crowd, _CROWD, streams=1))


def _bodies(scale: Scale) -> Iterator[Scenario]:
    for size, body_bytes in _BODIES.items():
        misses = partial(doing.misses, 1, scale.milliseconds, body_bytes)
        yield Scenario(f"plain misses, {size} asked", "bodies", "large miss", misses, once=scale.is_quick)
    for size, body_bytes in _BODIES.items():
        question = Question(doing.RECORDED_FROM, body_bytes=body_bytes)
        hits, prepare = partial(doing.hits, 1, scale.milliseconds, question), partial(doing.record, question)
        yield Scenario(f"plain hits, {size} asked", "bodies", "large hit", hits, prepare, once=scale.is_quick)


def _filled(scale: Scale) -> Iterator[Scenario]:
    hits = partial(doing.filled_hits, scale.milliseconds)
    yield Scenario("plain hits among many, 1 at once", "filled", "filled", hits, doing.warm, repeats=scale.repeats)
