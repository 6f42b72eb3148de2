"""A herd: however many ask the same at a time, the upstream is asked once, and everyone hears it as it comes."""

import resource
from collections.abc import Iterator

import pytest

from tests.conftest import StartProxy
from tests.exchanges import key_of, listeners, start_asking, until, word
from tests.harness import (
    DONE,
    HELLO,
    LAST_CHUNK,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    ScriptedUpstream,
    chunk,
    sse_head,
    stream,
)
from tests.moments import BEFORE_THE_END, Moment, Waiting

MANY = 100
_SOCKETS = 2000  # both ends of each connection are in this process, and many systems allow it 1,024 unless asked


@pytest.fixture(autouse=True)
def room_for_sockets() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SOCKETS if hard == resource.RLIM_INFINITY else min(_SOCKETS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("herd", "moment"),
    [
        (MANY, BEFORE_THE_END["between two frames"]),
        (MANY, BEFORE_THE_END["within a frame"]),
        (MANY, BEFORE_THE_END["within a plain answer"]),
        (500, BEFORE_THE_END["within a frame"]),
    ],
    ids=["a hundred", "within a frame", "a plain answer", "five hundred"],
)
async def test_a_herd_is_one_request(
    herd: int, moment: Moment, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """They come before there is a head, hear each piece while the next one is held back, and get the same bytes."""
    proxy = await start_proxy()
    head, middle = Barrier(), Barrier()
    upstream.will_send(head, *moment.sent, middle, *moment.rest)
    connections = [await start_asking(proxy, moment.asked) for _ in range(herd)]
    await until(lambda: listeners(proxy) == herd)

    head.release()
    everyone = [Waiting(connection) for connection in connections]
    for waiting in everyone:
        await waiting.hear(moment.arrived)
    late = Waiting(await start_asking(proxy, moment.asked))
    await late.hear(moment.arrived)
    middle.release()

    assert {await waiting.whole() for waiting in (*everyone, late)} == {moment.body}
    heads = [await waiting.response() for waiting in (*everyone, late)]
    assert sorted(head.get("x-cache-status") or "" for head in heads) == ["JOINED"] * herd + ["MISS"]
    assert [head.get("x-cache-status") == "JOINED" for head in heads] == [
        (head.get("cache-status") or "").endswith("; collapsed") for head in heads
    ]
    assert len({key_of(head) for head in heads}) == 1
    assert len({head.get("x-reprise-id") for head in heads}) == herd + 1
    assert await word(proxy.ask(moment.asked)) == "HIT"
    assert upstream.requests_seen == 1


async def test_many_different_streams_wait_for_no_connection(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A client of aiohttp makes a hundred connections and lets the next request wait, unless it is told not to."""
    upstream.will_send(sse_head(), chunk(HELLO), Barrier())

    for seed in range(120):
        response = await proxy.ask({**STREAMED, "seed": seed})
        assert await response.next_chunk() == HELLO

    assert upstream.connections == 120


async def test_a_hundred_at_once_find_one_recording_on_disk(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """A herd that meets an empty memory tier is served from disk, and nobody asks the upstream."""
    upstream.will_send(*stream())
    recorder = await start_proxy()
    await word(recorder.ask(STREAMED))
    await recorder.app.stop()
    proxy = await start_proxy()

    connections = [await start_asking(proxy) for _ in range(MANY)]
    answers = [await connection.response() for connection in connections]

    assert [await answer.body() for answer in answers] == [STREAM] * MANY
    assert {answer.get("x-cache-status") for answer in answers} == {"HIT"}
    assert upstream.requests_seen == 1


async def test_a_hundred_that_leave_at_once_take_nothing_from_the_one_that_stays(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Whether it came first, last or in between."""
    proxy = await start_proxy(cache__linger="0")
    for number, stays in enumerate((0, MANY // 2, MANY - 1)):
        barrier, asked = Barrier(), {**STREAMED, "seed": number}
        upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD), chunk(DONE) + LAST_CHUNK)
        herd = [await proxy.ask(asked) for _ in range(MANY)]
        assert {await response.next_chunk() for response in herd} == {HELLO}

        staying = herd.pop(stays)
        for response in herd:
            response._writer.transport.abort()
        barrier.release()

        assert await staying.body() == WORLD + DONE
        assert upstream.requests_seen == number + 1
