"""Fixtures: an upstream, a proxy in front of it, and after each test the proof that nothing was left behind."""

import asyncio
import gc
import io
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy import events
from proxy.app import App
from proxy.store.presence import Presence
from tests.by_hand import UpstreamByHand
from tests.commands import simulating
from tests.harness import PATIENCE_S, Proxy, ScriptedUpstream, settings

# As the program does: a thread of the store would wait long for a loop that has always something to do.
sys.setswitchinterval(0.0005)


def pytest_collection_finish() -> None:
    """Keep what was there before the first test out of the collector's sight, or each round looks through it."""
    gc.collect()
    gc.freeze()


Company = Callable[[Proxy], None]
StartProxy = Callable[..., Awaitable[Proxy]]
WriteConfig = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteConfig:
    """Write `config.yaml`, where it is looked for by one who works there."""

    def write_config(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write_config


class Log(io.StringIO):
    """What the proxy has logged, line by line."""

    def __init__(self) -> None:
        super().__init__()
        self._written = asyncio.Event()

    def write(self, text: str) -> int:
        self._written.set()
        return super().write(text)

    def lines(self, event: str = events.REQUEST) -> list[dict[str, Any]]:
        parsed = [orjson.loads(line) for line in self.getvalue().splitlines()]
        return [line for line in parsed if line["event"] == event]

    async def line(self, number: int = 0, event: str = events.REQUEST) -> dict[str, Any]:
        """The n-th line of an event, waiting for it: it is written after the client has its answer."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := self.lines(event)) <= number:
                self._written.clear()
                await self._written.wait()
        return found[number]


@pytest.fixture
def log() -> Log:
    written = Log()
    events.configure("json", "debug", written)
    return written


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a simulated upstream, a process by itself: for tests whose own event loop does not run."""
    with simulating(tmp_path_factory.mktemp("simulator")) as base_url:
        yield base_url


@pytest.fixture
async def by_hand() -> AsyncIterator[UpstreamByHand]:
    async with UpstreamByHand() as upstream:
        yield upstream


@pytest.fixture
async def start_proxy(upstream: ScriptedUpstream, tmp_path: Path, log: Log) -> AsyncIterator[StartProxy]:
    """A function that starts a proxy with settings of the test's own, such as `cache__mode="replay"`."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as started:

        async def start(**overrides: object) -> Proxy:
            base_url = str(overrides.pop("upstream__base_url", upstream.base_url))
            app = App(settings(base_url, tmp_path / "store", **overrides))
            await app.start()
            started.push_async_callback(app.stop, drain_s=0)
            proxy = Proxy(app)
            started.push_async_callback(proxy.close)
            return proxy

        yield start
    await upstream.wait_until(lambda: upstream.connections == 0)
    left = {task for task in asyncio.all_tasks() - before if not task.done() and task is not asyncio.current_task()}
    assert not left, f"left behind: {left}"


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Proxy:
    return await start_proxy()


@pytest.fixture
def company() -> Iterator[Company]:
    """A function that has somebody else in a proxy's store, so that it has to look on the disk for what is there."""
    with ExitStack() as all_here:

        def keep_company(proxy: Proxy) -> None:
            directory = proxy.app._settings.cache.directory
            all_here.enter_context(closing(Presence(directory))).enter()

        yield keep_company
