"""The demonstration: one streamed prompt, asked four times, of which the upstream sees one.

The rule: nothing is staged. Upstream, proxy and client have sockets of their own, and what is told has been measured.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import aiohttp

from proxy.app import App
from proxy.config import CacheSettings, ServerSettings, Settings, UpstreamSettings
from proxy.recording import Usage
from proxy.simulator import Simulator
from proxy.sse import stream_ending

PROMPT: Mapping[str, object] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Tell me of the cello by the harbour."}],
    "stream": True,
    "stream_options": {"include_usage": True},
}

_HALF_WAY_BYTES = 8_000  # the simulator sends some 19,000


class Told(NamedTuple):
    """One answer, as the client got it."""

    how: str
    cache_status: str
    """What `X-Cache-Status` said."""
    first_byte_s: float
    total_s: float
    body: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def usage(self) -> Usage | None:
        """The tokens that the answer says it took."""
        return stream_ending(self.body, choices_expected=1).usage


@asynccontextmanager
async def stage(port: int) -> AsyncIterator[tuple[Simulator, App]]:
    """A simulated upstream, and a proxy in front of it with recordings that go when it ends.

    Raises:
        StartFailed: the port can't be had.
    """
    simulator = Simulator()
    with TemporaryDirectory(prefix="reprise-demo-") as directory:
        await simulator.start()
        try:
            async with App(_settings(port, simulator.base_url, Path(directory))) as app:
                yield simulator, app
        finally:
            await simulator.stop()


async def perform(base_url: str) -> list[Told]:
    """Ask: at first, while the first answer is under way, afterwards, and once more at the recorded pace."""
    half_way = asyncio.Event()
    async with aiohttp.ClientSession(base_url.removesuffix("v1")) as session:
        async with asyncio.TaskGroup() as together:
            miss = together.create_task(_ask(session, "the first", half_way=half_way))
            await half_way.wait()
            joined = together.create_task(_ask(session, "the same, half-way through"))
        hit = await _ask(session, "the same, afterwards")
        replay = await _ask(session, "once more, at the recorded pace", pace="recorded")
    return [miss.result(), joined.result(), hit, replay]


def _settings(port: int, upstream: str, directory: Path) -> Settings:
    return Settings(
        server=ServerSettings(port=port, drain_timeout=0),
        upstream=UpstreamSettings(base_url=upstream),
        cache=CacheSettings(directory=directory),
    )


async def _ask(
    session: aiohttp.ClientSession, how: str, *, pace: str = "instant", half_way: asyncio.Event | None = None
) -> Told:
    body, first_byte_s, started_s = bytearray(), 0.0, time.perf_counter()
    async with session.post("v1/chat/completions", json=PROMPT, headers={"X-Reprise-Pace": pace}) as response:
        while piece := await response.content.readany():
            first_byte_s = first_byte_s or time.perf_counter() - started_s
            body += piece
            if half_way and len(body) > _HALF_WAY_BYTES:
                half_way.set()
    total_s = time.perf_counter() - started_s
    return Told(how, response.headers["X-Cache-Status"], first_byte_s, total_s, bytes(body))
