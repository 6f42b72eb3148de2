"""What lingering is for: clients that come back find their answer going on, or recorded; all else is left at once."""

import asyncio

import orjson
import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import left, listeners, take, until, word
from tests.harness import (
    ANSWER,
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
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
)


async def test_one_that_comes_back_rejoins_its_answer(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """It gets all of it, what it had before included, and so does the store."""
    proxy = await start_proxy(cache__linger="10m")
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD), chunk(DONE) + LAST_CHUNK)
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    await left(proxy, response)

    back = await proxy.ask(STREAMED)
    assert back.get("x-cache-status") == "JOINED"
    await take(back, HELLO)
    # Or the time to linger could run out while somebody listens.
    await until(lambda: not any("_linger" in repr(task) for task in asyncio.all_tasks()))
    barrier.release()

    assert await back.body() == WORLD + DONE
    assert await word(proxy.ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 1


async def test_one_may_come_back_again_and_again(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Each time the linger begins anew, and nothing of the answer is lost or doubled."""
    proxy = await start_proxy(cache__linger="10m")
    frames = [event(str(number)) for number in range(6)]
    barriers = [Barrier() for _ in frames]
    held = [part for pair in zip(barriers, map(chunk, frames), strict=True) for part in pair]
    end = Barrier()
    upstream.will_send(sse_head(), *held, end, chunk(DONE) + LAST_CHUNK)

    for number, barrier in enumerate(barriers):
        response = await proxy.ask(STREAMED)
        barrier.release()
        await take(response, b"".join(frames[: number + 1]))
        if number < len(frames) - 1:
            await left(proxy, response)

    end.release()
    assert await response.body() == DONE
    assert upstream.requests_seen == 1


async def test_one_that_comes_back_while_the_head_is_awaited_rejoins_too(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """An SDK that has lost patience asks again; it must not be paid for twice."""
    proxy = await start_proxy(cache__linger="10m")
    silence = Barrier()
    upstream.will_send(silence, plain(ANSWER))
    connection = await proxy.connect()
    connection.send(request_bytes("POST", CHAT, [("Content-Type", "application/json")], orjson.dumps(PROMPT)))
    await silence.reached.wait()
    await connection.close()
    await until(lambda: proxy.app._traffic.active == 0)

    again = await proxy.connect()
    retried = [("Content-Type", "application/json"), ("X-Stainless-Retry-Count", "1")]
    again.send(request_bytes("POST", CHAT, retried, orjson.dumps(PROMPT)))
    await until(lambda: listeners(proxy) == 1)
    silence.release()

    response = await again.response()
    assert (response.get("x-cache-status"), await response.body()) == ("JOINED", ANSWER)
    assert upstream.requests_seen == 1


async def test_one_that_comes_back_late_finds_the_recording(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The answer was read on without it; the log says that the client left, and that it was stored."""
    proxy = await start_proxy(cache__linger="10m")
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD), chunk(DONE) + LAST_CHUNK)
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    await left(proxy, response)
    barrier.release()

    line = await log.line()

    assert (line["outcome"], line["stored"], line["bytes"]) == ("client_disconnected", True, len(HELLO))
    hit = await proxy.ask(STREAMED)
    assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", STREAM)


@pytest.mark.parametrize("why", ["no-store", "passthrough", "uncacheable", "another route"])
async def test_linger_is_for_what_can_be_recorded(
    why: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """What nobody could come back to is left at once."""
    proxy = await start_proxy(cache__linger="10m", cache__mode="passthrough" if why == "passthrough" else "cache")
    upstream.will_send(sse_head(), chunk(HELLO), Barrier())
    response = await proxy.ask(
        b"not JSON" if why == "uncacheable" else STREAMED,
        "/v1/images/generations" if why == "another route" else CHAT,
        {"Cache-Control": "no-store"} if why == "no-store" else {},
    )
    await take(response, HELLO)

    await response.leave()

    await upstream.wait_until(lambda: upstream.connections == 0)


async def test_what_has_become_too_long_to_record_is_not_read_on(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Whether it was too long when its client left, or becomes so later."""
    proxy = await start_proxy(cache__linger="10m", cache__max_recording_size=len(HELLO))
    upstream.will_send(sse_head(), chunk(HELLO), chunk(WORLD), Barrier())
    response = await proxy.ask(STREAMED)
    await take(response, HELLO + WORLD)
    await response.leave()
    await upstream.wait_until(lambda: upstream.connections == 0)

    later = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), later, chunk(WORLD), Barrier())
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    await left(proxy, response)
    later.release()
    await upstream.wait_until(lambda: upstream.connections == 0)
