"""One that takes nothing: it neither holds up the others nor makes memory grow, and it never gets a false end."""

import orjson

from proxy import kept
from proxy.live import LiveLog
from tests.by_hand import UpstreamByHand, connect_with_little_room, quiet, read_on, stop_reading
from tests.conftest import Log, StartProxy
from tests.exchanges import listeners, until, word
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    RESET,
    STREAMED,
    WORLD,
    Barrier,
    Connection,
    Part,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    event,
    request_bytes,
    sse_head,
    stream,
)

KIB = 1024
LIMIT = 64 * KIB
BOUND = LIMIT + kept._LEEWAY_BYTES
"""What one answer may take in memory, however slow they are who listen to it."""
PARTS = [event(str(number) + "x" * 16 * KIB) for number in range(192)]
"""About three times as much."""
REQUEST = request_bytes("POST", CHAT, [("Content-Type", "application/json")], orjson.dumps(STREAMED))


async def start_stalling(proxy: Proxy) -> Connection:
    """Ask, and take nothing."""
    client = await connect_with_little_room(proxy)
    proxy._connections.append(client)  # to be closed with the others
    before = listeners(proxy)
    client.send(REQUEST)
    await until(lambda: listeners(proxy) == before + 1)
    return client


def the_log(proxy: Proxy) -> LiveLog:
    """That of the one answer under way."""
    (flight,) = proxy.app._flights._by_key.values()
    return flight._log


def held_bytes(log: LiveLog) -> int:
    return sum(map(len, log.kept.frames))


async def test_one_that_takes_nothing_holds_up_nobody(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """The upstream runs at the pace of the fastest; who was slow finds all of it there."""
    proxy = await start_proxy()
    start = Barrier()
    upstream.will_send(sse_head(), start, *map(chunk, PARTS), chunk(DONE) + LAST_CHUNK)
    slow = await start_stalling(proxy)
    fast = await proxy.ask(STREAMED)
    start.release()

    whole = b"".join(PARTS) + DONE
    assert await fast.body() == whole
    read_on(slow)
    assert await (await slow.response()).body() == whole
    assert await word(proxy.ask(STREAMED)) == "HIT"


async def test_one_that_falls_too_far_behind_is_cut_off(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The fast one gets every byte, what is held stays within its bound, and the slow one sees a broken transfer."""
    proxy = await start_proxy(cache__max_recording_size=LIMIT)
    start = Barrier()
    upstream.will_send(sse_head(), start, *map(chunk, PARTS), chunk(DONE) + LAST_CHUNK)
    slow, fast = await start_stalling(proxy), await proxy.ask(STREAMED)
    frames = the_log(proxy)
    start.release()

    heard, most = b"", 0
    while piece := await fast.next_chunk():
        heard += piece
        most = max(most, held_bytes(frames))
    read_on(slow)

    whole = b"".join(PARTS) + DONE
    assert heard == whole
    assert LIMIT < most <= BOUND
    had = await (await slow.response()).body_broken_off()
    assert whole.startswith(had)
    assert len(had) < len(whole) - kept._LEEWAY_BYTES
    lines = {line["outcome"]: line for line in [await log.line(0), await log.line(1)]}
    assert sorted(lines) == ["client_disconnected", "complete"]
    assert {line["not_stored_because"] for line in lines.values()} == {"too_large"}


async def test_one_that_catches_up_in_time_gets_every_byte(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """It may stall as often as it likes, as long as it does not fall further behind than the bound."""
    proxy = await start_proxy(cache__max_recording_size=LIMIT)
    thirds = [PARTS[start : start + 60] for start in (0, 60, 120)]
    assert all(sum(map(len, third)) < BOUND for third in thirds)
    barriers, end = [Barrier() for _ in thirds], Barrier()
    held: list[Part] = []
    for third, barrier in zip(thirds, barriers, strict=True):
        held += [barrier, *map(chunk, third)]
    upstream.will_send(sse_head(), *held, end, chunk(DONE) + LAST_CHUNK)
    stalling, fast = await start_stalling(proxy), await proxy.ask(STREAMED)
    read_on(stalling)
    slow = await stalling.response()

    for number, barrier in enumerate(barriers):
        stop_reading(stalling)
        barrier.release()
        came = b"".join(map(b"".join, thirds[: number + 1]))
        await hear(fast, came)
        read_on(stalling)
        await hear(slow, came)

    end.release()
    assert [await fast.body(), await slow.body()] == [DONE, DONE]


async def hear(response: Response, expected: bytes) -> None:
    """Read as far as this, from the first byte on."""
    while sum(map(len, response.chunks)) < len(expected):
        assert await response.next_chunk()
    assert b"".join(response.chunks) == expected


async def test_what_is_held_for_one_that_takes_nothing_is_let_go_with_it(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """When it has left, nothing is held but what those who stay have not heard."""
    proxy = await start_proxy(cache__max_recording_size=LIMIT)
    start, middle = Barrier(), Barrier()
    upstream.will_send(sse_head(), start, *map(chunk, PARTS[:40]), middle, chunk(DONE) + LAST_CHUNK)
    slow, fast = await start_stalling(proxy), await proxy.ask(STREAMED)
    frames = the_log(proxy)
    start.release()
    await hear(fast, b"".join(PARTS[:40]))
    assert held_bytes(frames) > LIMIT

    slow.writer.transport.abort()
    await until(lambda: frames.listeners == 1)
    middle.release()

    assert await fast.body() == DONE
    assert held_bytes(frames) <= len(DONE)


async def test_when_all_stall_the_upstream_is_held_back(start_proxy: StartProxy, by_hand: UpstreamByHand) -> None:
    """Nobody reads what nobody takes; as soon as one of them takes it, it goes on, and all of them get all of it."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    body = b"".join(event(str(number) + "x" * 64 * KIB) for number in range(64)) + DONE
    stalled = [await start_stalling(proxy) for _ in range(3)]
    frames = the_log(proxy)
    link = await by_hand.accepted()
    await link.head()
    link.send(sse_head() + chunk(body) + LAST_CHUNK)

    unsent = await quiet(link.writer.transport.get_write_buffer_size)

    assert unsent > len(body) // 4
    assert frames.kept.size_bytes < len(body) // 4
    read_on(stalled[1])
    assert await (await stalled[1].response()).body() == body
    for client in (stalled[0], stalled[2]):
        read_on(client)
        assert await (await client.response()).body() == body


async def test_one_that_is_let_go_for_taking_nothing_takes_nobody_with_it(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """After `server.write_timeout`; the answer goes on for the others."""
    proxy = await start_proxy(server__write_timeout="100ms", cache__linger="0")
    start, middle = Barrier(), Barrier()
    upstream.will_send(sse_head(), start, *map(chunk, PARTS), middle, chunk(DONE) + LAST_CHUNK)
    slow, fast = await start_stalling(proxy), await proxy.ask(STREAMED)
    start.release()
    await hear(fast, b"".join(PARTS))

    await until(lambda: listeners(proxy) == 1)
    middle.release()

    assert await fast.body() == DONE
    lines = [await log.line(0), await log.line(1)]
    assert sorted((line["outcome"], line["stored"]) for line in lines) == [
        ("client_disconnected", True),
        ("complete", True),
    ]
    await slow.close()


async def test_a_fault_of_the_upstream_reaches_one_that_is_slow_behind_all_that_came(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """However late it takes it."""
    proxy = await start_proxy()
    start, middle = Barrier(), Barrier()
    upstream.will_send(sse_head(), start, *map(chunk, PARTS), middle, RESET)
    slow, fast = await start_stalling(proxy), await proxy.ask(STREAMED)
    start.release()
    await hear(fast, b"".join(PARTS))
    middle.release()
    assert await fast.body_broken_off() == b"".join(PARTS)

    read_on(slow)

    assert await (await slow.response()).body_broken_off() == b"".join(PARTS)


async def test_one_that_outgrows_its_bound_while_one_is_slow_takes_no_more_joiners(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Its beginning is still held, for the slow one; but it is not promised to anyone, and the next one asks anew."""
    proxy = await start_proxy(cache__max_recording_size=len(HELLO))
    before_world, after_world = Barrier(), Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), before_world, chunk(WORLD), after_world, chunk(DONE) + LAST_CHUNK)
    upstream.will_send(*stream(DONE))
    slow, fast = await start_stalling(proxy), await proxy.ask(STREAMED)
    await hear(fast, HELLO)
    before_world.release()
    await hear(fast, HELLO + WORLD)

    later = await proxy.ask(STREAMED)

    assert (later.get("x-cache-status"), await later.body()) == ("MISS", DONE)
    after_world.release()
    read_on(slow)
    assert await fast.body() == DONE
    assert await (await slow.response()).body() == HELLO + WORLD + DONE
    assert upstream.requests_seen == 2
