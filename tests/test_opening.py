"""A request on its way: sent at once on a connection that stands idle, or by a task; nobody can tell which."""

import asyncio

import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import listeners, start_asking, until, word
from tests.harness import (
    ANSWER,
    CLOSE,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    Barrier,
    Part,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    sse_head,
)

pytestmark = pytest.mark.parametrize("is_used", [False, True], ids=["fresh connection", "used connection"])


async def ready(proxy: Proxy, upstream: ScriptedUpstream, *, is_used: bool) -> None:
    """Leave a connection to the upstream behind, if there shall be one."""
    if is_used:
        upstream.will_send(plain(ANSWER))
        assert await word(proxy.ask({**PROMPT, "seed": 0})) == "MISS"


@pytest.mark.parametrize(
    "parts",
    [
        (sse_head() + chunk(STREAM) + LAST_CHUNK,),
        (sse_head()[:20], sse_head()[20:], chunk(STREAM[:9]), chunk(STREAM[9:]), LAST_CHUNK),
    ],
    ids=["in one piece", "in many"],
)
async def test_an_answer_is_heard_in_however_many_pieces_it_comes(
    *, parts: tuple[Part, ...], is_used: bool, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """And it is recorded, and was attempted once."""
    await ready(proxy, upstream, is_used=is_used)
    upstream.will_send(*parts)

    answers = []
    for _ in range(2):
        answer = await proxy.ask(STREAMED)
        answers.append((answer.get("x-cache-status"), await answer.body()))

    assert answers == [("MISS", STREAM), ("HIT", STREAM)]
    assert [(await log.line(number + is_used))["attempts"] for number in range(2)] == [1, 0]


async def test_a_client_that_leaves_before_the_head_takes_its_request_along(
    *, is_used: bool, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The upstream sees its connection close, and whoever asks next is answered on another."""
    proxy = await start_proxy(cache__linger="0")
    await ready(proxy, upstream, is_used=is_used)
    barrier = Barrier()
    upstream.will_send(barrier, plain(ANSWER))
    leaving = await start_asking(proxy)
    await barrier.reached.wait()

    await leaving.close()
    await upstream.wait_until(lambda: upstream.connections == 0)

    barrier.release()
    line = await log.line(int(is_used))
    assert (line["outcome"], line["not_stored_because"]) == ("client_disconnected", "client_disconnected")
    upstream.will_send(sse_head(), chunk(STREAM) + LAST_CHUNK)
    assert await word(proxy.ask(STREAMED)) == "MISS"


async def test_those_who_joined_before_the_head_hear_it_when_the_first_has_left(
    *, is_used: bool, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Whoever asked first is nobody special."""
    await ready(proxy, upstream, is_used=is_used)
    barrier = Barrier()
    upstream.will_send(barrier, sse_head(), chunk(STREAM) + LAST_CHUNK)
    first = await start_asking(proxy)
    await barrier.reached.wait()
    second = await start_asking(proxy)
    await until(lambda: listeners(proxy) == 2)

    await first.close()
    await until(lambda: listeners(proxy) == 1)
    barrier.release()

    answer = await second.response()
    assert (answer.get("x-cache-status"), await answer.body()) == ("JOINED", STREAM)
    assert upstream.requests_seen == 1 + is_used


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [((CLOSE,), 502, "upstream_unreachable"), ((b"SSH-2.0-x\r\n",), 502, "upstream_invalid_response")],
    ids=["closed", "not HTTP"],
)
async def test_no_head_is_an_error_that_says_so(
    *, sent: tuple[Part, ...], status: int, code: str, is_used: bool, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Not sent again: the request has arrived, and somebody pays for it."""
    await ready(proxy, upstream, is_used=is_used)
    barrier = Barrier()
    upstream.will_send(barrier, *sent)
    asking = asyncio.create_task(proxy.ask(PROMPT))
    await barrier.reached.wait()
    barrier.release()

    response = await asking

    assert response.status == status
    assert (await log.line(int(is_used)))["error"] == code
    assert upstream.requests_seen == 1 + is_used
