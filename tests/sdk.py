"""The official SDK, sync and async alike, and the proxy as a process for it to call.

The rule: tests ask through `Sdk` wherever they can, so that nothing holds for one of the two clients only.
"""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

import openai
import orjson
from pydantic import BaseModel

from proxy import events
from tests.commands import running
from tests.harness import PATIENCE_S

KEY = "sk-simulated"

_HTTP: dict[str, Any] = {
    "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # never used, but to make one takes longer than a test
    "trust_env": False,  # an HTTP_PROXY is not what is tested
}


@dataclass(frozen=True)
class Call:
    """`client.{name}(**arguments)`."""

    name: str
    route: str
    """What the upstream calls it, such as `POST /v1/embeddings`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Heard(NamedTuple):
    """What the SDK made of an answer."""

    said: list[Any]
    """The result; of a stream every chunk or event, and what a helper made of them; of a raw response its bytes."""
    head: Mapping[str, str]

    @property
    def cache(self) -> str:
        return self.head["x-cache-status"]


class Sdk(Protocol):
    """A client of one of the two kinds."""

    heads: list[Mapping[str, str]]
    """Of every response, those that the SDK answers with a retry too."""

    async def ask(self, call: Call, headers: Mapping[str, str] | None = None) -> Heard:
        """Call, and listen to the end of it.

        Raises:
            openai.OpenAIError: as the SDK does.
        """
        ...

    async def leave_early(self, call: Call) -> object:
        """Begin to listen to a stream, and close it after its first chunk, which is the result."""
        ...

    async def close(self) -> None: ...


MakeSdk = Callable[..., Sdk]


class SyncSdk:
    """`openai.OpenAI`, in a thread, so that an upstream in the test's event loop can answer."""

    def __init__(self, base_url: str, api_key: str = KEY, **options: Any) -> None:
        self.heads: list[Mapping[str, str]] = []
        http_client = openai.DefaultHttpxClient(**_HTTP, event_hooks={"response": [self._note]})
        options = {"base_url": base_url, "api_key": api_key, "timeout": PATIENCE_S, **options}
        self.client = openai.OpenAI(http_client=http_client, **options)

    async def ask(self, call: Call, headers: Mapping[str, str] | None = None) -> Heard:
        said = await asyncio.to_thread(self._listen, call, headers or {})
        return Heard(said, self.heads[-1])

    async def leave_early(self, call: Call) -> object:
        return await asyncio.to_thread(self._leave_early, call)

    async def close(self) -> None:
        self.client.close()

    def _listen(self, call: Call, headers: Mapping[str, str]) -> list[Any]:
        answer = attrgetter(call.name)(self.client)(**call.arguments, extra_headers=headers)
        if isinstance(answer, BaseModel):
            return [answer]
        if hasattr(answer, "parse"):  # with_raw_response
            return [answer.content, answer.request_id, answer.parse()]
        with answer as stream:
            if hasattr(stream, "iter_bytes"):  # with_streaming_response
                return [b"".join(stream.iter_bytes()), stream.request_id]
            return [*stream, *(getattr(stream, name)() for name in _finals(stream))]

    def _leave_early(self, call: Call) -> object:
        with attrgetter(call.name)(self.client)(**call.arguments) as stream:
            return next(stream)

    def _note(self, response: Any) -> None:
        self.heads.append(response.headers)


class AsyncSdk:
    """`openai.AsyncOpenAI`."""

    def __init__(self, base_url: str, api_key: str = KEY, **options: Any) -> None:
        self.heads: list[Mapping[str, str]] = []
        http_client = openai.DefaultAsyncHttpxClient(**_HTTP, event_hooks={"response": [self._note]})
        options = {"base_url": base_url, "api_key": api_key, "timeout": PATIENCE_S, **options}
        self.client = openai.AsyncOpenAI(http_client=http_client, **options)

    async def ask(self, call: Call, headers: Mapping[str, str] | None = None) -> Heard:
        return Heard(await self._listen(call, headers or {}), self.heads[-1])

    async def leave_early(self, call: Call) -> object:
        async with await attrgetter(call.name)(self.client)(**call.arguments) as stream:
            return await anext(stream)

    async def close(self) -> None:
        await self.client.close()

    async def _listen(self, call: Call, headers: Mapping[str, str]) -> list[Any]:
        answer = attrgetter(call.name)(self.client)(**call.arguments, extra_headers=headers)
        if isawaitable(answer):  # all but the streaming helpers and with_streaming_response
            answer = await answer
        if isinstance(answer, BaseModel):
            return [answer]
        if hasattr(answer, "parse"):
            return [answer.content, answer.request_id, answer.parse()]
        async with answer as stream:
            if hasattr(stream, "iter_bytes"):
                return [b"".join([piece async for piece in stream.iter_bytes()]), stream.request_id]
            heard = [each async for each in stream]
            return [*heard, *[await getattr(stream, name)() for name in _finals(stream)]]

    async def _note(self, response: Any) -> None:
        self.heads.append(response.headers)


def _finals(stream: object) -> list[str]:
    """How a streaming helper gives the whole that it has put together; a bare stream has none."""
    return [name for name in ("get_final_completion", "get_final_response") if hasattr(stream, name)]


CLIENTS: dict[str, type[SyncSdk] | type[AsyncSdk]] = {"sync": SyncSdk, "async": AsyncSdk}


@asynccontextmanager
async def making(kind: str, base_url: str) -> AsyncIterator[MakeSdk]:
    """A function that makes clients of one kind, all with one set of recordings that no one else has."""
    made: list[Sdk] = []
    namespace = {"X-Reprise-Namespace": str(uuid4())}

    def make(base_url: str = base_url, kind: str = kind, **options: Any) -> Sdk:
        made.append(CLIENTS[kind](base_url, default_headers=namespace, **options))
        return made[-1]

    yield make
    for sdk in made:
        await sdk.close()


class Served:
    """A running proxy."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.log: list[dict[str, Any]] = []
        """The lines of its requests, once it has ended."""


@asynccontextmanager
async def serving(upstream_url: str, at: Path, **settings: object) -> AsyncIterator[Served]:
    """A proxy, in a directory, that ends well and has met nothing that somebody would have to look at."""
    async with running("serve", "--port", 0, at=at, upstream__base_url=upstream_url, **settings) as command:
        served = Served((await command.line()).partition("=")[2])
        yield served
        command.send(signal.SIGTERM)
        ended = await command.end()
    assert ended.code == 0
    assert all(line.startswith("{") for line in ended.err.splitlines()), ended.err
    lines = [orjson.loads(line) for line in ended.err.splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    served.log = [line for line in lines if line["event"] == events.REQUEST]
