"""The official SDK and an upstream that fails, dawdles or is left: a part is never taken for the whole."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.exchanges import until
from tests.harness import (
    ANSWER,
    CLOSE,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
    RESET,
    STREAMED,
    WORLD,
    Barrier,
    Part,
    ScriptedUpstream,
    chunk,
    plain,
    sse_head,
    stream,
)
from tests.sdk import CLIENTS, Call, MakeSdk, Sdk, Served, SyncSdk, making, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = Call("chat.completions.create", "POST /v1/chat/completions", PROMPT)
CHAT_STREAMED = Call("chat.completions.create", "POST /v1/chat/completions", STREAMED)

SHORT = plain(ANSWER)[:-1]
EVENT_WITH_ERROR = b'data: {"error":{"message":"The server had an error.","type":"server_error","code":null}}\n\n'
LIMIT_REACHED = (
    b'{"error":{"message":"Rate limit reached.","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
)
REFUSALS: dict[bytes, tuple[bytes, type[openai.APIStatusError]]] = {
    b"403 Forbidden": (LIMIT_REACHED, openai.PermissionDeniedError),
    b"404 Not Found": (b'{"detail":"Not Found"}', openai.NotFoundError),
    b"409 Conflict": (LIMIT_REACHED, openai.ConflictError),
    b"422 Unprocessable Content": (b'{"detail":[{"loc":["body","model"]}]}', openai.UnprocessableEntityError),
    b"429 Too Many Requests": (LIMIT_REACHED, openai.RateLimitError),
    b"500 Internal Server Error": (LIMIT_REACHED, openai.InternalServerError),
    b"503 Service Unavailable": (b"{}", openai.InternalServerError),
}
BROKEN: dict[str, tuple[Call, tuple[Part, ...], type[openai.APIError]]] = {
    "closed between events": (CHAT_STREAMED, (sse_head(), chunk(HELLO), CLOSE), openai.APIConnectionError),
    "closed within an event": (CHAT_STREAMED, (sse_head(), chunk(HELLO)[:-9], CLOSE), openai.APIConnectionError),
    "reset": (CHAT_STREAMED, (sse_head(), chunk(HELLO), RESET), openai.APIConnectionError),
    "a plain answer cut short": (CHAT, (SHORT, CLOSE), openai.APIConnectionError),
    "an error within the stream": (CHAT_STREAMED, stream(HELLO, EVENT_WITH_ERROR), openai.APIError),
}
UNFINISHED = {
    "no [DONE]": (CHAT_STREAMED, stream(HELLO)),
    "a plain answer with an error": (CHAT, (plain(b'{"error":{"message":"Overloaded."},"choices":[]}'),)),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(scripted: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(scripted.base_url, tmp_path_factory.mktemp("served")) as proxy:
        yield proxy


@pytest.fixture
def upstream(scripted: ScriptedUpstream) -> ScriptedUpstream:
    """It remembers nothing of the tests before."""
    scripted._scripts.clear()
    scripted.received.clear()
    return scripted


@pytest_asyncio.fixture(params=CLIENTS, loop_scope="module")
async def make_sdk(request: pytest.FixtureRequest, served: Served) -> AsyncIterator[MakeSdk]:
    async with making(request.param, served.base_url) as make:
        yield make


@pytest.fixture
def sdk(make_sdk: MakeSdk) -> Sdk:
    return make_sdk(max_retries=0)


@pytest.mark.parametrize(("call", "parts", "error_class"), BROKEN.values(), ids=BROKEN)
async def test_what_breaks_off_is_raised_and_not_recorded(
    sdk: Sdk, upstream: ScriptedUpstream, call: Call, parts: tuple[Part, ...], error_class: type[openai.APIError]
) -> None:
    """The SDK must not take a part for the whole, neither now nor when it asks again."""
    upstream.will_send(*parts)

    for _ in range(2):
        with pytest.raises(openai.APIError) as broken:
            await sdk.ask(call)
        assert type(broken.value) is error_class

    assert [head["x-cache-status"] for head in sdk.heads] == ["MISS", "MISS"]
    assert upstream.requests_seen == 2


@pytest.mark.parametrize(("call", "parts"), UNFINISHED.values(), ids=UNFINISHED)
async def test_what_the_sdk_takes_for_whole_and_is_not_is_not_recorded(
    sdk: Sdk, upstream: ScriptedUpstream, call: Call, parts: tuple[Part, ...]
) -> None:
    """The SDK raises nothing here: recorded, the fault would be there for ever."""
    upstream.will_send(*parts)

    answers = [await sdk.ask(call), await sdk.ask(call)]

    assert [answer.cache for answer in answers] == ["MISS", "MISS"]
    assert upstream.requests_seen == 2


@pytest.mark.parametrize("status", REFUSALS)
async def test_an_error_of_the_upstream_is_raised_by_its_class(
    sdk: Sdk, upstream: ScriptedUpstream, status: bytes
) -> None:
    """Its body, and what it says of retries, pass unchanged; the next call is a new one."""
    body, error_class = REFUSALS[status]
    upstream.will_send(plain(body, b"retry-after-ms: 7", b"x-request-id: req_7", status=status))
    upstream.will_send(plain(ANSWER))

    with pytest.raises(openai.APIStatusError) as refused:
        await sdk.ask(CHAT)
    after = await sdk.ask(CHAT)

    response = refused.value.response
    assert type(refused.value) is error_class
    assert (response.content, refused.value.request_id, response.headers["retry-after-ms"]) == (body, "req_7", "7")
    assert after.cache == "MISS"


async def test_what_the_sdk_retries_is_recorded_in_the_end(make_sdk: MakeSdk, upstream: ScriptedUpstream) -> None:
    """Retries are the SDK's: each attempt is one request upstream, and the one that succeeds is recorded."""
    upstream.will_send(plain(LIMIT_REACHED, b"retry-after-ms: 1", status=b"429 Too Many Requests"))
    upstream.will_send(plain(b"{}", b"retry-after-ms: 1", status=b"503 Service Unavailable"))
    upstream.will_send(*stream())
    sdk = make_sdk(max_retries=2)

    first, second = await sdk.ask(CHAT_STREAMED), await sdk.ask(CHAT_STREAMED)

    assert (first.cache, second.cache) == ("MISS", "HIT")
    assert second.said == first.said
    assert upstream.requests_seen == 3


async def test_in_a_session_each_call_has_an_answer_of_its_own(make_sdk: MakeSdk, upstream: ScriptedUpstream) -> None:
    """Also one that the SDK had to try twice: replayed, the calls get what they got when it was recorded."""
    upstream.will_send(plain(LIMIT_REACHED, b"retry-after-ms: 1", status=b"429 Too Many Requests"))
    for answer in ((HELLO, WORLD, DONE), (HELLO, HELLO, WORLD, DONE), (WORLD, DONE)):
        upstream.will_send(*stream(*answer))
    sdk = make_sdk(max_retries=2)

    recorded = [await sdk.ask(CHAT_STREAMED, {"X-Reprise-Session": "one"}) for _ in range(3)]
    replayed = [await sdk.ask(CHAT_STREAMED, {"X-Reprise-Session": "two"}) for _ in range(3)]

    assert [len(answer.said) for answer in recorded] == [2, 3, 1]
    assert [answer.said for answer in replayed] == [answer.said for answer in recorded]
    assert [answer.cache for answer in recorded + replayed] == ["MISS"] * 3 + ["HIT"] * 3
    assert upstream.requests_seen == 4


async def test_a_stream_left_early_is_not_paid_twice(sdk: Sdk, upstream: ScriptedUpstream) -> None:
    """Who comes back in time joins what goes on, and hears it from its beginning."""
    half_way = Barrier()
    upstream.will_send(sse_head() + chunk(HELLO), half_way, chunk(WORLD), chunk(DONE) + LAST_CHUNK)

    first_chunk = await sdk.leave_early(CHAT_STREAMED)
    asking = asyncio.create_task(sdk.ask(CHAT_STREAMED))
    await until(lambda: len(sdk.heads) == 2)
    half_way.release()
    joined = await asking
    hit = await sdk.ask(CHAT_STREAMED)

    assert (joined.cache, hit.cache) == ("JOINED", "HIT")
    assert joined.said == hit.said
    assert [hit.said[0], len(hit.said)] == [first_chunk, 2]
    assert upstream.requests_seen == 1


async def test_a_call_that_timed_out_joins_itself_when_it_is_retried(
    served: Served, upstream: ScriptedUpstream
) -> None:
    """The SDK gives up and asks again while the first request is under way: the upstream is asked once."""
    half_way, attempts = Barrier(), []

    async def at_the_second_attempt(request: object) -> None:
        attempts.append(request)
        if len(attempts) == 2:
            half_way.release()

    upstream.will_send(half_way, *stream())
    http_client = openai.DefaultAsyncHttpxClient(event_hooks={"request": [at_the_second_attempt]}, trust_env=False)
    options: dict[str, Any] = {"base_url": served.base_url, "api_key": "sk", "timeout": 0.1, "max_retries": 9}
    asked: dict[str, Any] = dict(STREAMED)

    async with openai.AsyncOpenAI(http_client=http_client, **options) as client:
        heard = [each async for each in await client.chat.completions.create(**asked)]

    assert len(heard) == 2
    assert len(attempts) >= 2
    assert upstream.requests_seen == 1


async def test_who_leaves_after_the_last_event_has_heard_all(tmp_path: Path) -> None:
    """The SDK closes at `[DONE]`, before the framing has ended: that is a whole answer, recorded, and no complaint."""
    before_the_end = Barrier()
    async with ScriptedUpstream() as upstream:
        upstream.will_send(sse_head(), chunk(HELLO), chunk(WORLD), chunk(DONE), before_the_end, LAST_CHUNK)
        async with serving(upstream.base_url, tmp_path) as served:
            sdk = SyncSdk(served.base_url)
            first = await sdk.ask(CHAT_STREAMED)
            before_the_end.release()
            second = await sdk.ask(CHAT_STREAMED)
            await sdk.close()

    assert second.said == first.said
    assert upstream.requests_seen == 1
    assert [line["outcome"] for line in served.log] == ["complete", "complete"]
    assert served.log[0]["stored"] is True


@pytest.mark.parametrize("kind", CLIENTS)
async def test_an_upstream_that_is_down_is_a_server_error_that_says_so(tmp_path: Path, kind: str) -> None:
    """The message is for whoever runs the proxy: what failed, and where to look."""
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        async with serving(f"http://127.0.0.1:{port}/v1", tmp_path) as served:
            sdk = CLIENTS[kind](served.base_url, max_retries=0)
            with pytest.raises(openai.InternalServerError) as failed:
                await sdk.ask(CHAT_STREAMED)
            await sdk.close()

    error = failed.value
    assert (error.status_code, error.type, error.code) == (502, "reprise_error", "upstream_unreachable")
    assert "upstream.base_url" in error.message
    assert str(port) not in error.message
