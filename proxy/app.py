"""The program put together: build the rooms, wire them, start to listen, drain.

The rule: whoever starts something here ends it, in the reverse order.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy
from yarl import URL

from proxy import events
from proxy.accepting import Clients, ClientSite
from proxy.balance import Shared
from proxy.cassette import CassetteError, make_directory
from proxy.cassette.copying import CassetteCopies
from proxy.cassette.layer import CassetteLayer
from proxy.cassette.scrubbing import Scrubber
from proxy.config import CacheSettings, ServerSettings, Settings, reloading
from proxy.config.addresses import is_loopback
from proxy.events import RequestLine, log
from proxy.flights import Flights
from proxy.gateway import Gateway
from proxy.incoming import Incoming
from proxy.lane import FastLane
from proxy.store.tiered import TieredStore
from proxy.traffic import Traffic
from proxy.upstream import Upstream

# What is left of a request whose answer is out is read for so long, so that the client gets to read the answer.
_LINGERING_S = 5.0

# When the time to drain is over, the rest is cut off; nothing of it waits for anything.
_CUT_OFF_S = 0.5


class StartFailed(Exception):
    """The proxy can't start; the message says why, and what to do."""


class NoPlace(StartFailed):
    """It can't listen where it is to."""


class App:
    """A running proxy."""

    def __init__(
        self, settings: Settings, shared: Shared | None = None, watch: Callable[[RequestLine], None] | None = None
    ) -> None:
        """`shared`: where it listens, with other processes that have the same store; else it does so by itself.

        `watch` is shown what the log says of each request that has ended.
        """
        self._settings = settings
        self._shared = shared
        self._resources = AsyncExitStack()
        self._traffic = Traffic(settings.server.max_body_size, watch)
        self._store: TieredStore
        self._upstream: Upstream
        self._flights: Flights
        self._gateway: Gateway
        self._clients: Clients
        self._runner: web.ServerRunner

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """What clients set as `OPENAI_BASE_URL`."""
        return base_url_of(self._runner.addresses[0])

    async def start(self) -> None:
        """Open the store and listen.

        Raises:
            StartFailed: the address can't be had, `cache.cassette` or `cache.record_to` can't be used, or aiohttp lacks
                the parser that holds off request smuggling.
            UnusableDirectory: there can be no store at `cache.directory`.
        """
        if HttpRequestParser is HttpRequestParserPy:
            raise StartFailed("aiohttp was installed without its C extension, and its pure-Python parser is not safe.")
        async with AsyncExitStack() as resources:
            await self._build(resources)
            await self._listen(resources)
            self._resources = resources.pop_all()
        log.info(events.STARTED, base_url=self.base_url, mode=self._settings.cache.mode)

    async def reload(self, settings: Settings) -> None:
        """Serve by other settings from the next request on; those under way keep theirs.

        Where and to how many it listens, and where recordings are, stay as they are until a restart, and the log names
        what was asked for.

        Raises:
            SettingsError: where it listens, these settings would give strangers paid answers; nothing has changed.
            StartFailed: with these settings it would ask itself; nothing has changed.
        """
        settings, waiting = reloading.without_restart(self._settings, settings)
        refuse_to_ask_itself(settings, self.base_url)
        changed = reloading.differing(self._settings, settings)
        if settings.upstream != self._settings.upstream:
            # The one before stays open for the requests that it has; without any, its connections close by themselves.
            self._upstream = await self._resources.enter_async_context(Upstream(settings.upstream))
        self._settings = settings
        cache = settings.cache
        self._traffic.adjust(settings.server.max_body_size)
        self._flights.adjust(limit_bytes=cache.max_recording_size, linger_s=cache.linger)
        self._store.resize(size_limit_bytes=cache.size_limit, memory_limit_bytes=cache.memory_limit)
        self._clients.adjust(**_timeouts(settings.server))
        self._gateway = self._new_gateway()
        self._clients.lane = self._lane
        log.info(events.RELOADED, changed=changed, waiting_for_restart=waiting)

    async def stop(self, drain_s: float | None = None) -> None:
        """Take no new request, give those under way `drain_s` seconds (`server.drain_timeout`), and end."""
        self._traffic.draining = True
        self._clients.lane = None
        for site in list(self._runner.sites):
            await site.stop()
        timeout_s = self._settings.server.drain_timeout if drain_s is None else drain_s
        log.info(events.DRAINING, requests=self._traffic.active, timeout_s=timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await self._traffic.idle()
                await self._flights.settle()
        except TimeoutError:
            await self._traffic.stop()
        await self._resources.aclose()
        log.info(events.STOPPED)

    async def quiet(self, at_most_s: float) -> bool:
        """Wait until no request is under way and the log has the line of each, but no longer than that; whether so."""
        try:
            async with asyncio.timeout(at_most_s):
                await self._traffic.idle()
                await self._flights.settle()
                await asyncio.sleep(0)
        except TimeoutError:
            return False
        return True

    async def _build(self, resources: AsyncExitStack) -> None:
        cache = self._settings.cache
        beneath, copies = await asyncio.to_thread(_cassettes, cache)
        self._store = await TieredStore.open(
            cache.directory,
            size_limit_bytes=cache.size_limit,
            memory_limit_bytes=cache.memory_limit,
            shared=self._shared is not None,
            beneath=beneath,
            copies=copies,
        )
        resources.push_async_callback(self._store.close)
        self._upstream = await resources.enter_async_context(Upstream(self._settings.upstream))
        self._flights = Flights(self._store, limit_bytes=cache.max_recording_size, linger_s=cache.linger)
        resources.push_async_callback(self._flights.close)
        self._gateway = self._new_gateway()

    def _new_gateway(self) -> Gateway:
        return Gateway(self._settings, self._store, self._flights, self._upstream, self._traffic)

    @property
    def _lane(self) -> FastLane | None:
        return self._gateway.lane if self._settings.server.fast_lane else None

    def _serve(self, request: Incoming) -> Awaitable[web.StreamResponse]:
        return self._gateway.serve(request)

    async def _listen(self, resources: AsyncExitStack) -> None:
        server = self._settings.server
        self._clients = Clients(
            self._serve,
            # Without it a client that has left is noticed only at the next write to it.
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            lingering_time=_LINGERING_S,
            **_timeouts(server),
        )
        self._clients.lane = self._lane
        self._runner = web.ServerRunner(self._clients, shutdown_timeout=_CUT_OFF_S)
        resources.push_async_callback(self._runner.cleanup)
        await self._runner.setup()
        try:
            await ClientSite(
                self._runner, self._clients, server.host, server.port, server.max_connections, shared=self._shared
            ).start()
        except OSError as error:
            raise no_place_at(server, error) from error
        refuse_to_ask_itself(self._settings, self.base_url)


def _cassettes(cache: CacheSettings) -> tuple[CassetteLayer | None, CassetteCopies | None]:
    """The one that is played and the one that is recorded to, which may be the same; that is made if it is not there.

    Raises:
        StartFailed: one of them can't be used.
    """
    key = "cache.record_to"
    try:
        if cache.record_to is not None:
            make_directory(cache.record_to)
        key = "cache.cassette"
        beneath = None if cache.cassette is None else CassetteLayer.read(cache.cassette)
    except CassetteError as error:
        raise StartFailed(f"{key}: {error}") from error
    return beneath, None if cache.record_to is None else CassetteCopies(
        cache.record_to, Scrubber(cache.scrub, time.thread_time)
    )


def base_url_of(address: Sequence[Any]) -> str:
    """What clients set as `OPENAI_BASE_URL`, of the address of a socket."""
    host, port = address[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def refuse_to_ask_itself(settings: Settings, base_url: str) -> None:
    """It comes easily to export OPENAI_BASE_URL and then to start the proxy with it, and would never end.

    Raises:
        StartFailed: the upstream is the proxy that listens at `base_url`.
    """
    asked, own = URL(settings.upstream.base_url), URL(base_url)
    if asked.port == own.port and is_loopback(asked.host or "") and is_loopback(own.host or ""):
        raise StartFailed(
            f"upstream.base_url, {asked}, is the proxy's own address; name the API it is to ask with --upstream"
        )


def no_place_at(server: ServerSettings, error: OSError) -> NoPlace:
    """What is to be raised when the address can't be had."""
    return NoPlace(
        f"can't listen on {server.host} port {server.port}: {reason_of(error)}; "
        "choose another with --port or server.port, 0 for any that is free"
    )


def _timeouts(server: ServerSettings) -> dict[str, Any]:
    return {"keepalive_timeout": server.keepalive_timeout, "read_timeout_s": server.read_timeout}


def reason_of(error: OSError) -> str:
    """Why an address can't be had, in the system's words."""
    # The loops put a sentence of their own around the system's; what the resolver says has a number below 0.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
