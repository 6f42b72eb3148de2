"""What has ended is let go at once; the collector, for whose rounds every frame waits, finds little to do."""

import gc
import os
import socket
import weakref
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus

import pytest

from proxy.client import Client
from proxy.errors import ClientGone
from proxy.run import _COLLECTED_OBJECTS
from tests.by_hand import served
from tests.conftest import StartProxy
from tests.exchanges import take, until
from tests.harness import (
    ANSWER,
    CHAT,
    CLOSE,
    HELLO,
    PROMPT,
    RESET,
    STREAMED,
    Barrier,
    Part,
    Proxy,
    ScriptedUpstream,
    chunk,
    event,
    plain,
    sse_head,
    stream,
)

EXCHANGES: dict[str, tuple[Mapping[str, object], Sequence[Part]]] = {
    "a stream": (STREAMED, stream()),
    "a plain answer": (PROMPT, (plain(ANSWER),)),
    "an error": (PROMPT, (plain(b'{"error":{}}', status=b"500 Internal Server Error"),)),
    "no answer": (PROMPT, (RESET,)),
    "no HTTP": (PROMPT, (b"nonsense\r\n\r\n", CLOSE)),
    "a stream that breaks off": (STREAMED, (sse_head(), chunk(HELLO), RESET)),
}

TAKES_THE_LONGER_WAY = os.environ.get("REPRISE_UPSTREAM__FAST_CONNECTION") == "false"

MOST_LOOKED_THROUGH = 40_000
"""Objects in one round, of all but the oldest."""

ENOUGH_OBJECTS = 4_000_000


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Cycles stay, and the next collection shows what was in them."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.skipif(TAKES_THE_LONGER_WAY, reason="what aiohttp's client leaves of a failure is for the collector")
@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_an_exchange_that_has_ended_leaves_nothing_to_the_collector(
    exchange: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Nor does its connection: what one holds, bodies among it, would stay until some thousand others have ended."""
    asked, answer = EXCHANGES[exchange]
    upstream.will_send(*answer)

    await proxy.ask(asked)
    await proxy.close()

    assert await left_by(proxy) == []


@pytest.mark.usefixtures("uncollected")
@pytest.mark.skipif(TAKES_THE_LONGER_WAY, reason="what aiohttp's client leaves of a failure is for the collector")
async def test_an_upstream_that_nobody_reaches_leaves_nothing_to_the_collector(start_proxy: StartProxy) -> None:
    """However often it is asked, and however long the bodies are."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    proxy = await start_proxy(upstream__base_url=f"http://127.0.0.1:{port}/v1")

    assert (await proxy.ask()).status == HTTPStatus.BAD_GATEWAY
    await proxy.close()

    assert await left_by(proxy) == []


@pytest.mark.usefixtures("uncollected")
@pytest.mark.skipif(TAKES_THE_LONGER_WAY, reason="what aiohttp's client leaves of a failure is for the collector")
@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_a_client_that_leaves_within_a_stream_leaves_nothing_to_the_collector(
    target: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Neither what has come of the answer, whether it is recorded or only passed on."""
    proxy = await start_proxy(cache__linger="0")
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, *[chunk(event("x" * 60_000))] * 20)

    response = await proxy.ask(STREAMED, target)
    await take(response, HELLO)
    await barrier.reached.wait()
    await response.leave()
    barrier.release()

    assert await left_by(proxy) == []


@pytest.mark.usefixtures("uncollected")
async def test_a_client_whose_leaving_shows_at_a_write_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """As one that has closed its side while some of its answer is still to be sent: nobody is cancelled."""
    proxy = await start_proxy(cache__linger="0")
    barrier, refused = Barrier(), []
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(HELLO))

    def refuse(_: Client, data: bytes) -> None:
        refused.append(data)
        raise ClientGone("the connection is closed")

    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    await barrier.reached.wait()
    monkeypatch.setattr(Client, "_write", refuse)
    barrier.release()
    await until(lambda: len(refused) > 0)
    await response.leave()

    assert await left_by(proxy) == []


async def left_by(proxy: Proxy) -> list[object]:
    """What of ours only the collector has found, when all has ended."""
    await until(lambda: not served(proxy))
    await until(lambda: not proxy.app._traffic.active and not proxy.app._flights._unsettled)
    gc.collect()
    return [each for each in gc.garbage if type(each).__module__.startswith("proxy.")]


@pytest.fixture
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("thresholds")
def test_a_round_of_the_collector_looks_through_little_however_much_is_kept() -> None:
    """Recordings that stay in memory are looked at when they are new, and once more."""
    looked_through = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            looked_through.append(sum(len(gc.get_objects(each)) for each in range(info["generation"] + 1)))

    gc.collect()
    gc.set_threshold(*_COLLECTED_OBJECTS)
    gc.callbacks.append(note)
    try:
        kept = [[number] for number in range(10 * MOST_LOOKED_THROUGH)]
    finally:
        gc.callbacks.remove(note)

    assert len(looked_through) >= len(kept) / MOST_LOOKED_THROUGH
    assert max(looked_through) < MOST_LOOKED_THROUGH


@pytest.mark.usefixtures("thresholds")
def test_what_is_in_a_cycle_is_let_go_in_the_end() -> None:
    """What was there for long as well, such as a connection of hours: under load, too."""
    gc.collect()
    gc.set_threshold(*_COLLECTED_OBJECTS)
    connection = KnowsItself()
    known = weakref.ref(connection)
    gc.collect()
    gc.collect()
    del connection

    kept: list[object] = []
    while known() is not None and len(kept) < ENOUGH_OBJECTS:
        kept.append([])

    assert known() is None


class KnowsItself:
    """As a connection may."""

    def __init__(self) -> None:
        self.handler = self.handle

    def handle(self) -> None: ...
