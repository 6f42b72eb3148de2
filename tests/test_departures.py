"""Clients that leave before the end: what they had paid for is kept where it is nearly whole, and else cancelled."""

import orjson
import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import arrive_apart, left, take, word, words
from tests.harness import (
    ANSWER,
    CHAT,
    CLOSE,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    ScriptedUpstream,
    chunk,
    event,
    plain,
    request_bytes,
    sse_head,
    stream,
)


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({"cache__mode": "passthrough"}, {}),
        ({}, {"Cache-Control": "no-store"}),
        ({"cache__max_recording_size": 100}, {}),
    ],
)
async def test_one_that_leaves_right_after_done_was_not_cut_short(
    settings: dict[str, object], headers: dict[str, str], start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """It had all there was to hear, also where nothing of it is recorded."""
    proxy = await start_proxy(**settings)
    for number, done in enumerate((DONE, b"data:[DONE]\r\n\r\n")):
        upstream.will_send(sse_head(), chunk(HELLO), chunk(WORLD), chunk(done), Barrier(), LAST_CHUNK)
        response = await proxy.ask(STREAMED, headers=headers)
        await take(response, HELLO + WORLD + done)

        await left(proxy, response)

        line = await log.line(number)
        assert (line["outcome"], line["stored"]) == ("complete", False)


@pytest.mark.parametrize("linger", ["0", "5s"])
async def test_one_that_leaves_right_after_done_has_its_answer_recorded(
    linger: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """As the official SDKs leave: they close when they have read the last event, before the end of the framing."""
    proxy = await start_proxy(cache__linger=linger)
    end = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), chunk(WORLD), chunk(DONE), end, LAST_CHUNK)
    response = await proxy.ask(STREAMED)
    await take(response, STREAM)

    await left(proxy, response)
    end.release()

    line = await log.line()
    assert (line["outcome"], line["stored"], line["bytes"]) == ("complete", True, len(STREAM))
    assert "error" not in line
    assert "not_stored_because" not in line
    assert not [entry for entry in log.lines() if entry["level"] in ("error", "critical")]
    hit = await proxy.ask(STREAMED)
    assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", STREAM)
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("linger", ["0", "5s"])
async def test_one_that_leaves_after_the_last_event_of_another_form_is_no_different(
    linger: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Some servers send no [DONE], and end with a finish_reason, or with response.completed."""
    proxy = await start_proxy(cache__linger=linger)
    end = Barrier()
    last = b'data: {"type":"response.completed","response":{"status":"completed"}}\n\n'
    upstream.will_send(sse_head(), chunk(last), end, LAST_CHUNK)
    response = await proxy.ask(STREAMED, "/v1/responses")
    await take(response, last)

    await left(proxy, response)
    end.release()

    assert (await log.line())["outcome"] == "complete"
    assert await word(proxy.ask(STREAMED, "/v1/responses")) == "HIT"


async def test_one_that_leaves_right_after_a_long_answer_has_it_recorded_too(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """It is looked through in a thread, as every long one is."""
    proxy = await start_proxy(cache__linger="0")
    end = Barrier()
    long = [event("x" * 60_000) for _ in range(8)]
    upstream.will_send(sse_head(), *map(chunk, long), chunk(DONE), end, LAST_CHUNK)
    response = await proxy.ask(STREAMED)
    await take(response, b"".join(long) + DONE)

    await left(proxy, response)
    end.release()

    assert (await log.line())["outcome"] == "complete"
    assert await word(proxy.ask(STREAMED)) == "HIT"


async def test_an_end_that_breaks_off_after_done_is_not_recorded(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Though its client had every event and has left: the framing did not end cleanly."""
    proxy = await start_proxy(cache__linger="0")
    end = Barrier()
    upstream.will_send(sse_head(), chunk(STREAM), end, CLOSE)
    response = await proxy.ask(STREAMED)
    await take(response, STREAM)

    await left(proxy, response)
    end.release()

    line = await log.line()
    assert (line["outcome"], line["stored"]) == ("complete", False)
    assert line["not_stored_because"] == "upstream_truncated"


async def test_an_end_that_never_comes_is_not_waited_for_for_ever(
    start_proxy: StartProxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The framing gets a few seconds, then the upstream is left."""
    monkeypatch.setattr("proxy.flight._FRAMING_GRACE_S", 0.01)
    proxy = await start_proxy(cache__linger="0")
    upstream.will_send(sse_head(), chunk(STREAM), Barrier())
    response = await proxy.ask(STREAMED)
    await take(response, STREAM)

    await left(proxy, response)

    await upstream.wait_until(lambda: upstream.connections == 0)
    line = await log.line()
    assert (line["stored"], line["not_stored_because"]) == (False, "client_disconnected")


async def test_without_linger_the_upstream_is_left_at_once(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Nobody pays for what nobody will read; nothing is stored, and the next one asks anew."""
    proxy = await start_proxy(cache__linger="0")
    upstream.will_send(sse_head(), chunk(HELLO), Barrier())
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)

    await response.leave()

    await upstream.wait_until(lambda: upstream.connections == 0)
    line = await log.line()
    assert (line["outcome"], line["stored"], line["bytes"]) == ("client_disconnected", False, len(HELLO))
    assert line["not_stored_because"] == "client_disconnected"
    upstream.will_send(*stream())
    assert await words(proxy.ask(STREAMED), proxy.ask(STREAMED)) == ["MISS", "HIT"]


@pytest.mark.parametrize("asked", [PROMPT, STREAMED], ids=["plain", "stream"])
async def test_without_linger_an_upstream_that_is_still_silent_is_left_too(
    asked: dict[str, object], start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """At once, not at the next write to the client: there may be none for minutes."""
    proxy = await start_proxy(cache__linger="0")
    silence = Barrier()
    upstream.will_send(silence)
    connection = await proxy.connect()
    connection.send(request_bytes("POST", CHAT, [("Content-Type", "application/json")], orjson.dumps(asked)))
    await silence.reached.wait()

    await connection.close()

    await upstream.wait_until(lambda: upstream.connections == 0)
    line = await log.line()
    assert (line["outcome"], line["stored"], line["bytes"]) == ("client_disconnected", False, 0)
    assert "status" not in line


async def test_when_linger_is_over_the_upstream_is_left(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """However much has come by then."""
    proxy = await start_proxy(cache__linger="10ms")
    upstream.will_send(sse_head(), chunk(HELLO), Barrier())
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)

    await response.leave()

    await upstream.wait_until(lambda: upstream.connections == 0)
    assert (await log.line())["not_stored_because"] == "client_disconnected"


async def test_one_that_leaves_a_plain_answer_has_it_recorded(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """What ends within the linger is stored, stream or not."""
    proxy = await start_proxy(cache__linger="10m")
    barrier = Barrier()
    whole = plain(ANSWER)
    upstream.will_send(whole[:-9], barrier, whole[-9:])
    response = await proxy.ask()
    await left(proxy, response)
    barrier.release()

    assert (await log.line())["stored"] is True
    assert await word(proxy.ask()) == "HIT"


async def test_leaving_a_replay_changes_nothing(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """The recording stays, and the log says who left."""
    await arrive_apart(proxy, upstream, HELLO, WORLD, DONE)
    slowly = await proxy.ask(STREAMED, headers={"X-Reprise-Pace": "60s"})
    await take(slowly, HELLO)

    await slowly.leave()

    line = await log.line(1)
    assert (line["cache"], line["outcome"], line["bytes"]) == ("HIT", "client_disconnected", len(HELLO))
    assert await word(proxy.ask(STREAMED)) == "HIT"


@pytest.mark.parametrize("at", range(0, len(STREAM), 23))
async def test_one_that_leaves_at_any_byte_spoils_nothing(
    at: int, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """The next one gets the whole answer, and there is never half a recording."""
    proxy = await start_proxy(cache__linger="0")
    barrier = Barrier()
    begun = (sse_head(), chunk(STREAM[:at])) if at else (sse_head(),)
    upstream.will_send(*begun, barrier, chunk(STREAM[at:]) + LAST_CHUNK)
    upstream.will_send(*stream())
    response = await proxy.ask(STREAMED)
    if at:
        await take(response, STREAM[:at])
    await response.leave()
    await upstream.wait_until(lambda: upstream.connections == 0)

    following = await proxy.ask(STREAMED)

    assert (following.get("x-cache-status"), await following.body()) == ("MISS", STREAM)
