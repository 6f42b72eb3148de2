"""Faults on demand as the official SDK meets them, with its answers recorded and not."""

from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from proxy.simulator import Rhythm, Simulator
from tests.sdk import CLIENTS, Call, MakeSdk, Served, making, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "How is the weather in Málaga?"}]}
CHAT = Call("chat.completions.create", "POST /v1/chat/completions", ASKED)
STREAMED = Call("chat.completions.create", "POST /v1/chat/completions", {**ASKED, "stream": True})
RESPONSES = Call("responses.create", "POST /v1/responses", {"model": "gpt-5", "input": "Name a river.", "stream": True})

WAYS = {"short": "true", "long": "false"}
MET: list[tuple[Call, str, type[openai.APIError]]] = [
    (STREAMED, "status=429", openai.RateLimitError),
    (CHAT, "status=500", openai.InternalServerError),
    (CHAT, "status=401", openai.AuthenticationError),
    (CHAT, "cut-after=0", openai.APIConnectionError),
    (CHAT, "cut-after=1", openai.APIConnectionError),
    (STREAMED, "cut-after=1", openai.APIConnectionError),
    (RESPONSES, "gap=1ms, cut-after=1", openai.APIConnectionError),
    (STREAMED, "error-event=1", openai.APIError),
    (RESPONSES, "error-event=1", openai.APIError),
    (CHAT, "first-byte=60s", openai.APITimeoutError),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(Rhythm(first_byte_ms=0, gap_ms=10, tokens=8))
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=WAYS)
async def served(
    request: pytest.FixtureRequest, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    ways = {"server__fast_lane": WAYS[request.param], "upstream__fast_connection": WAYS[request.param]}
    directory = tmp_path_factory.mktemp("served")
    async with serving(simulator.base_url, directory, server__allow_faults="true", **ways) as proxy:
        yield proxy


@pytest_asyncio.fixture(params=CLIENTS, loop_scope="module")
async def make_sdk(request: pytest.FixtureRequest, served: Served) -> AsyncIterator[MakeSdk]:
    async with making(request.param, served.base_url) as make:
        yield make


@pytest.mark.parametrize(("call", "fault", "error_class"), MET)
async def test_a_fault_is_raised_by_its_class(
    make_sdk: MakeSdk, call: Call, fault: str, error_class: type[openai.APIError]
) -> None:
    """On a first call and on one whose answer is recorded; without the header the call is as ever."""
    sdk = make_sdk(max_retries=0)
    faulty = make_sdk(max_retries=0, timeout=0.2) if "first-byte" in fault else sdk

    for _ in range(2):
        with pytest.raises(openai.APIError) as met:
            await faulty.ask(call, {"X-Reprise-Fault": fault})
        assert type(met.value) is error_class
        assert len((await sdk.ask(call)).said) >= 1

    assert sdk.heads[-1]["x-cache-status"] == "HIT"


async def test_a_rate_limit_says_when_to_ask_again(make_sdk: MakeSdk) -> None:
    """And the SDK does, as often as it may, with the same fault each time."""
    sdk = make_sdk(max_retries=1)

    with pytest.raises(openai.RateLimitError) as refused:
        await sdk.ask(CHAT, {"X-Reprise-Fault": "status=429"})

    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["retry-after-ms"] == "250"
    assert len(sdk.heads) == 2


async def test_an_error_in_mid_stream_has_a_message(make_sdk: MakeSdk) -> None:
    """That of the event, which tells who asked for it."""
    sdk = make_sdk(max_retries=0)

    with pytest.raises(openai.APIError, match="X-Reprise-Fault"):
        await sdk.ask(RESPONSES, {"X-Reprise-Fault": "error-event=0"})
