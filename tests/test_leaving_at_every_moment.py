"""Whoever leaves a shared answer, and whenever: the others lose nothing and notice nothing.

Of those who wait, one reads from the upstream. Which one is chance; where all leave but one, it is among them for at
least one choice of that one.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import orjson
import pytest

from proxy import sse
from proxy.sse import Ending
from tests.conftest import Company, Log, StartProxy
from tests.exchanges import left, listeners, start_asking, store_of, take, until, word
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    PATIENCE_S,
    RESET,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    ScriptedUpstream,
    chunk,
    event,
    plain,
    request_bytes,
    sse_head,
    stream,
)
from tests.moments import AT_THE_END, MOMENTS, HeldUp, Moment

LEAVERS = {
    "the first": [0],
    "one in the middle": [1],
    "the last": [3],
    "all but the first": [1, 2, 3],
    "all but the last": [0, 1, 2],
}


@pytest.mark.parametrize("leavers", LEAVERS.values(), ids=LEAVERS)
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
async def test_nobody_notices_who_leaves(
    moment: Moment, leavers: Sequence[int], start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The rest of it comes to all who stay, and is recorded; nothing is cancelled, and nothing is asked again."""
    held = await HeldUp.at(moment, start_proxy, upstream, cache__linger="0")
    everyone = [await held.ask() for _ in range(4)]
    staying = [waiting for number, waiting in enumerate(everyone) if number not in leavers]

    for leaver in leavers:
        await everyone[leaver].leave()
    await held.noticed(len(staying))
    assert listeners(held.proxy) == len(staying)
    await held.go_on()

    assert [await waiting.whole() for waiting in staying] == [moment.body] * len(staying)
    told = [(await waiting.response()).get("x-cache-status") for waiting in staying]
    assert told == [*(["MISS"] if 0 not in leavers else []), *["JOINED"] * 3][: len(staying)]
    assert await word(held.proxy.ask(moment.asked)) == "HIT"
    assert held.requests_seen == 1
    ended = [line for line in [await log.line(number) for number in range(5)] if line["cache"] in ("MISS", "JOINED")]
    assert [line["stored"] for line in ended] == [True] * 4
    cut_short = 0 if moment is AT_THE_END else len(leavers)
    assert [line["outcome"] for line in ended].count("client_disconnected") == cut_short


# Schedules that need a finer hand


async def test_they_come_and_go_and_whoever_stays_hears_all(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """At each frame the one that came first leaves, and another comes: it has everything from byte 0 at once."""
    proxy = await start_proxy(cache__linger="0")
    frames = [event(str(number)) for number in range(20)]
    barriers, end = [Barrier() for _ in frames], Barrier()
    held = [part for pair in zip(barriers, map(chunk, frames), strict=True) for part in pair]
    upstream.will_send(sse_head(), *held, end, chunk(DONE) + LAST_CHUNK)
    present = [await proxy.ask(STREAMED) for _ in range(3)]

    for number, (barrier, frame) in enumerate(zip(barriers, frames, strict=True)):
        barrier.release()
        for response in present:
            assert await response.next_chunk() == frame
        await present.pop(0).leave()
        await until(lambda: listeners(proxy) == 2)
        present.append(await proxy.ask(STREAMED))
        await take(present[-1], b"".join(frames[: number + 1]))

    end.release()
    assert [await response.body() for response in present] == [DONE] * 3
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("linger", ["0", "10m"])
async def test_one_that_comes_in_the_instant_in_which_the_last_one_leaves_gets_a_whole_answer(
    linger: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Of the one that was left, or of a new one: never of one that is being abandoned."""
    proxy = await start_proxy(cache__linger=linger)
    for number in range(60):
        asked, barrier = {**STREAMED, "seed": number}, Barrier()
        upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD), chunk(DONE) + LAST_CHUNK)
        leaving = await proxy.ask(asked)
        await take(leaving, HELLO)
        coming = await proxy.connect()
        for _ in range(number % 6):  # of the event loop's turns, which is all that lies between them
            await asyncio.sleep(0)

        leaving._writer.transport.abort()
        for _ in range(number % 5):
            await asyncio.sleep(0)
        coming.send(request_bytes("POST", CHAT, [("Content-Type", "application/json")], orjson.dumps(asked)))
        answer = await coming.response()
        barrier.release()

        assert await answer.body() == STREAM
        assert answer.get("x-cache-status") in (("MISS", "JOINED") if linger == "0" else ("JOINED",))


async def test_an_upstream_that_breaks_off_after_some_have_left_breaks_it_off_for_the_rest(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """They have all that came, and no clean end."""
    proxy = await start_proxy(cache__linger="0")
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD)[:-9], RESET)
    everyone = [await proxy.ask(STREAMED) for _ in range(4)]
    for response in everyone:
        await take(response, HELLO)
    for response in everyone[::2]:
        await response.leave()
    await until(lambda: listeners(proxy) == 2)

    barrier.release()

    for response in everyone[1::2]:
        assert (HELLO + WORLD).startswith(await response.body_broken_off())


# While a thread is at work


LONG = [event("x" * 60_000) for _ in range(8)]
"""So long that it is judged in a thread."""


class Gate:
    """Where a thread waits, each time until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = 0
        self._open = threading.Event()

    def pass_through(self) -> None:
        self.reached += 1
        assert self._open.wait(PATIENCE_S)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Stands before the first judgement."""
    gate = Gate()

    def slowly(judge: Callable[..., Ending]) -> Callable[..., Ending]:
        def judge_slowly(*asked: object) -> Ending:
            gate.pass_through()
            return judge(*asked)

        return judge_slowly

    for name in ("stream_ending", "plain_ending"):
        monkeypatch.setattr(sse, name, slowly(getattr(sse, name)))
    yield gate
    gate.open()


@pytest.mark.parametrize("leavers", [[0], [1], [2], [0, 1], [1, 2], [0, 2]], ids=str)
async def test_who_leaves_while_the_answer_is_judged_takes_nothing_away(
    leavers: Sequence[int], start_proxy: StartProxy, upstream: ScriptedUpstream, judging: Gate
) -> None:
    """Whoever began to judge it: it is judged for those who stay, who get the end, and recorded."""
    proxy = await start_proxy(cache__linger="0")
    upstream.will_send(sse_head(), *map(chunk, LONG), chunk(DONE) + LAST_CHUNK)
    everyone = [await proxy.ask(STREAMED) for _ in range(3)]
    for response in everyone:
        await take(response, b"".join(LONG) + DONE)
    await until(lambda: judging.reached > 0)

    for leaver in leavers:
        await everyone[leaver].leave()
    await until(lambda: proxy.app._traffic.active == 3 - len(leavers))
    judging.open()

    for number in {0, 1, 2}.difference(leavers):
        assert await everyone[number].next_chunk() == b""
    assert await word(proxy.ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 1


async def test_one_that_has_every_byte_of_a_plain_answer_was_not_cut_short(
    start_proxy: StartProxy, upstream: ScriptedUpstream, judging: Gate, log: Log
) -> None:
    """Its length has told it where the end is; what the proxy still has to do is none of its business."""
    proxy = await start_proxy(cache__linger="0")
    answer = orjson.dumps({"object": "chat.completion", "choices": [], "text": "x" * 300_000})
    upstream.will_send(plain(answer))
    response = await proxy.ask()
    assert await response.body() == answer
    await until(lambda: judging.reached > 0)

    await left(proxy, response)
    judging.open()

    line = await log.line()
    assert (line["outcome"], line["stored"], line.get("error")) == ("complete", True, None)
    assert await word(proxy.ask()) == "HIT"


async def test_when_all_leave_while_the_answer_is_judged_it_is_recorded_all_the_same(
    start_proxy: StartProxy, upstream: ScriptedUpstream, judging: Gate, log: Log
) -> None:
    """They had every byte of it, and so had the proxy."""
    proxy = await start_proxy(cache__linger="0")
    upstream.will_send(sse_head(), *map(chunk, LONG), chunk(DONE) + LAST_CHUNK)
    everyone = [await proxy.ask(STREAMED) for _ in range(3)]
    for response in everyone:
        await take(response, b"".join(LONG) + DONE)
    await until(lambda: judging.reached > 0)

    for response in everyone:
        await response.leave()
    await until(lambda: proxy.app._traffic.active == 0)
    judging.open()

    assert [(await log.line(number))["stored"] for number in range(3)] == [True] * 3
    assert await word(proxy.ask(STREAMED)) == "HIT"


async def test_one_that_comes_while_an_answer_is_judged_that_all_have_left_has_all_of_it(
    start_proxy: StartProxy, upstream: ScriptedUpstream, judging: Gate
) -> None:
    """It is under way until it is recorded."""
    proxy = await start_proxy(cache__linger="10m")
    upstream.will_send(sse_head(), *map(chunk, LONG), chunk(DONE) + LAST_CHUNK)
    first = await proxy.ask(STREAMED)
    await take(first, b"".join(LONG) + DONE)
    await until(lambda: judging.reached > 0)
    await left(proxy, first)

    back = await proxy.ask(STREAMED)
    await take(back, b"".join(LONG) + DONE)
    judging.open()

    assert (back.get("x-cache-status"), await back.body()) == ("JOINED", b"")
    assert await word(proxy.ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("leaver", [0, 1, 2])
@pytest.mark.parametrize("recorded", [False, True], ids=["nothing there", "a recording"])
async def test_who_leaves_while_the_disk_is_read_takes_nothing_away(
    *,
    recorded: bool,
    leaver: int,
    start_proxy: StartProxy,
    upstream: ScriptedUpstream,
    company: Company,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The look-up is one for all; whoever asked for it first, the others get what it finds."""
    upstream.will_send(*stream())
    if recorded:
        recorder = await start_proxy()
        await word(recorder.ask(STREAMED))
        await recorder.app.stop()
    proxy = await start_proxy(cache__linger="0")
    company(proxy)
    gate, shelf = Gate(), store_of(proxy)._shelf
    read = shelf.get_short

    def read_slowly(keys: Sequence[str]) -> dict[str, bytes | None]:
        gate.pass_through()
        return read(keys)

    monkeypatch.setattr(shelf, "get_short", read_slowly)
    asking = [await start_asking(proxy) for _ in range(3)]
    await until(lambda: proxy.app._traffic.active == 3 and gate.reached > 0)

    await asking.pop(leaver).close()
    await until(lambda: proxy.app._traffic.active == 2)
    gate.open()

    answers = [await connection.response() for connection in asking]
    assert [await answer.body() for answer in answers] == [STREAM, STREAM]
    told = sorted(answer.get("x-cache-status") or "" for answer in answers)
    assert told == (["HIT", "HIT"] if recorded else ["JOINED", "MISS"])
    assert (upstream.requests_seen, gate.reached) == (1, 1)
