"""What is too long: an answer is passed on and not recorded, a request is refused."""

import orjson
import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import word, words
from tests.harness import (
    ANSWER,
    CHAT,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    stream,
)


async def test_a_stream_that_is_too_long_is_passed_on_and_not_recorded(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its client gets all of it; one that is just as long as the limit is recorded."""
    proxy = await start_proxy(cache__max_recording_size=len(STREAM))
    upstream.will_send(*stream(b": ", STREAM))
    too_long = [await proxy.ask(STREAMED) for _ in range(2)]
    assert [await response.body() for response in too_long] == [b": " + STREAM] * 2
    assert [response.get("x-cache-status") for response in too_long] == ["MISS", "MISS"]

    upstream.will_send(*stream(STREAM))
    assert await words(proxy.ask(STREAMED), proxy.ask(STREAMED)) == ["MISS", "HIT"]

    lines = [await log.line(number) for number in range(3)]
    assert [line["stored"] for line in lines] == [False, False, True]
    assert [line.get("not_stored_because") for line in lines] == ["too_large", "too_large", None]
    assert [line["outcome"] for line in lines] == ["complete"] * 3


async def test_an_answer_that_says_it_is_too_long_is_not_recorded(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its length is known from the first; its client gets all of it."""
    proxy = await start_proxy(cache__max_recording_size=len(ANSWER) - 1)
    upstream.will_send(plain(ANSWER))

    response = await proxy.ask()

    assert await response.body() == ANSWER
    assert (await log.line())["not_stored_because"] == "too_large"
    assert await word(proxy.ask()) == "MISS"


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_request_beyond_the_limit_is_refused(
    framing: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """In OpenAI's form, without asking the upstream; one that is just as long as the limit is taken."""
    upstream.will_send(plain(ANSWER))
    body = orjson.dumps(PROMPT)
    proxy = await start_proxy(server__max_body_size=len(body))
    json = [("Content-Type", "application/json")]
    connection = await proxy.connect()
    if framing == "chunked":
        connection.send(request_bytes("POST", CHAT, [*json, ("Transfer-Encoding", "chunked")]))
        connection.send(chunk(body) + chunk(b" ") + LAST_CHUNK)
    else:
        connection.send(request_bytes("POST", CHAT, json, body + b" "))

    refused = await connection.response()
    error = (await refused.json())["error"]

    assert refused.status == 413
    assert isinstance(error, dict)
    assert (error["code"], error["type"], error["param"]) == ("body_too_large", "reprise_error", None)
    assert refused.get("x-reprise-id")
    assert upstream.requests_seen == 0
    assert (await log.line())["outcome"] == "rejected"
    assert (await proxy.ask()).status == 200
