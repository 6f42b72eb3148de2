"""Thousands who leave, at whatever moment: everything that was there for them goes with them."""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from tests.by_hand import served
from tests.conftest import Log, StartProxy
from tests.exchanges import store_of, until
from tests.harness import (
    CHAT,
    HELLO,
    LAST_CHUNK,
    RESET,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Part,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
)

WAVES, WARM_UP = 50, 10
PROMPTS = 10
"""Asked at a time."""
MOST_TURNS = 120
"""Of the event loop, in which a small answer comes to its end even while others do."""

HOUSES = ("proxy.", "aiohttp.", "asyncio.", "_asyncio.", "builtins.coroutine", "builtins.async_generator")

# What is remembered of the names of header fields, for good and within bounds.
REMEMBERED = {"proxy.headers._Selection", "proxy.limits._Places"}

_LAST = b"Connection: close"  # or the connection would rightly be kept for the next request


def answers() -> Sequence[Sequence[Part]]:
    """One that stops at each moment of its way, and some that do not."""
    return (
        (Barrier(),),
        (sse_head()[:-9], Barrier()),
        (sse_head(), Barrier()),
        (sse_head(), chunk(HELLO), Barrier()),
        (sse_head(), chunk(HELLO) + chunk(WORLD)[:-9], Barrier()),
        (sse_head(), chunk(STREAM), Barrier()),
        (sse_head(), chunk(HELLO), RESET),
        (sse_head(_LAST), chunk(HELLO), chunk(STREAM), LAST_CHUNK),
        (sse_head(_LAST), chunk(STREAM) + LAST_CHUNK),
        (plain(b'{"error":{}}', _LAST, status=b"500 Internal Server Error"),),
    )


@pytest.mark.parametrize("linger", ["0", "5ms"])
async def test_thousands_of_departures_leave_nothing_behind(
    linger: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection, no task, no timer, no flight, and no object of ours or of aiohttp's that was there for them."""
    monkeypatch.setattr("proxy.flight._FRAMING_GRACE_S", 0.01)
    monkeypatch.setattr("proxy.store.tiered._HOUSEKEEPING_S", 3600.0)
    # Recordings in memory are meant to stay.
    proxy = await start_proxy(cache__linger=linger, cache__memory_limit="0")
    # Its housekeeping comes and goes each second, and would be counted when it happens to be at work.
    await until(lambda: store_of(proxy)._removals is not None)
    chance = random.Random(linger)  # noqa: S311 - it has to be the same each time
    tasks = len(asyncio.all_tasks())
    for wave in range(WARM_UP):
        await come_and_go(proxy, upstream, chance, wave)
    await everyone_has_left(proxy, upstream, tasks)
    forget(proxy)
    before = census()

    for wave in range(WARM_UP, WAVES):
        await come_and_go(proxy, upstream, chance, wave)
    await everyone_has_left(proxy, upstream, tasks)
    forget(proxy)

    assert census() - before == {}
    lines = log.lines()
    assert len(lines) > 1000
    assert {line.get("cache") for line in lines} >= {"MISS", "JOINED"}
    assert {line["outcome"] for line in lines} >= {"client_disconnected", "complete", "upstream_truncated"}
    heard = {line["bytes"] for line in lines if line["outcome"] == "client_disconnected"}
    assert heard >= {0, len(HELLO), len(HELLO + WORLD[:-7])}


async def come_and_go(proxy: Proxy, upstream: ScriptedUpstream, chance: random.Random, wave: int) -> None:
    """Some ask, alone or several the same, and each of them leaves some turns of the event loop later."""
    upstream.will_send(*chance.choice(answers()))
    async with asyncio.TaskGroup() as clients:
        for number in range(PROMPTS):
            for _ in range(chance.randint(1, 4)):
                clients.create_task(ask_and_leave(proxy, wave * PROMPTS + number, chance.randrange(MOST_TURNS)))


async def ask_and_leave(proxy: Proxy, seed: int, turns: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    body = orjson.dumps({**STREAMED, "seed": seed})
    writer.write(request_bytes("POST", CHAT, [("Content-Type", "application/json")], body))
    for _ in range(turns):
        await asyncio.sleep(0)
    writer.transport.abort()


async def everyone_has_left(proxy: Proxy, upstream: ScriptedUpstream, tasks: int) -> None:
    """There are as many tasks as there were before anyone came."""
    await until(lambda: not served(proxy))
    await until(lambda: not proxy.app._flights._unsettled)
    await until(lambda: not store_of(proxy)._waiting)
    await upstream.wait_until(lambda: upstream.connections == 0)
    upstream._scripts.clear()
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    for _ in range(10):  # what has ended is let go some turns later
        await asyncio.sleep(0)
    assert proxy.app._traffic.active == 0
    assert not proxy.app._flights._by_key
    assert proxy.app._flights._terms.held.held_bytes == 0


def forget(proxy: Proxy) -> None:
    """What is remembered of requests on purpose, within bounds, is no leak."""
    gateway = proxy.app._gateway
    for known in (gateway._heads._known, gateway.lane._questions._gists, gateway.lane._known):
        known.clear()


def census() -> Counter[str]:
    """How many there are of each kind of thing that could have been left behind; timers and tasks are among them."""
    gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects() if not is_cancelled_timer(each))
    counted = ((f"{kind.__module__}.{kind.__qualname__}", number) for kind, number in kinds.items())
    return Counter({name: number for name, number in counted if name.startswith(HOUSES) and name not in REMEMBERED})


def is_cancelled_timer(each: object) -> bool:
    """The event loop drops these when they have become many."""
    return isinstance(each, asyncio.TimerHandle) and each.cancelled()
