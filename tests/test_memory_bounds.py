"""What all requests together may hold in memory: beyond it answers are only passed on, and bodies are refused."""

import orjson
import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import arrive_apart, start_asking, until, word
from tests.harness import (
    ANSWER,
    DONE,
    LAST_CHUNK,
    PROMPT,
    STREAMED,
    Barrier,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    event,
    plain,
    sse_head,
)
from tests.raw import refused

LONG, SHORT = event("x" * 60_000, "stop"), event("x" * 9_000, "stop")


@pytest.fixture
async def tight(start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """A proxy that holds 64 KiB of answers under way, of all together."""
    monkeypatch.setattr("proxy.flights._HELD_BYTES", 64 * 1024)
    return await start_proxy(cache__max_recording_size="64KiB")


async def held(proxy: Proxy, upstream: ScriptedUpstream, *parts: bytes, seed: int) -> tuple[Response, Barrier]:
    """A stream that waits before its end, when its client has everything else."""
    barrier = Barrier()
    upstream.will_send(sse_head(), *map(chunk, parts), barrier, chunk(DONE) + LAST_CHUNK)
    response = await proxy.ask({**STREAMED, "seed": seed})
    received = b""
    while len(received) < sum(map(len, parts)):
        received += await response.next_chunk()
    assert received == b"".join(parts)
    return response, barrier


async def test_answers_that_are_too_much_together_are_passed_on_and_not_kept(
    tight: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The one that goes beyond the bound; the others are recorded, and the next one, too, when there is room again."""
    long, long_end = await held(tight, upstream, LONG, seed=1)
    short, short_end = await held(tight, upstream, SHORT, seed=2)
    short_end.release()
    assert await short.body() == DONE
    long_end.release()
    assert await long.body() == DONE
    by_size = {line["bytes"]: line for line in [await log.line(0), await log.line(1)]}

    third, third_end = await held(tight, upstream, SHORT, seed=3)
    third_end.release()
    assert await third.body() == DONE

    beyond = by_size[len(SHORT + DONE)]
    assert (beyond["outcome"], beyond["stored"], beyond["not_stored_because"]) == ("complete", False, "overloaded")
    assert by_size[len(LONG + DONE)]["stored"] is True
    assert (await log.line(2))["stored"] is True


async def test_a_stream_of_too_many_frames_is_too_large(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame takes memory besides its bytes; whoever listens gets them all."""
    monkeypatch.setattr("proxy.kept._FEW_FRAMES", 8)
    proxy = await start_proxy(cache__max_recording_size=64)
    comments = [b":\n\n"] * 10

    response = await arrive_apart(proxy, upstream, *comments)

    assert response.chunks == [*comments, b""][: len(response.chunks)]
    assert (await log.line())["not_stored_because"] == "too_large"


async def test_bodies_that_are_too_much_together_are_refused(
    start_proxy: StartProxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 503, which SDKs try again; when there is room, the next is taken. Elsewhere bodies are not held at all."""
    monkeypatch.setattr("proxy.traffic._BODIES_BYTES", 0)
    proxy = await start_proxy(server__max_body_size="16KiB")
    barrier = Barrier()
    upstream.will_send(barrier, plain(ANSWER))
    bodies = [orjson.dumps({**PROMPT, "user": str(number) * 15_000}) for number in range(5)]
    waiting = [await start_asking(proxy, orjson.loads(body)) for body in bodies[:4]]
    await upstream.wait_until(lambda: upstream.requests_seen == 4)

    upstream.will_send(plain(ANSWER))

    await refused(await proxy.ask(bodies[4]), 503, "overloaded")
    passed = await proxy.send("POST", "/v1/files", [("Content-Type", "text/plain")], bodies[4])
    assert (await passed.body(), passed.status) == (ANSWER, 200)
    barrier.release()

    assert [(await connection.response()).status for connection in waiting] == [200] * 4
    await until(lambda: proxy.app._traffic.bodies.held_bytes == 0)
    assert (await proxy.ask(bodies[4])).status == 200


async def test_what_was_held_is_given_back(tight: Proxy, upstream: ScriptedUpstream) -> None:
    """Whether it ended well, was left, or was shared."""
    for seed, how in enumerate(("ends", "is left", "is shared")):
        response, barrier = await held(tight, upstream, SHORT, seed=seed)
        if how == "is shared":
            other = await tight.ask({**STREAMED, "seed": seed})
            barrier.release()
            assert await other.body() == SHORT + DONE
        barrier.release()
        if how == "is left":
            await response.leave()
        else:
            assert await response.body() == DONE

    await until(lambda: tight.app._traffic.active == 0)
    await tight.app._flights.settle()
    await until(lambda: tight.app._flights._held.held_bytes == 0)


async def test_a_stream_that_none_can_join_any_more_holds_only_what_is_not_taken(
    tight: Proxy, upstream: ScriptedUpstream
) -> None:
    """Once it is longer than a recording, what every listener has played is let go of."""
    response, barrier = await held(tight, upstream, LONG, LONG, LONG, seed=1)

    assert tight.app._flights._held.held_bytes == 0

    barrier.release()
    assert await response.body() == DONE
    assert await word(tight.ask({**STREAMED, "seed": 1})) == "MISS"
