"""What a scenario does to a subject in one round, and the figures that come of it.

The rule: the upstream's own count is compared each time: a hit that was none, or a miss asked twice, is wrong.
"""

from dataclasses import replace

from benchmarks.orders import Order
from benchmarks.questions import Question
from benchmarks.stage import BytesWrong, Running, Stage
from benchmarks.subjects import READY_NUMBER

Figures = dict[str, float]

# Streams as a fast model sends them.
FRAMES, _GAP_US = 200, 5000
_BEGIN_WITHIN_US = 100_000  # nobody's streams begin in the same instant
_JOIN_WITHIN_US = 4_000  # before the second frame, so that each listener hears nearly all of them as they come
# Streams that are asked for their first byte: it comes alone, and the rest soon.
_SHORT_FRAMES, _SHORT_GAP_US = 3, 1000
_SILENCE_US, _BETWEEN_DIALS_US = 900_000_000, 200
# What is asked again: more of it than there are connections, since one key is read from disk for all who ask at once.
RECORDED_FROM, _RECORDED = 9_000_000_000, 100
_IN_MEMORY = 1_000  # recordings of a larger store that fit there
_STRIDE = 7_919  # a prime: the whole store is gone through, and never in its own order
_AT_ONCE_IN_AN_HOUR, _OF_THEM_STREAMS = 8, 10
_KB_A_MB = 1024


def misses(at_once: int, milliseconds: int, body_bytes: int, stage: Stage, running: Running) -> Figures:
    """New questions, each asked when the last one of its connection is answered."""
    question = Question(stage.next_question, body_bytes=body_bytes)
    return _per_answer(_ask(stage, running, question, connections=at_once, milliseconds=milliseconds))


def lone_streams(short: int, each: int, stage: Stage, running: Running) -> Figures:
    """A stream's first byte says little when there is one a second, so it is taken from short ones."""
    question = Question(stage.next_question, _SHORT_FRAMES, _SHORT_GAP_US)
    figures = _ask(stage, running, question, count=short)
    return paced_streams(1, each, stage, running) | {name: figures[name] for name in figures if "first_byte" in name}


def paced_streams(at_once: int, each: int, stage: Stage, running: Running) -> Figures:
    question = Question(stage.next_question, FRAMES, _GAP_US)
    figures = _ask(stage, running, question, connections=at_once, count=at_once * each, spread_us=_BEGIN_WITHIN_US)
    return _per_frame(figures)


def fast_streams(at_once: int, milliseconds: int, stage: Stage, running: Running) -> Figures:
    question = Question(stage.next_question, FRAMES)
    figures = _ask(stage, running, question, connections=at_once, milliseconds=milliseconds)
    return _per_answer(_per_frame(figures))


def crowd(listeners: int, stage: Stage, running: Running, *, streams: int) -> Figures:
    """As many listeners on so many streams: the first of each has it fetched, the others join."""
    question = Question(stage.next_question, FRAMES, _GAP_US)
    figures = _ask(
        stage,
        running,
        question,
        connections=listeners,
        count=listeners,
        distinct=streams,
        spread_us=_JOIN_WITHIN_US,
        due=streams,
    )
    return _per_frame(figures)


def record(question: Question, stage: Stage, running: Running) -> None:
    """Ask what `hits` will ask again."""
    stage.perform(_order(running, question, connections=4, count=_RECORDED))
    if running.program is not None:
        running.program.settled_cpu_s()


def hits(at_once: int, milliseconds: int, question: Question, stage: Stage, running: Running) -> Figures:
    return _asked_again(stage, running, question, connections=at_once, milliseconds=milliseconds, distinct=_RECORDED)


def warm(stage: Stage, running: Running) -> None:
    """Have in memory what `filled_hits` expects there."""
    first, distinct = _of_filled(running)
    stage.perform(_order(running, first, count=min(distinct, _IN_MEMORY)))


def filled_hits(milliseconds: int, stage: Stage, running: Running) -> Figures:
    """From a store that was filled beforehand."""
    first, distinct = _of_filled(running)
    return _asked_again(stage, running, first, milliseconds=milliseconds, distinct=distinct, stride=_STRIDE)


def _of_filled(running: Running) -> tuple[Question, int]:
    """The first question that is asked, and how many there are: all from disk, from memory what fits there."""
    from benchmarks.filling import numbers  # noqa: PLC0415 - it loads the proxy, which few runs need here

    count = running.subject.recordings
    from_disk = running.subject.environment["REPRISE_CACHE__MEMORY_LIMIT"] == "0"
    return Question(numbers(count).start), count if from_disk else min(count, _IN_MEMORY)


def worker_hits(milliseconds: int, question: Question, stage: Stage, running: Running) -> Figures:
    """On all cores, which the load generator takes part of: what it took is given back in `answers_per_s_alone`."""
    figures = _asked_again(stage, running, question, connections=64, milliseconds=milliseconds, distinct=_RECORDED)
    left = stage.cores.allowed - figures["load_core_busy"]
    workers = min(running.subject.workers, stage.cores.allowed)
    figures["answers_per_s_alone"] = figures["answers_per_s"] * workers / min(workers, left)
    return figures


def start(_: Stage, running: Running) -> Figures:
    assert running.program is not None  # noqa: S101 - what has no program is not started
    at_rest = running.program.memory()
    return {"start_ms": running.start_ms, "rest_rss_mb": at_rest.rss_mb, "rest_pss_mb": at_rest.pss_mb}


def hour(requests: int, stage: Stage, running: Running) -> Figures:
    """Ten requests a second without the waiting: half of them new, then the same again; every tenth a stream."""
    assert running.program is not None  # noqa: S101 - what has no program is not started
    at_rest, new = running.program.memory(), requests // 2
    plain = Question(stage.next_question)
    streamed = Question(stage.next_question + requests, FRAMES)
    for _ in range(2):
        for question, count in ((plain, new - new // _OF_THEM_STREAMS), (streamed, new // _OF_THEM_STREAMS)):
            stage.perform(_order(running, question, connections=_AT_ONCE_IN_AN_HOUR, count=count))
    running.program.settled_cpu_s()
    after = running.program.memory()
    return {"rest_rss_mb": at_rest.rss_mb, "after_rss_mb": after.rss_mb, "after_pss_mb": after.pss_mb}


def idle(streams: int, stage: Stage, running: Running) -> Figures:
    """Streams that have begun and are silent."""
    assert running.program is not None  # noqa: S101 - what has no program is not started
    at_rest = running.program.memory()
    question = Question(stage.next_question, _SHORT_FRAMES, _SILENCE_US)
    order = _order(running, question, connections=streams, spread_us=streams * _BETWEEN_DIALS_US)
    stage.perform(replace(order, hold=True))
    running.program.settled_cpu_s()
    holding = running.program.memory()
    stage.perform(_order(running, question, connections=0))
    return {"kb_per_idle_stream": (holding.pss_mb - at_rest.pss_mb) * _KB_A_MB / streams}


def _order(running: Running, question: Question, **more: int) -> Order:
    subject = running.subject
    same = READY_NUMBER if subject.ready else 0
    return Order(question=question, port=running.port, same=same, remade=subject.remakes, hold=False, **more)


def _asked_again(stage: Stage, running: Running, question: Question, **more: int) -> Figures:
    subject = running.subject
    due = 0 if subject.caches or subject.ready else None
    return _per_answer(_ask(stage, running, question, due=due, **more))


def _ask(stage: Stage, running: Running, question: Question, *, due: int | None = None, **more: int) -> Figures:
    """Ask, and see what it took and whether the upstream was asked as often as is due: once an answer, if None."""
    program, asked = running.program, stage.upstream_answers()
    load_s, cpu_s = stage.load_cpu_s(), program.cpu_s() if program else 0.0
    outcome = stage.perform(_order(running, question, **more))
    load_core_busy = (stage.load_cpu_s() - load_s) / outcome.elapsed_s
    figures = {"answers": float(outcome.answers), "elapsed_s": outcome.elapsed_s, "load_core_busy": load_core_busy}
    if program:
        figures["subject_core_busy"] = (program.cpu_s() - cpu_s) / outcome.elapsed_s
        figures["cpu_s"] = program.settled_cpu_s() - cpu_s
    reached, due = stage.upstream_answers() - asked, outcome.answers if due is None else due
    if reached != due:
        raise BytesWrong(f"{outcome.answers} requests made the upstream answer {reached} times in place of {due}")
    return figures | outcome.times


def _per_answer(figures: Figures) -> Figures:
    figures["answers_per_s"] = figures["answers"] / figures["elapsed_s"]
    if "cpu_s" in figures:
        figures["cpu_us_per_answer"] = figures["cpu_s"] * 1e6 / figures["answers"]
    return figures


def _per_frame(figures: Figures) -> Figures:
    if "cpu_s" in figures:
        figures["cpu_s_per_100000_frames"] = figures["cpu_s"] * 100_000 / (figures["answers"] * FRAMES)
    return figures
