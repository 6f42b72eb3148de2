"""Who may join a request under way: all who could have its recording; they share its errors, and nobody else does."""

import asyncio

import pytest

from proxy.recording import Recording
from tests.conftest import Log, StartProxy
from tests.exchanges import key_of, listeners, start_asking, store_of, take, until, word
from tests.harness import (
    ANSWER,
    DONE,
    HELLO,
    LAST_CHUNK,
    RESET,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    sse_head,
    stream,
)


async def test_a_stream_that_has_grown_too_long_is_joined_by_nobody(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Its beginning is gone; those who had joined before hear it to its end."""
    proxy = await start_proxy(cache__max_recording_size=len(HELLO))
    after_hello, after_world = Barrier(), Barrier()
    upstream.will_send(
        sse_head(), chunk(HELLO), after_hello, chunk(WORLD), after_world, chunk(HELLO), chunk(DONE) + LAST_CHUNK
    )
    upstream.will_send(*stream())
    first, second = await proxy.ask(STREAMED), await proxy.ask(STREAMED)
    after_hello.release()
    for response in (first, second):
        await take(response, HELLO + WORLD)

    third = await proxy.ask(STREAMED)

    assert (third.get("x-cache-status"), await third.body()) == ("MISS", STREAM)
    after_world.release()
    assert [await first.body(), await second.body()] == [HELLO + DONE] * 2
    assert upstream.requests_seen == 2


@pytest.mark.parametrize("why", ["500 Internal Server Error", "200 OK"], ids=["an error", "too long"])
async def test_an_answer_that_cannot_be_recorded_is_joined_by_nobody(
    why: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """As soon as its head says so, by its status or its length; those who waited for the head have it."""
    proxy = await start_proxy(cache__max_recording_size=len(ANSWER))
    barrier = Barrier()
    long = plain(b"{}" * len(ANSWER), status=why.encode())
    begun = long.index(b"{") + 10
    upstream.will_send(long[:begun], barrier, long[begun:])
    upstream.will_send(plain(ANSWER))
    first = await proxy.ask()

    second = await proxy.ask()

    assert (second.get("x-cache-status"), await second.body()) == ("MISS", ANSWER)
    barrier.release()
    assert await first.body() == b"{}" * len(ANSWER)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (("Cache-Control", "no-cache"), "REFRESH"),
        (("Cache-Control", "no-cache, no-store"), "BYPASS"),
        (("X-Reprise-Namespace", "other"), "MISS"),
        (("X-Reprise-Sample", "1"), "MISS"),
        (("Cache-Control", "no-store"), "JOINED"),
        (("Cache-Control", "max-age=0"), "JOINED"),
        (("X-Reprise-Pace", "recorded"), "JOINED"),
        (("X-Reprise-Session", "one"), "JOINED"),
        (("Authorization", "Bearer sk-other"), "JOINED"),
    ],
    ids=lambda value: value if isinstance(value, str) else ": ".join(value),
)
async def test_who_joins(headers: tuple[str, str], told: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """All who could have had the recording, and nobody who asked for an answer of its own."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    first = await proxy.ask(STREAMED)
    assert await first.next_chunk() == HELLO

    other = await proxy.ask(STREAMED, headers=dict([headers]))

    assert other.get("x-cache-status") == told
    barrier.release()
    assert [await first.body(), await other.body()] == [WORLD + DONE, STREAM]
    assert upstream.requests_seen == (1 if told == "JOINED" else 2)


async def test_callers_that_are_kept_apart_do_not_join(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """What may not be replayed to another caller may not be shared with it while it arrives."""
    proxy = await start_proxy(cache__scope="credential")
    first, barrier = Barrier(), Barrier()
    upstream.will_send(first, barrier, *stream())
    mine = await start_asking(proxy, STREAMED, ("Authorization", "Bearer sk-mine"))
    also_mine = await start_asking(proxy, STREAMED, ("Authorization", "Bearer sk-mine"))
    yours = await start_asking(proxy, STREAMED, ("Authorization", "Bearer sk-yours"))
    await until(lambda: listeners(proxy) == 3)
    first.release()
    barrier.release()

    told = [(await connection.response()).get("x-cache-status") for connection in (mine, also_mine, yours)]

    assert sorted(filter(None, told)) == ["JOINED", "MISS", "MISS"]
    assert upstream.requests_seen == 2


@pytest.mark.parametrize(("mode", "told"), [("record", "REFRESH"), ("passthrough", "BYPASS")])
async def test_modes_that_always_ask_share_nothing(
    mode: str, told: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Each request is one upstream."""
    proxy = await start_proxy(cache__mode=mode)
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    both = [await proxy.ask(STREAMED) for _ in range(2)]
    barrier.release()

    assert [await response.body() for response in both] == [STREAM, STREAM]
    assert [response.get("x-cache-status") for response in both] == [told, told]
    assert upstream.requests_seen == 2


async def test_an_answer_that_is_fetched_anew_can_be_joined_by_who_has_no_recording(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """A flight is a flight, whatever it was launched for; a recording that is there is taken before it."""
    proxy = await start_proxy()
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    refreshing = await proxy.ask(STREAMED, headers={"Cache-Control": "no-cache"})
    joined = await proxy.ask(STREAMED)
    assert joined.get("x-cache-status") == "JOINED"
    barrier.release()
    assert [await refreshing.body(), await joined.body()] == [STREAM, STREAM]

    again = Barrier()
    upstream.will_send(again, *stream(STREAM))
    refreshing_again = await start_asking(proxy, STREAMED, ("Cache-Control", "no-cache"))
    await again.reached.wait()
    assert await word(proxy.ask(STREAMED)) == "HIT"
    again.release()
    assert await (await refreshing_again.response()).body() == STREAM


async def test_a_key_is_never_in_neither_place(
    proxy: Proxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording enters the store while its flight can still be joined, or one in between would ask upstream again."""
    store, flights = store_of(proxy), proxy.app._flights
    keep = store.keep
    joinable: list[bool] = []

    def keep_and_look(recording: Recording) -> bool:
        joinable.append(flights.join(recording.key) is not None)
        return keep(recording)

    monkeypatch.setattr(store, "keep", keep_and_look)
    upstream.will_send(plain(ANSWER))

    miss = await proxy.ask()

    assert await miss.body() == ANSWER
    assert joinable == [True]
    assert flights.join(key_of(miss)) is None


async def test_an_upstream_that_breaks_off_breaks_it_off_for_all(
    proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Each of them sees a broken transfer, after all that came."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, RESET)
    upstream.will_send(*stream())
    everyone = [await proxy.ask(STREAMED) for _ in range(3)]
    assert [await response.next_chunk() for response in everyone] == [HELLO] * 3
    barrier.release()

    for response in everyone:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await response.body()

    lines = [await log.line(number) for number in range(3)]
    assert {line["outcome"] for line in lines} == {"upstream_truncated"}
    assert {line["not_stored_because"] for line in lines} == {"upstream_truncated"}
    assert await word(proxy.ask(STREAMED)) == "MISS"
