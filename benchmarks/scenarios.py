"""What is done to a subject, and the figures that come of it.

The rule: a scenario does the same to every subject, and checks through the upstream's own count that a hit was one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.orders import Order
from benchmarks.stage import BytesWrong, Running, Stage

Figures = dict[str, float]

GROUPS = ("misses", "streams", "hits", "memory", "start")

# Streams as a fast model sends them.
_FRAMES, _GAP_US = 200, 5000
_AT_ONCE = 60
_BEGIN_WITHIN_S = 0.1  # nobody's streams begin in the same instant
# Streams that are asked for their first byte: it comes alone, and the rest soon.
_SHORT_FRAMES, _SHORT_GAP_US = 3, 1000
_SILENCE_US = 900_000_000
# What is asked again: more of it than there are connections, since one key is read from disk for all who ask at once.
_RECORDED_FROM, _RECORDED = 9_000_000_000, 100
_KB_A_MB = 1024


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    rounds: int
    seconds: float
    """Each plain miss or hit scenario, a round."""
    short_streams: int
    streams_each: int
    """Paced streams that each connection asks for, one after the other."""
    idle_streams: int = 500


QUICK = Scale(rounds=3, seconds=0.4, short_streams=60, streams_each=1)
FULL = Scale(rounds=5, seconds=1.5, short_streams=300, streams_each=2)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that is done to each subject once a round."""

    name: str
    group: str
    measure: Callable[[Stage, Running], Figures]
    prepare: Callable[[Stage, Running], object] | None = None
    """Done before the first round."""
    fresh: bool = False
    """The subject is started anew each time; one that has no program is left out."""


def scenarios(scale: Scale) -> Iterator[Scenario]:
    """All of them, in the order of the table."""
    for at_once in (1, 32):
        misses = partial(_misses, at_once, scale.seconds)
        yield Scenario(f"plain misses, {at_once} at once", "misses", misses, partial(_misses, at_once, 0.2))
    yield Scenario("streamed misses, 1 at once", "streams", partial(_lone_streams, scale))
    yield Scenario(f"streamed misses, {_AT_ONCE} at once", "streams", partial(_streams, _AT_ONCE, scale.streams_each))
    for what, frames in (("plain", 0), ("stream", _FRAMES)):
        for at_once in (1, 32):
            hits = partial(_hits, at_once, scale.seconds, frames)
            yield Scenario(f"{what} hits, {at_once} at once", "hits", hits, partial(_record, frames))
    yield Scenario("memory", "memory", partial(_memory, scale.idle_streams), fresh=True)
    yield Scenario("start", "start", _start, fresh=True)


def _misses(at_once: int, seconds: float, stage: Stage, running: Running) -> Figures:
    order = Order(running.port, connections=at_once, first=stage.next_question, seconds=seconds)
    return _per_answer(_carry_out(stage, running, order))


def _lone_streams(scale: Scale, stage: Stage, running: Running) -> Figures:
    """A stream's first byte says little when there is one a second, so it is taken from short ones."""
    short = Order(
        running.port,
        first=stage.next_question,
        count=scale.short_streams,
        frames=_SHORT_FRAMES,
        gap_us=_SHORT_GAP_US,
    )
    first_bytes = {name: value for name, value in _carry_out(stage, running, short).items() if "first_byte" in name}
    return _streams(1, scale.streams_each, stage, running) | first_bytes


def _streams(at_once: int, each: int, stage: Stage, running: Running) -> Figures:
    order = Order(
        running.port,
        connections=at_once,
        first=stage.next_question,
        count=at_once * each,
        frames=_FRAMES,
        gap_us=_GAP_US,
        spread_s=_BEGIN_WITHIN_S,
    )
    figures = _carry_out(stage, running, order)
    if "cpu_s" in figures:
        figures["cpu_ms_per_1000_frames"] = figures["cpu_s"] * 1e6 / (figures["answers"] * _FRAMES)
    return figures


def _record(frames: int, stage: Stage, running: Running) -> None:
    stage.perform(Order(running.port, connections=4, first=_RECORDED_FROM, count=_RECORDED, frames=frames))
    if running.program is not None:
        running.program.settled_cpu_s()


def _hits(at_once: int, seconds: float, frames: int, stage: Stage, running: Running) -> Figures:
    order = Order(
        running.port, connections=at_once, first=_RECORDED_FROM, distinct=_RECORDED, seconds=seconds, frames=frames
    )
    return _per_answer(_carry_out(stage, running, order, hits=running.subject.caches))


def _memory(idle_streams: int, stage: Stage, running: Running) -> Figures:
    if running.program is None:
        return {}
    at_rest = running.program.memory()
    order = Order(
        running.port,
        connections=idle_streams,
        first=stage.next_question,
        frames=_SHORT_FRAMES,
        gap_us=_SILENCE_US,
        hold=True,
    )
    stage.perform(order)
    holding = running.program.memory()
    stage.perform(Order(running.port, connections=0, hold=True))
    return {
        "rest_rss_mb": at_rest.rss_mb,
        "rest_pss_mb": at_rest.pss_mb,
        "kb_per_idle_stream": (holding.pss_mb - at_rest.pss_mb) * _KB_A_MB / idle_streams,
    }


def _start(_: Stage, running: Running) -> Figures:
    return {"start_ms": running.start_ms}


def _per_answer(figures: Figures) -> Figures:
    figures["answers_per_s"] = figures["answers"] / figures["elapsed_s"]
    if "cpu_s" in figures:
        figures["cpu_us_per_answer"] = figures["cpu_s"] * 1e6 / figures["answers"]
    return figures


def _carry_out(stage: Stage, running: Running, order: Order, *, hits: bool = False) -> Figures:
    """Carry out an order, and see what it took and whether the upstream was asked as often as it should be."""
    program, asked = running.program, stage.upstream_answers()
    load_s, cpu_s = stage.load_cpu_s(), program.cpu_s() if program else 0.0
    outcome = stage.perform(order)
    load_core_busy = (stage.load_cpu_s() - load_s) / outcome.elapsed_s
    figures = {"answers": float(outcome.answers), "elapsed_s": outcome.elapsed_s, "load_core_busy": load_core_busy}
    if program:
        figures["cpu_s"] = program.settled_cpu_s() - cpu_s
    reached, due = stage.upstream_answers() - asked, 0 if hits else outcome.answers
    if reached != due:
        raise BytesWrong(f"{outcome.answers} requests made the upstream answer {reached} times in place of {due}")
    return figures | outcome.times
