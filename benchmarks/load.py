"""The load generator, a program of its own: orders on standard input, outcomes on standard output.

The rule: every answer is checked to the byte, and one that is wrong ends the order.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial

import orjson

from benchmarks import precise
from benchmarks.connection import Answer, Connection, Wrong
from benchmarks.orders import Order, Outcome
from benchmarks.questions import Question

_PATIENCE_S = 60.0  # for answers that were due
_DIALLED_AT_ONCE = 32  # fewer than any server's backlog, since a SYN that is dropped comes again after a second


class _Crowd:
    """The connections of one order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._connections: list[Connection] = []
        self._busy = 0
        self._asked = 0
        self._deadline_s = 0.0
        self._whole_ns: list[int] = []
        self._paced: list[Answer] = []

    async def dial(self) -> None:
        dialled = 0
        while dialled < self._order.connections:
            batch = min(_DIALLED_AT_ONCE, self._order.connections - dialled)
            await asyncio.gather(*(self._dial_one() for _ in range(batch)))
            dialled += batch

    async def ask(self) -> Outcome:
        """Ask until the order is carried out.

        Raises:
            Wrong, OSError: an answer was not right, or did not come.
            TimeoutError: it did not come in time.
        """
        started_s = time.monotonic()
        self._deadline_s = started_s + (self._order.seconds or _PATIENCE_S)
        for turn, connection in enumerate(self._connections):
            self._loop.call_later(turn * self._order.spread_s / len(self._connections), self._begin, connection)
        async with asyncio.timeout((self._order.seconds or 0) + _PATIENCE_S):
            await self._over
        elapsed_s = time.monotonic() - started_s
        return Outcome(len(self._whole_ns), elapsed_s, self._times())

    async def hold(self) -> Outcome:
        """Ask once on each connection, until each has its first frame and is silent."""
        answers = [connection.ask(self._next()) for connection in self._connections]
        async with asyncio.timeout(_PATIENCE_S):
            # An event would have to be looked after with each piece of every answer.
            while not all(answer.pieces and answer.frame_times() for answer in answers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return Outcome(len(answers))

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    async def _dial_one(self) -> None:
        _, connection = await self._loop.create_connection(
            lambda: Connection(self._answered, self._fail, self._order.port), "127.0.0.1", self._order.port
        )
        self._connections.append(connection)

    def _begin(self, connection: Connection) -> None:
        if self._may_ask():
            self._busy += 1
            connection.ask(self._next())

    def _answered(self, connection: Connection, answer: Answer) -> None:
        try:
            self._take(answer)
        except Wrong as wrong:
            self._fail(wrong)
            return
        if self._may_ask():
            connection.ask(self._next())
            return
        self._busy -= 1
        if not self._busy and not self._over.done():
            self._over.set_result(None)

    def _take(self, answer: Answer) -> None:
        self._whole_ns.append(answer.time_ns)
        if answer.question.gap_us:
            # Looked through when all is over, or the time it takes would be counted as the subject's.
            self._paced.append(answer)
        else:
            answer.check()

    def _may_ask(self) -> bool:
        return self._asked != self._order.count and time.monotonic() < self._deadline_s

    def _next(self) -> Question:
        order = self._order
        offset = self._asked % order.distinct if order.distinct else self._asked
        self._asked += 1
        return Question(order.first + offset, order.frames, order.gap_us)

    def _fail(self, fault: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(fault)

    def _times(self) -> dict[str, float]:
        times = _spread("whole", self._whole_ns)
        if self._paced:
            streams = [(answer.asked_ns, answer.frame_times()) for answer in self._paced]
            times |= _spread("first_byte", [frames[0][1] - asked_ns for asked_ns, frames in streams])
            times |= _spread("frame", [arrived - sent for _, frames in streams for sent, arrived in frames])
        return times


def _spread(what: str, times_ns: Sequence[int]) -> dict[str, float]:
    ordered = sorted(times_ns)
    at = partial(_quantile_us, ordered)
    return {f"{what}_p50_us": at(0.5), f"{what}_p99_us": at(0.99), f"{what}_max_us": at(1.0)}


def _quantile_us(ordered_ns: Sequence[int], share: float) -> float:
    return ordered_ns[min(int(len(ordered_ns) * share), len(ordered_ns) - 1)] / 1000


async def _carry_out(order: Order) -> tuple[Outcome, _Crowd | None]:
    """The outcome, and the crowd if it is to be held."""
    crowd = _Crowd(order)
    try:
        await crowd.dial()
        if order.hold:
            return await crowd.hold(), crowd
        outcome = await crowd.ask()
    except TimeoutError:
        outcome = Outcome(wrong="an answer did not come in time")
    except (Wrong, OSError) as fault:
        outcome = Outcome(wrong=str(fault))
    crowd.close()
    await asyncio.sleep(0)
    return outcome, None


def _main() -> None:
    held: _Crowd | None = None
    with precise.runner() as runner:
        for line in sys.stdin.buffer:
            if held is not None:
                held.close()
            outcome, held = runner.run(_carry_out(Order(**orjson.loads(line))))
            sys.stdout.buffer.write(orjson.dumps(outcome) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
