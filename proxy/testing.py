"""A proxy in the background of a program that runs on: for tests, notebooks and other runners.

    with proxy.testing.replay("cassettes/chat") as gateway:
        client = OpenAI(base_url=gateway.base_url, api_key="none needed")

The rule: nothing of the program around it is touched: not its event loop, its environment, its working directory or
its log.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict, Unpack

from yarl import URL

from proxy import events
from proxy.app import App, NoPlace
from proxy.config import Settings, load
from proxy.events import RequestLine

UPSTREAM_NAME = "testing"
"""What stands for the upstream in the keys of cassettes, which outlive its address; `upstream.name` for `reprise`."""

_OPENAI = "https://api.openai.com/v1"
_NO_FILE = Path(os.devnull)
_DRAIN_S = "2s"  # for an answer whose client has left; what the SDKs leave has ended by then

_A_MOMENT_S = 0.5  # that is waited for a request which still goes on
_TO_THE_END_S = 3.0  # the same where no other request comes: what a client has left is over by then

_KEYS = {
    "pace": "replay.pace",
    "ignore": "cache.ignore",
    "normalize": "cache.normalize",
    "vary": "cache.vary",
    "routes": "cache.routes",
}


class Options(TypedDict, total=False):
    """Settings that a test may want for itself, as `config.yaml` has them."""

    pace: str
    """`replay.pace`."""
    ignore: Sequence[str]
    """`cache.ignore`."""
    normalize: Sequence[Mapping[str, str]]
    """`cache.normalize`."""
    vary: Sequence[str]
    """`cache.vary`."""
    routes: Sequence[str]
    """`cache.routes`."""


class Requests(list[RequestLine]):
    """What the log says of some requests, in the order in which they ended."""

    goes_on = False
    """Whether there was another one that had not ended."""

    @property
    def used(self) -> set[str]:
        """The keys of recordings that have answered one."""
        return {line.key for line in self if line.key and line.cache == "HIT"}

    @property
    def recorded(self) -> set[str]:
        """The keys of recordings that were made."""
        return {line.key for line in self if line.key and line.stored}

    @property
    def missed(self) -> int:
        """How many no recording answered while the upstream could not be asked."""
        return sum(line.error == "replay_miss" for line in self)


class Gateway:
    """A proxy that serves in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        """Start it.

        Raises:
            StartFailed, UnusableDirectory: it can't start, see `App.start`.
        """
        self.replays = settings.cache.mode == "replay"
        """Whether the upstream is never asked."""
        self._lines = list[RequestLine]()
        self._started: Future[str] = Future()
        self._app: App
        self._loop: asyncio.AbstractEventLoop
        self._enough: asyncio.Event
        self._thread = threading.Thread(target=self._run, args=(settings,), name="reprise", daemon=True)
        self._thread.start()
        self.base_url = self._started.result()
        """What clients set as `OPENAI_BASE_URL`."""

    @property
    def port(self) -> int:
        return URL(self.base_url).port or 0

    @property
    def requests(self) -> Requests:
        """Those that have ended since counting began."""
        # One that has its answer ends a moment later.
        return self._ended_within(_A_MOMENT_S)

    @property
    def used(self) -> set[str]:
        return self.requests.used

    @property
    def recorded(self) -> set[str]:
        return self.requests.recorded

    @property
    def missed(self) -> int:
        return self.requests.missed

    def forget(self) -> Requests:
        """Begin to count anew; what was counted until then, when nothing goes on any more that a client has left."""
        counted = self._ended_within(_TO_THE_END_S)
        del self._lines[: len(counted)]  # another one may have ended since
        return counted

    def close(self) -> None:
        """End it; what has been recorded is in its cassette then."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._enough.set)
            self._thread.join()

    def _ended_within(self, seconds: float) -> Requests:
        is_quiet = True
        if self._thread.is_alive():
            is_quiet = asyncio.run_coroutine_threadsafe(self._app.quiet(seconds), self._loop).result()
        ended = Requests(self._lines)
        ended.goes_on = not is_quiet
        return ended

    def _run(self, settings: Settings) -> None:
        try:
            asyncio.run(self._serve(settings))
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self, settings: Settings) -> None:
        self._loop, self._enough = asyncio.get_running_loop(), asyncio.Event()
        async with App(settings, watch=self._lines.append) as self._app:
            self._started.set_result(self._app.base_url)
            await self._enough.wait()


@contextmanager
def replay(cassette: str | Path, **options: Unpack[Options]) -> Iterator[Gateway]:
    """A proxy that answers from a cassette and from nothing else: no upstream and no key are needed.

    A request that it has no recording for gets 504 `replay_miss`, with what the nearest recording was asked instead.

    Raises:
        FileNotFoundError: there is no such cassette.
        SettingsError: an option is wrong.
    """
    path = Path(cassette).absolute()  # the program may go elsewhere meanwhile
    if not path.exists() or (path.is_dir() and not any(path.glob("*.json"))):
        raise FileNotFoundError(f"there is no cassette at {path}; record one with proxy.testing.record")
    with serving({"cache.mode": "replay", "cache.cassette": path}, options) as gateway:
        yield gateway


@contextmanager
def record(
    cassette: str | Path, *, upstream: str | None = None, anew: bool = False, **options: Unpack[Options]
) -> Iterator[Gateway]:
    """A proxy that answers what it can from a cassette, a directory, asks the upstream for the rest and records that.

    `upstream` is by default what `OPENAI_BASE_URL` says, else OpenAI; `anew`: ask it for everything.

    Raises:
        SettingsError: an option is wrong.
    """
    path = Path(cassette).absolute()
    given: dict[str, object] = {
        "cache.mode": "record" if anew else "cache",
        "cache.record_to": path,
        "upstream.base_url": upstream or upstream_of(os.environ),
    }
    if path.exists() and not anew:
        given["cache.cassette"] = path
    with serving(given, options) as gateway:
        yield gateway


@contextmanager
def serving(given: Mapping[str, object], options: Options, *, port: int = 0) -> Iterator[Gateway]:
    """A proxy with settings by their dotted keys and by their short names; files and the environment have no say.

    It listens on another port where that one is not free.
    """
    events.configure("json", "warning", _StandardError())
    with TemporaryDirectory(prefix="reprise-", ignore_cleanup_errors=True) as store:
        common: dict[str, object] = {
            "server.port": 0,
            "server.drain_timeout": _DRAIN_S,
            "cache.directory": store,
            "cache.ttl": "0",
            "cache.linger": _DRAIN_S,
            "upstream.name": UPSTREAM_NAME,
        }
        short = {_KEYS.get(name, name): value for name, value in options.items()}
        settings = load(_NO_FILE, {**common, **given, **short}, {})
        try:
            gateway = Gateway(settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})}))
        except NoPlace:
            gateway = Gateway(settings)
        try:
            yield gateway
        finally:
            gateway.close()


def upstream_of(environ: Mapping[str, str]) -> str:
    """The API that a program with that environment asks."""
    return environ.get("OPENAI_BASE_URL") or _OPENAI


class _StandardError:
    """What is standard error at the moment: test runners change it from test to test."""

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
