"""The official SDK against a running proxy: whatever it can ask, a hit is to it what the miss was."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import openai
import pytest
import pytest_asyncio

from proxy.simulator import Rhythm, Simulator
from tests.calls import ASKED, CACHED, CHAT, RESPONDED, RESPONSES, Weather
from tests.sdk import CLIENTS, KEY, Call, MakeSdk, Sdk, Served, making, serving

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # aiohttp's reader of multipart forms, which the simulator reads uploads with, warns of what it calls itself.
    pytest.mark.filterwarnings("ignore:unread_data:DeprecationWarning"),
]

MAX_BODY_BYTES = 64 * 1024

UPLOAD = {"file": ("notes.jsonl", b"{}\n" * MAX_BODY_BYTES), "purpose": "batch"}
PASSED = {
    "list of models": Call("models.list", "GET /v1/models"),
    "model": Call("models.retrieve", "GET /v1/models/{model}", {"model": "gpt-4o"}),
    "upload larger than what is cached may be": Call("files.create", "POST /v1/files", UPLOAD),
    "list of files": Call("files.list", "GET /v1/files"),
}
REFUSED = {
    "no such model": (Call("chat.completions.create", CHAT, {**ASKED, "model": "unknown"}), openai.NotFoundError),
    "no such model, streamed": (
        Call("responses.create", RESPONSES, {**RESPONDED, "model": "unknown", "stream": True}),
        openai.NotFoundError,
    ),
    "no messages": (Call("chat.completions.create", CHAT, {**ASKED, "messages": []}), openai.BadRequestError),
    "no such route": (Call("batches.list", "other"), openai.NotFoundError),
}

CONTENTS: dict[str, Callable[[list[Any]], object]] = {
    "chat": lambda said: said[0].choices[0].message.content,
    "chat, streamed with usage": lambda said: said[-1].usage.completion_tokens,
    "chat, three choices, streamed": lambda said: (
        {choice.index for chunk in said for choice in chunk.choices} == {0, 1, 2}
    ),
    "chat, through the helper": lambda said: said[-1].choices[0].message.content == said[-2].content,
    "tools": lambda said: said[0].choices[0].message.tool_calls[0].function.name == "get_weather",
    "tools, streamed": lambda said: said[1].choices[0].delta.tool_calls[0].function.name == "get_weather",
    "tools, through the helper": lambda said: said[-1].choices[0].message.tool_calls[0].function.parsed_arguments.city,
    "schema": lambda said: Weather.model_validate_json(said[0].choices[0].message.content),
    "schema, parsed": lambda said: said[0].choices[0].message.parsed.city,
    "schema, through the helper": lambda said: said[-1].choices[0].message.parsed.city,
    "completion": lambda said: said[0].choices[0].text,
    "embeddings": lambda said: [len(each.embedding) for each in said[0].data] == [1536, 1536],
    "response": lambda said: said[0].output_text,
    "response, cut short, streamed": lambda said: said[-1].type == "response.incomplete",
    "response, through the helper": lambda said: said[-1].output_text == said[-2].response.output_text,
    "response, parsed": lambda said: said[0].output_parsed.city,
    "response with tools": lambda said: said[0].output[0].name == "get_weather",
    "moderation": lambda said: said[0].results[0].categories.violence,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator() -> AsyncIterator[Simulator]:
    simulated = Simulator(Rhythm(first_byte_ms=0, gap_ms=0, tokens=8), required_key=KEY)
    await simulated.start()
    yield simulated
    await simulated.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    async with serving(simulator.base_url, directory, server__max_body_size=MAX_BODY_BYTES) as proxy:
        yield proxy


@pytest_asyncio.fixture(params=CLIENTS, loop_scope="module")
async def make_sdk(request: pytest.FixtureRequest, served: Served) -> AsyncIterator[MakeSdk]:
    async with making(request.param, served.base_url) as make:
        yield make


@pytest.fixture
def sdk(make_sdk: MakeSdk) -> Sdk:
    return make_sdk()


@pytest.mark.parametrize("call", CACHED.values(), ids=CACHED)
async def test_a_call_made_again_gives_the_same_result(sdk: Sdk, simulator: Simulator, call: Call) -> None:
    """A hit is equal to the miss, in every chunk of a stream, in what a helper makes of it, and in its request id."""
    seen = simulator.requests_seen_by_route[call.route]

    miss, hit = await sdk.ask(call), await sdk.ask(call)

    assert (miss.cache, hit.cache) == ("MISS", "HIT")
    assert hit.said == miss.said
    assert hit.head["x-request-id"] == miss.head["x-request-id"]
    assert simulator.requests_seen_by_route[call.route] == seen + 1


@pytest.mark.parametrize("name", CONTENTS)
async def test_a_hit_says_all_that_was_asked_for(sdk: Sdk, name: str) -> None:
    """Equal is not enough: two answers with nothing in them are equal too."""
    await sdk.ask(CACHED[name])

    hit = await sdk.ask(CACHED[name])

    assert hit.cache == "HIT"
    assert CONTENTS[name](hit.said)


@pytest.mark.parametrize("name", ["chat", "tools", "schema, parsed", "embeddings", "response", "moderation"])
async def test_a_result_has_the_request_id_of_the_recording(sdk: Sdk, name: str) -> None:
    """`_request_id` is what one quotes to OpenAI's support: that of the call that was made there."""
    (miss,), head = await sdk.ask(CACHED[name])
    (hit,), _ = await sdk.ask(CACHED[name])

    assert hit._request_id == miss._request_id == head["x-request-id"]


@pytest.mark.parametrize("name", ["chat", "chat, streamed", "tools, streamed", "embeddings", "response, streamed"])
async def test_both_kinds_of_client_share_recordings(make_sdk: MakeSdk, name: str) -> None:
    """What the SDK says of itself in its headers is no part of the key."""
    recorded = await make_sdk(kind="sync").ask(CACHED[name])

    replayed = await make_sdk(kind="async").ask(CACHED[name])

    assert replayed.cache == "HIT"
    assert replayed.said == recorded.said


@pytest.mark.parametrize("call", PASSED.values(), ids=PASSED)
async def test_other_routes_are_asked_each_time_and_say_so(sdk: Sdk, simulator: Simulator, call: Call) -> None:
    """Only the five routes of `cache.routes` are cached."""
    seen = simulator.requests_seen_by_route[call.route]

    answers = [await sdk.ask(call), await sdk.ask(call)]

    assert [answer.cache for answer in answers] == ["BYPASS", "BYPASS"]
    assert answers[0].head["x-request-id"] != answers[1].head["x-request-id"]
    assert simulator.requests_seen_by_route[call.route] == seen + 2


async def test_no_cache_asks_again_and_records_the_new_answer(sdk: Sdk) -> None:
    """`extra_headers` reach the proxy, and stay there."""
    first = await sdk.ask(CACHED["chat, streamed"])
    refreshed = await sdk.ask(CACHED["chat, streamed"], {"Cache-Control": "no-cache"})
    third = await sdk.ask(CACHED["chat, streamed"])

    assert [first.cache, refreshed.cache, third.cache] == ["MISS", "REFRESH", "HIT"]
    assert third.said == refreshed.said != first.said


@pytest.mark.parametrize(("call", "error_class"), REFUSED.values(), ids=REFUSED)
async def test_what_the_upstream_refuses_is_raised_as_if_it_had_been_asked_directly(
    make_sdk: MakeSdk, simulator: Simulator, call: Call, error_class: type[openai.APIStatusError]
) -> None:
    """An error passes unchanged and is never recorded, so the same call is refused anew."""
    sdk, direct = make_sdk(), make_sdk(simulator.base_url)
    seen = simulator.requests_seen_by_route[call.route]

    errors = [await _refusal(each, call) for each in (direct, sdk, sdk)]

    assert {type(error) for error in errors} == {error_class}
    assert [(error.message, error.body) for error in errors] == [(errors[0].message, errors[0].body)] * 3
    assert len({error.request_id for error in errors}) == 3
    assert simulator.requests_seen_by_route[call.route] == seen + 3


async def test_a_wrong_key_is_the_upstream_s_to_refuse(make_sdk: MakeSdk) -> None:
    """The caller's own credential is the one that travels."""
    stranger = make_sdk(api_key="sk-wrong")

    errors = [await _refusal(stranger, CACHED["chat"]), await _refusal(stranger, CACHED["chat"])]

    assert {type(error) for error in errors} == {openai.AuthenticationError}
    assert {error.code for error in errors} == {"invalid_api_key"}
    assert (await make_sdk().ask(CACHED["chat"])).cache == "MISS"


async def test_a_replay_miss_is_not_tried_again(sdk: Sdk, simulator: Simulator) -> None:
    """A 504 that no retry can mend says so: the SDK, which would ask three times, asks once."""
    seen = simulator.requests_seen

    error = await _refusal(sdk, CACHED["chat, streamed"], {"Cache-Control": "only-if-cached"})

    assert isinstance(error, openai.InternalServerError)
    assert (error.status_code, error.type, error.code) == (504, "reprise_error", "replay_miss")
    assert len(sdk.heads) == 1
    assert simulator.requests_seen == seen


async def test_a_body_too_large_to_be_cached_is_refused(sdk: Sdk, simulator: Simulator) -> None:
    """The SDK gets to read the refusal, although it has not been let finish its request."""
    seen = simulator.requests_seen
    call = Call("moderations.create", "", {"input": "x" * 40 * MAX_BODY_BYTES})

    error = await _refusal(sdk, call)

    assert (error.status_code, error.type, error.code) == (413, "reprise_error", "body_too_large")
    assert len(sdk.heads) == 1
    assert simulator.requests_seen == seen


async def test_a_control_header_that_cannot_be_read_is_a_bad_request(sdk: Sdk) -> None:
    """A mistake in what is said to the proxy is told by the proxy."""
    error = await _refusal(sdk, CACHED["chat"], {"X-Reprise-Pace": "presto"})

    assert isinstance(error, openai.BadRequestError)
    assert "X-Reprise-Pace" in error.message


async def test_a_base_url_without_v1_is_told_what_it_lacks(served: Served, make_sdk: MakeSdk) -> None:
    """The likeliest mistake of all."""
    error = await _refusal(make_sdk(served.base_url.removesuffix("/v1")), CACHED["chat"])

    assert isinstance(error, openai.NotFoundError)
    assert (error.type, error.code) == ("reprise_error", "unknown_route")
    assert "/v1" in error.message


async def test_the_environment_is_all_that_has_to_be_set(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that reads OPENAI_BASE_URL needs no change."""
    monkeypatch.setenv("OPENAI_BASE_URL", served.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    async with openai.AsyncOpenAI() as client:
        raw = await client.models.with_raw_response.list()

    assert raw.headers["x-cache-status"] == "BYPASS"


async def _refusal(sdk: Sdk, call: Call, headers: Mapping[str, str] | None = None) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as refused:
        await sdk.ask(call, headers)
    return refused.value
