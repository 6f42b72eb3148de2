"""What many tests at the socket say in one line: ask and read to the end, look into the store, wait for a state."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import orjson
import pytest

from proxy.key import SHARED_SCOPE, cache_key
from proxy.recording import Recording
from proxy.store.codec import decode
from proxy.store.tiered import TieredStore
from tests.harness import (
    CHAT,
    LAST_CHUNK,
    PATIENCE_S,
    STREAMED,
    Barrier,
    Connection,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    request_bytes,
    sse_head,
)

RICH_HEAD = (
    b"Date: Sat, 01 Nov 2025 00:00:00 GMT",
    b"Server: upstream",
    b"X-Request-Id: req_1",
    b"openai-version: 2020-10-01",
    b"openai-processing-ms: 250",
    b"openai-model: gpt-4o-mini-2024-07-18",
    b"openai-organization: org-payer",
    b"openai-project: proj_payer",
    b"x-ratelimit-limit-requests: 500",
    b"x-ratelimit-reset-tokens: 6m0s",
    b"retry-after: 1",
    b"retry-after-ms: 1000",
    b"x-should-retry: true",
    b"Set-Cookie: session=sk-CANARY",
    b"Set-Cookie: second=sk-CANARY",
    b"Cache-Control: no-store",
    b"ETag: W/1",
    b"Expires: 0",
    b"Vary: Origin",
    b"Age: 77",
    b"Alt-Svc: h3",
    b"CF-Ray: 1",
    b"Strict-Transport-Security: max-age=1",
    b"Access-Control-Allow-Origin: *",
    b"Keep-Alive: timeout=5",
    b"X-Unknown: 1",
)
REPLAYED = ["content-type", "openai-model", "openai-processing-ms", "openai-version", "x-request-id"]
"""The fields of such a head that a replay carries."""

COUNTED = b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}'
USAGE = {"input_tokens": 9, "output_tokens": 2}
"""What `COUNTED` counts, as the log says it."""

ERROR = b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'

_FEW_TURNS = 200
_TIMES = ("first_byte_ms", "duration_ms")
_KEY = re.compile(r'key="([0-9a-f]{64})"')


async def word(asking: Coroutine[Any, Any, Response]) -> str | None:
    """Read an answer to its clean end; what `X-Cache-Status` says of it."""
    response = await asking
    await response.body()
    return response.get("x-cache-status")


async def words(*askings: Coroutine[Any, Any, Response]) -> list[str | None]:
    """The same for several requests, one after the other."""
    return [await word(asking) for asking in askings]


async def take(response: Response, expected: bytes) -> None:
    """Read so much of a chunked body, in however many pieces it comes: those of a TCP stream are nobody's choice."""
    received = b""
    while len(received) < len(expected):
        received += await response.next_chunk() or pytest.fail("it ended")
    assert received == expected


def key_of(response: Response) -> str:
    """The key that our member of `Cache-Status` names."""
    found = _KEY.search(response.get_all("cache-status")[-1])
    assert found is not None, response.headers
    return found[1]


def store_of(proxy: Proxy) -> TieredStore:
    store = proxy.app._gateway._store
    assert isinstance(store, TieredStore)
    return store


async def recording_of(proxy: Proxy, response: Response) -> Recording:
    """What is recorded under the key of an answer: as it waits to be written, or from disk."""
    store, key = store_of(proxy), key_of(response)
    if (waiting := store._waiting.get(key)) is not None:
        return waiting
    entry = await store._threads.read(store._shelf.get, key)
    assert entry is not None
    return decode(entry, key)


def keep_copy(proxy: Proxy, recording: Recording, *, namespace: str = "", age_s: float = 0.0) -> None:
    """Store a recording again, as one of that namespace and age."""
    request = recording.request._replace(namespace=namespace)
    key = cache_key(request, upstream=proxy.app._settings.upstream.name, scope=SHARED_SCOPE)
    copy = recording._replace(key=key, request=request, recorded_at=time.time() - age_s)
    assert store_of(proxy).keep(copy)


def listeners(proxy: Proxy) -> int:
    """How many requests listen to flights that can be joined."""
    return sum(flight._log.listeners for flight in proxy.app._flights._by_key.values())


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until a state within the proxy has come about."""
    async with asyncio.timeout(PATIENCE_S):
        turns = 0
        while not condition():
            turns += 1
            # What takes longer than a few turns is done by threads, which get nowhere beside a loop that only spins.
            await asyncio.sleep(0 if turns < _FEW_TURNS else 0.001)


async def arrive_apart(
    proxy: Proxy, upstream: ScriptedUpstream, *frames: bytes, asked: Mapping[str, object] = STREAMED
) -> Response:
    """Record a stream of which each frame surely arrives by itself; the answer, read to its end."""
    barriers = [Barrier() for _ in frames]
    held = [part for barrier, frame in zip(barriers, frames, strict=True) for part in (barrier, chunk(frame))]
    upstream.will_send(sse_head(), *held, LAST_CHUNK)
    response = await proxy.ask(asked)
    for barrier, frame in zip(barriers, frames, strict=True):
        barrier.release()
        assert await response.next_chunk() == frame
    assert await response.next_chunk() == b""
    return response


def names(headers: Sequence[tuple[str, str]]) -> list[str]:
    """The names of header fields in lower case, sorted."""
    return sorted(name.lower() for name, _ in headers)


async def start_asking(proxy: Proxy, asked: object = STREAMED, *headers: tuple[str, str]) -> Connection:
    """Ask without waiting for an answer."""
    connection = await proxy.connect()
    connection.send(request_bytes("POST", CHAT, [("Content-Type", "application/json"), *headers], orjson.dumps(asked)))
    return connection


async def left(proxy: Proxy, response: Response) -> None:
    """Close the connection, and wait until the proxy has noticed."""
    await response.leave()
    await until(lambda: proxy.app._traffic.active == 0)


def facts(line: dict[str, Any]) -> dict[str, Any]:
    """A line without the log's own members, and without times, after a look at these."""
    for name in _TIMES:
        if name in line:
            assert line[name] >= 0
            assert round(line[name], 3) == line[name]
    if all(name in line for name in _TIMES):
        assert line["first_byte_ms"] <= line["duration_ms"]
    assert line["time"].endswith("Z")
    own = ("event", "level", "time", *_TIMES)
    return {name: value for name, value in line.items() if name not in own}
