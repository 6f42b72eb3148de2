"""A miss in replay mode has the nearest recording looked for: how long that takes, and what hits feel of it.

The rule: a miss counts only if it names the right recording; hits are asked alone, while such a miss is always under
way, and beside a process that only counts, in turns.

Nothing is pinned but the load generator, as a user pins nothing. On two cores the process that searches shares one with
the proxy or with the load generator, as whatever else runs there would, so the ratio to hits alone holds what a busy
core costs. What the search costs besides is the difference to the process that counts, which is as nice and never
touches the proxy. Where each has a core of its own both should be as hits alone.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event

from benchmarks import questions
from benchmarks.filling import numbers, recordings
from benchmarks.orders import Order
from benchmarks.processes import Program
from benchmarks.questions import Question
from benchmarks.report import Measurement
from benchmarks.scenarios import Scale, beside_name, missed_name
from benchmarks.stage import BytesWrong, Running, Stage
from benchmarks.subjects import ALONE, COUNTING, MISSING, REPRISE, replaying
from proxy.key import SHORT_KEY

Figures = dict[str, float]

_IN_MEMORY = 100  # recordings that are asked for again and again
_STRIDE = 7_919  # a prime: all of the store is missed by a word, and never in its own order
_WORD, _OTHER_WORD = b" frames", b" pieces"
_PATIENCE_S = 60.0
_TURNS = 4  # with each proxy that is started; one where it is to be quick
# As nice as the process that searches; the line says that it begins.
_COUNT = "import os\nos.nice(10)\nprint(flush=True)\nwhile True: pass"

_Beside = Callable[[], AbstractContextManager[Sequence[float]]]
"""What goes on while hits are asked; the milliseconds that each miss took meanwhile."""


def measure(stage: Stage, scale: Scale) -> Iterator[Measurement]:
    """Measure, and say on standard error how far it has come; some ten seconds, or 140 in full.

    Raises:
        BytesWrong: a hit was not right, a miss named another recording, or the upstream was asked.
        ProgramFailed: a program does not do what it was started for.
    """
    asked, turns = stage.upstream_answers(), 1 if scale.is_quick else _TURNS
    for number in range(scale.rounds):
        print(f"{missed_name(scale)}, and hits beside it, round {number + 1} ...", file=sys.stderr, flush=True)
        # It has not searched before: each round has a first miss.
        with (
            stage.started(replaying(scale.searched)) as running,
            closing(Misses(running.port, scale.searched)) as misses,
        ):
            yield Measurement(missed_name(scale), REPRISE, number, _missed(scale, running, misses))
            for turn in range(number * turns, (number + 1) * turns):
                yield from _compared(turn, stage, scale, running, misses)
    if stage.upstream_answers() > asked:
        raise BytesWrong("the upstream was asked in replay mode")


class Misses:
    """A client whose questions differ from recorded ones in a word, each from another one."""

    def __init__(self, port: int, of: int) -> None:
        """`of`: recordings in the store."""
        self._connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
        self._numbers = (numbers(of)[turn * _STRIDE % of] for turn in count())

    def ask(self) -> float:
        """The milliseconds until a miss was answered.

        Raises:
            BytesWrong: it was not answered, or not told which recording comes nearest.
        """
        (due,) = recordings([next(self._numbers)])
        body = due.request.body.replace(_WORD, _OTHER_WORD)
        began_s = time.perf_counter()
        try:
            self._connection.request("POST", questions.PATH.decode(), body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            said = answer.read()
        except (OSError, HTTPException) as error:
            raise BytesWrong(f"a miss was not answered: {error!r}") from error
        elapsed_ms = (time.perf_counter() - began_s) * 1000
        named = f"nearest recording is {due.key[:SHORT_KEY]}: `/messages/1/content` differs at character"
        if answer.status != 504 or named.encode() not in said:
            raise BytesWrong(f"a miss was to hear that its {named}, and was told {answer.status}: {said[:400]!r}")
        return elapsed_ms

    def close(self) -> None:
        self._connection.close()


def _missed(scale: Scale, running: Running, misses: Misses) -> Figures:
    """Misses alone, one after the other."""
    program = running.program
    assert program is not None  # noqa: S101 - it was started
    first_ms = misses.ask()
    all_s, own_s = program.cpu_s(), program.own_cpu_s()
    later_ms = [misses.ask() for _ in range(scale.searches)]
    own_ms_each = (program.own_cpu_s() - own_s) * 1000 / scale.searches
    all_ms_each = (program.cpu_s() - all_s) * 1000 / scale.searches
    return {
        "first_miss_ms": first_ms,
        "miss_p50_ms": median(later_ms),
        "miss_max_ms": max(later_ms),
        "proxy_cpu_ms_each": own_ms_each,
        "search_cpu_ms_each": all_ms_each - own_ms_each,
    }


def _compared(turn: int, stage: Stage, scale: Scale, running: Running, misses: Misses) -> Iterator[Measurement]:
    """The same hits with nothing beside them, with misses, and with a process that counts; not always in that order."""
    stage.perform(_order(running, connections=1, count=_IN_MEMORY))
    beside: dict[str, _Beside] = {ALONE: _nothing, MISSING: partial(_always_missing, misses), COUNTING: _counting}
    names = list(beside)
    start = turn % len(names)
    for at_once in (1, 32):
        order = _order(running, connections=at_once, milliseconds=scale.milliseconds)
        found = {name: _hits(stage, order, running, beside[name]) for name in names[start:] + names[:start]}
        for name in names:
            compared = {} if name == ALONE else _against(found[ALONE], found[name])
            yield Measurement(beside_name(scale, at_once), name, turn, found[name] | compared)


def _hits(stage: Stage, order: Order, running: Running, beside: _Beside) -> Figures:
    program = running.program
    assert program is not None  # noqa: S101 - it was started
    with beside() as missed_ms:
        load_s, own_s = stage.load_cpu_s(), program.own_cpu_s()
        outcome = stage.perform(order)
        load_s, own_s = stage.load_cpu_s() - load_s, program.own_cpu_s() - own_s
    figures = {
        "answers_per_s": outcome.answers / outcome.elapsed_s,
        "proxy_cpu_us_per_answer": own_s * 1e6 / outcome.answers,
        "whole_p50_us": outcome.times["whole_p50_us"],
        "p99_us": outcome.times["whole_p99_us"],
        "load_core_busy": load_s / outcome.elapsed_s,
    }
    return figures | ({"miss_p50_ms": median(missed_ms), "miss_max_ms": max(missed_ms)} if missed_ms else {})


def _against(alone: Figures, figures: Figures) -> Figures:
    compared = {
        "rate_to_alone": "answers_per_s",
        "cpu_to_alone": "proxy_cpu_us_per_answer",
        "p50_to_alone": "whole_p50_us",
        "p99_to_alone": "p99_us",
    }
    return {name: figures[figure] / alone[figure] for name, figure in compared.items()}


def _order(running: Running, *, connections: int, count: int = 0, milliseconds: int = 0) -> Order:
    return Order(
        question=Question(numbers(running.subject.recordings).start),
        port=running.port,
        connections=connections,
        distinct=_IN_MEMORY,
        count=count,
        milliseconds=milliseconds,
    )


@contextmanager
def _nothing() -> Iterator[Sequence[float]]:
    yield ()


@contextmanager
def _always_missing(misses: Misses) -> Iterator[Sequence[float]]:
    """One miss after the other; the last one ends alone, soon after the last hit."""
    missed_ms: list[float] = []
    over = Event()

    def ask() -> None:
        while not over.is_set():
            missed_ms.append(misses.ask())

    with ThreadPoolExecutor(1) as client:
        asking = client.submit(ask)
        try:
            yield missed_ms
        finally:
            over.set()
        asking.result()


@contextmanager
def _counting() -> Iterator[Sequence[float]]:
    with TemporaryDirectory(prefix="reprise-benchmark-") as directory:
        program = Program((sys.executable, "-c", _COUNT), Path(directory), talks=True)
        try:
            program.hear()
            yield ()
        finally:
            program.end()
