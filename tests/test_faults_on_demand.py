"""Faults on demand: the client that asks for one meets it, wherever its answer comes from, and nobody else does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
import pytest

from proxy.staged import error_event
from tests.conftest import Log, StartProxy
from tests.exchanges import arrive_apart, listeners, start_asking, until, word
from tests.harness import (
    ANSWER,
    CHAT,
    CLOSE,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Connection,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
    stream,
)

FRAMES = (HELLO, WORLD, DONE)
SOURCES = ("MISS", "JOINED", "HIT", "replay")
RESPONSES = "/v1/responses"
PING = b": ping\n\n"
COMPLETED = b'data: {"type":"response.completed","response":{"status":"completed"}}\n\n'


def with_fault(fault: str) -> tuple[str, str]:
    return "X-Reprise-Fault", fault


@pytest.fixture
def start_proxy(start_proxy: StartProxy) -> StartProxy:
    """One that takes faults."""

    async def start(**given: object) -> Proxy:
        return await start_proxy(**{"server__allow_faults": "true", **given})

    return start


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Proxy:
    return await start_proxy()


class Scene:
    """A streamed answer from one of the sources; who asks for it without a fault hears it as ever."""

    def __init__(self, source: str, proxy: Proxy, upstream: ScriptedUpstream, frames: Sequence[bytes]) -> None:
        self.source = source
        self.proxy = proxy
        self.upstream = upstream
        self._frames = frames
        self._barriers = [Barrier() for _ in frames]
        self._other: Connection | None = None

    @property
    def is_live(self) -> bool:
        return self.source in ("MISS", "JOINED")

    async def ask(self, fault: str, arrived: int) -> Response:
        """Ask for the answer, of which so many frames have arrived, if it is not recorded; when its head has come."""
        connection = await self.start_asking(fault)
        await self.arrive(arrived)
        response = await connection.response("POST")
        assert response.get("x-cache-status") == ("HIT" if self.source == "replay" else self.source)
        return response

    async def start_asking(self, fault: str) -> Connection:
        if not self.is_live:
            return await start_asking(self.proxy, STREAMED, with_fault(fault))
        held = [part for pair in zip(self._barriers, map(chunk, self._frames), strict=True) for part in pair]
        self.upstream.will_send(sse_head(), *held, LAST_CHUNK)
        if self.source == "JOINED":
            self._other = await start_asking(self.proxy)
            await until(lambda: listeners(self.proxy) == 1)
        connection = await start_asking(self.proxy, STREAMED, with_fault(fault))
        await until(lambda: listeners(self.proxy) == (2 if self.source == "JOINED" else 1))
        return connection

    async def arrive(self, arrived: int) -> None:
        """Let the upstream send up to so many frames, each by itself."""
        if not self.is_live:
            return
        (flight,) = self.proxy.app._flights._by_key.values()
        for number, barrier in enumerate(self._barriers[:arrived], 1):
            barrier.release()
            await until(lambda number=number: flight._log.kept.arrived >= number)  # type: ignore[misc]

    async def is_recorded_whole(self) -> bool:
        """Whether the rest of it comes to whoever has no fault: one who shares it, and one who asks later."""
        for barrier in self._barriers:
            barrier.release()
        await until(lambda: not self.proxy.app._flights._by_key)
        whole = b"".join(self._frames)
        heard = []
        if self._other is not None:
            heard.append(await (await self._other.response("POST")).body())
            self._other = None
        later = await self.proxy.ask(STREAMED)
        heard.append(await later.body())
        assert later.get("x-cache-status") == "HIT"
        assert self.upstream.requests_seen == 1
        assert b"x-reprise" not in self.upstream.received[0].head.lower()
        return heard == [whole] * len(heard)


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


MakeScene = Callable[..., Awaitable[Scene]]


@pytest.fixture
def make_scene(source: str, start_proxy: StartProxy, upstream: ScriptedUpstream) -> MakeScene:
    async def make(*frames: bytes, **given: object) -> Scene:
        frames = frames or FRAMES
        proxy = await start_proxy(**given)
        if source in ("HIT", "replay"):
            await arrive_apart(proxy, upstream, *frames)
            await until(lambda: not proxy.app._flights._by_key)
        if source == "replay":
            await proxy.app.stop()
            proxy = await start_proxy(cache__mode="replay", **given)
        return Scene(source, proxy, upstream, frames)

    return make


async def faulty_line(log: Log) -> dict[str, Any]:
    """The line of the request that had a fault."""
    number = 0
    while "fault" not in (line := await log.line(number)):
        number += 1
    return line


# Cut off


@pytest.mark.parametrize("after", [0, 2, 3, 9])
async def test_a_cut_comes_after_so_many_events_and_is_no_end(after: int, make_scene: MakeScene, log: Log) -> None:
    """At once, though the next event is long in coming; an answer of fewer events is cut at its end."""
    scene = await make_scene()

    response = await scene.ask(f"cut-after={after}", arrived=min(after, 2))
    if after > 2:
        await scene.arrive(3)
    if after > len(FRAMES):
        assert await scene.is_recorded_whole()

    assert await response.body_broken_off() == b"".join(FRAMES[:after])
    assert response.status == 200
    assert response.chunks == list(FRAMES[:after])
    assert await scene.is_recorded_whole()
    line = await faulty_line(log)
    assert (line["status"], line["outcome"], line["fault"]) == (200, "upstream_truncated", f"cut-after={after}")
    assert line["frames"] == min(after, len(FRAMES))


@pytest.mark.parametrize("frames", [[STREAM], [HELLO[:7], HELLO[7:] + WORLD[:3], WORLD[3:] + DONE[:2], DONE[2:]]])
@pytest.mark.parametrize("fault", ["cut-after=1", "error-event=1", "cut-after=2", "error-event=2"])
async def test_events_are_counted_however_they_came(
    fault: str, frames: list[bytes], proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Several of them in one read, or one in several: an SDK has not met `[DONE]` before the fault."""
    await arrive_apart(proxy, upstream, *frames)

    response = await proxy.ask(STREAMED, headers=dict([with_fault(fault)]))

    number = int(fault[-1])
    passed = b"".join((HELLO, WORLD)[:number])
    if fault.startswith("cut"):
        assert await response.body_broken_off() == passed
    else:
        assert await response.body() == passed + error_event(CHAT, number)
    assert response.get("x-cache-status") == "HIT"


async def test_comments_are_no_events(make_scene: MakeScene) -> None:
    """How many of them an upstream sends depends on how long it takes."""
    scene = await make_scene(PING, HELLO, PING, PING, WORLD, DONE)

    response = await scene.ask("cut-after=2", arrived=5)

    assert await response.body_broken_off() == PING + HELLO + PING + PING + WORLD
    assert await scene.is_recorded_whole()


@pytest.mark.parametrize(
    "way",
    [{"server__fast_lane": "false"}, {"server__fast_lane": "true"}, {"upstream__fast_connection": "false"}],
    ids=str,
)
async def test_a_cut_is_the_same_on_every_way(way: Mapping[str, str], make_scene: MakeScene) -> None:
    """Whatever answers hits, and asks the upstream."""
    scene = await make_scene(**way)

    response = await scene.ask("cut-after=1", arrived=1)

    assert await response.body_broken_off() == HELLO
    assert await scene.is_recorded_whole()


async def test_a_cut_costs_no_recording_even_where_nothing_lingers(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """The client has not left, as far as its answer is concerned: the fault was to be its own."""
    proxy = await start_proxy(cache__linger="0")
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD + DONE) + LAST_CHUNK)

    cut = await proxy.ask(STREAMED, headers=dict([with_fault("cut-after=1")]))
    assert await cut.body_broken_off() == HELLO
    await until(lambda: listeners(proxy) == 0)
    for _ in range(20):  # time enough to abandon it
        assert (await proxy.send("GET", "/healthz")).status == 200
    barrier.release()
    await until(lambda: not proxy.app._flights._by_key)

    assert await word(proxy.ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_plain_answer_is_cut_where_its_length_would_hide_it(
    after: int, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Behind its last byte, too: it has no length then, and lacks the last chunk."""
    upstream.will_send(plain(ANSWER))

    for expected in ("MISS", "HIT"):
        response = await proxy.ask(headers=dict([with_fault(f"cut-after={after}")]))
        assert response.get("x-cache-status") == expected
        assert response.get("content-length") is None
        assert await response.body_broken_off() == (ANSWER if after else b"")
        await until(lambda: not proxy.app._flights._by_key)

    whole = await proxy.ask()
    assert await whole.body() == ANSWER
    assert whole.get("content-length") == str(len(ANSWER))


@pytest.mark.parametrize("asked", [PROMPT, STREAMED], ids=["plain", "stream"])
async def test_http_1_0_is_cut_by_a_reset(
    asked: Mapping[str, object], proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Where the end of the connection is the end of the answer, nothing else tells of a failure."""
    upstream.will_send(*(stream() if "stream" in asked else [plain(ANSWER)]))
    fields = [("Content-Type", "application/json"), with_fault("cut-after=1")]

    for _ in range(2):
        response = await proxy.send("POST", CHAT, fields, orjson.dumps(asked), version="1.0")
        assert response.get("content-length") is None
        with pytest.raises(ConnectionError):
            await response.body()
        await until(lambda: not proxy.app._flights._by_key)


# An error in mid-stream


@pytest.mark.parametrize("after", [0, 2, 9])
async def test_an_error_event_ends_a_stream(after: int, make_scene: MakeScene, log: Log) -> None:
    """After so many events, or behind all of them, and cleanly: the stream tells of it, not the transfer."""
    scene = await make_scene()

    response = await scene.ask(f"error-event={after}", arrived=min(after, 2))
    if after > len(FRAMES):
        assert await scene.is_recorded_whole()

    passed = len(FRAMES[:after])
    assert await response.body() == b"".join(FRAMES[:after]) + error_event(CHAT, passed)
    assert await scene.is_recorded_whole()
    line = await faulty_line(log)
    assert (line["status"], line["outcome"], line["fault"]) == (200, "complete", f"error-event={after}")


async def test_an_error_event_waits_for_the_end_of_an_event(make_scene: MakeScene) -> None:
    """Frames are cut anywhere; an event within an event would be no event."""
    scene = await make_scene(HELLO[:7], HELLO[7:] + WORLD[:3], WORLD[3:], DONE)

    response = await scene.ask("error-event=1", arrived=3)

    assert await response.body() == HELLO + error_event(CHAT, 1)
    assert await scene.is_recorded_whole()


async def test_an_error_event_of_the_responses_route_has_its_form(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """There events have names."""
    upstream.will_send(*stream(COMPLETED))

    for _ in range(2):
        response = await proxy.ask(STREAMED, RESPONSES, headers=dict([with_fault("error-event=0")]))
        body = await response.body()
        assert body.startswith(b'event: error\ndata: {"type":"error","error":{')
        assert body.endswith(b"\n\n")


async def test_an_error_event_in_what_is_no_stream_is_refused(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """And the answer is recorded all the same."""
    upstream.will_send(plain(ANSWER))
    fields = dict([with_fault("error-event=1")])

    for _ in range(2):
        refused = await proxy.ask(headers=fields)
        assert (refused.status, b"error-event" in await refused.body()) == (400, True)
        await until(lambda: not proxy.app._flights._by_key)

    assert await word(proxy.ask()) == "HIT"


@pytest.mark.parametrize("content_type", [b"application/json", b"text/event-stream"])
async def test_an_error_of_the_upstreams_own_gets_no_error_event(
    content_type: bytes, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """It is passed on as it is: with an event behind it, it would be neither JSON nor what the upstream has said."""
    refusal = b'{"error":{}}\n\n'
    upstream.will_send(plain(refusal, status=b"429 Slow Down", content_type=content_type))

    response = await proxy.ask(STREAMED, headers=dict([with_fault("error-event=1")]))

    assert (response.status, await response.body()) == (429, refusal)
    assert response.get("content-length") == str(len(refusal))


@pytest.mark.parametrize("fault", ["error-event=5", "gap=0ms", "first-byte=0s", "cut-after=5"])
async def test_a_real_failure_is_no_less_of_one(fault: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """What the upstream breaks off is broken off, behind all that came of it."""
    upstream.will_send(sse_head(), chunk(HELLO), chunk(WORLD), CLOSE)

    response = await proxy.ask(STREAMED, headers=dict([with_fault(fault)]))

    assert await response.body_broken_off() == HELLO + WORLD


# Slow


async def is_waiting(connection: Connection, proxy: Proxy) -> bool:
    """Whether nothing has come while a whole other exchange took place."""
    coming = asyncio.create_task(connection.reader.read(1))
    assert (await proxy.send("GET", "/healthz")).status == 200
    waiting = not coming.done()
    coming.cancel()
    await asyncio.wait([coming])
    return waiting


async def test_a_late_head_is_late_for_one_only(make_scene: MakeScene) -> None:
    """The upstream is asked at once, and everybody else has the answer, while this client waits for its head."""
    scene = await make_scene()

    connection = await scene.start_asking("first-byte=60s")

    assert await scene.is_recorded_whole()
    assert await is_waiting(connection, scene.proxy)
    await connection.close()


async def test_a_late_head_comes(make_scene: MakeScene, log: Log) -> None:
    """No sooner than it was asked for, and then the whole answer as ever."""
    scene = await make_scene()
    loop = asyncio.get_running_loop()
    started_s = loop.time()

    response = await scene.ask("first-byte=50ms", arrived=3)

    assert loop.time() - started_s >= 0.05
    assert await scene.is_recorded_whole()
    assert await response.body() == STREAM
    assert (await faulty_line(log))["outcome"] == "complete"


async def test_slow_frames_are_slow_for_one_only(make_scene: MakeScene) -> None:
    """Nothing holds the upstream back: the answer is recorded, and with others, while this client waits."""
    scene = await make_scene(HELLO, *([PING] * 8), WORLD, DONE)

    response = await scene.ask("gap=60s", arrived=2)

    assert await response.next_chunk() == HELLO
    assert await scene.is_recorded_whole()
    assert await is_waiting(Connection(response._reader, response._writer), scene.proxy)
    await response.leave()


async def test_the_head_waits_for_no_frame(make_scene: MakeScene) -> None:
    """It comes as soon as it is there, as it does without a fault."""
    scene = await make_scene()

    response = await scene.ask("gap=0ms", arrived=0)

    assert response.status == 200
    assert await scene.is_recorded_whole()
    assert await response.body() == STREAM


async def test_slow_frames_come_one_by_one(make_scene: MakeScene) -> None:
    """With such a gap between each two, up to the clean end."""
    scene = await make_scene()
    loop = asyncio.get_running_loop()
    started_s = loop.time()

    response = await scene.ask("gap=20ms", arrived=3)
    assert await scene.is_recorded_whole()

    assert await response.body() == STREAM
    assert response.chunks == list(FRAMES)
    assert loop.time() - started_s >= 0.04


async def test_faults_go_together(make_scene: MakeScene, log: Log) -> None:
    """A late head, slow frames, and a cut."""
    scene = await make_scene()
    loop = asyncio.get_running_loop()
    started_s = loop.time()

    response = await scene.ask("first-byte=20ms,gap=20ms,cut-after=2", arrived=2)

    assert await response.body_broken_off() == HELLO + WORLD
    assert loop.time() - started_s >= 0.04
    assert await scene.is_recorded_whole()
    assert (await faulty_line(log))["fault"] == "first-byte=20ms, gap=20ms, cut-after=2"


async def test_a_long_answer_comes_whole(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Of which only a part waits here for its turn."""
    frames = [b": " + bytes([65 + number % 26]) * 64 * 1024 + b"\n\n" for number in range(48)] + [DONE]
    upstream.will_send(*stream(*frames))

    for expected in ("MISS", "HIT"):
        response = await proxy.ask(STREAMED, headers=dict([with_fault("gap=0ms")]))
        assert response.get("x-cache-status") == expected
        assert await response.body() == b"".join(frames)


async def test_of_a_long_answer_only_a_part_waits_here(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """The upstream is held back then, as by any client that is slow, until the client has left."""
    upstream.will_send(sse_head(), *[chunk(b": " + bytes(64 * 1024) + b"\n\n")] * 128, chunk(DONE) + LAST_CHUNK)

    response = await proxy.ask(STREAMED, headers=dict([with_fault("gap=60s")]))
    (flight,) = proxy.app._flights._by_key.values()
    await until(lambda: flight._log._is_paused)
    assert flight.size_bytes < 4 * 1024 * 1024
    await response.leave()
    await until(lambda: not proxy.app._flights._by_key)

    assert await word(proxy.ask(STREAMED)) == "HIT"


# A status in place of the answer


@pytest.mark.parametrize("mode", ["cache", "replay"])
@pytest.mark.parametrize("fault", ["status=429", "first-byte=1ms, status=429"])
async def test_a_rate_limit_is_told_as_openai_does(
    mode: str, fault: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Whatever is recorded, and without asking anyone; the connection goes on."""
    upstream.will_send(plain(ANSWER))
    recorder = await start_proxy()
    await word(recorder.ask())
    await recorder.app.stop()
    proxy = await start_proxy(cache__mode=mode)
    connection = await proxy.connect()

    for asked in (PROMPT, STREAMED):
        fields = [("Content-Type", "application/json"), with_fault(fault)]
        connection.send(request_bytes("POST", CHAT, fields, orjson.dumps(asked)))
        response = await connection.response("POST")
        assert (response.status, response.reason) == (429, "Too Many Requests")
        assert (response.get("retry-after"), response.get("retry-after-ms")) == ("1", "250")
        assert response.get("x-ratelimit-remaining-requests") == "0"
        assert response.get("x-cache-status") is None
        error: Any = (await response.json())["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")

    connection.send(request_bytes("POST", CHAT, [("Content-Type", "application/json")], orjson.dumps(PROMPT)))
    assert (await connection.response("POST")).get("x-cache-status") == "HIT"
    assert upstream.requests_seen == 1
    line = await faulty_line(log)
    assert (line["status"], line["outcome"], line["error"]) == (429, "rejected", "staged_fault")
    assert (line["fault"], line["model"]) == (fault, "gpt-4o-mini")


async def test_any_other_error_has_no_headers_of_a_rate_limit(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Only its status and its form."""
    response = await proxy.ask(headers=dict([with_fault("status=500")]))

    assert response.status == 500
    assert response.get("retry-after") is None
    error: Any = (await response.json())["error"]
    assert (error["type"], error["code"]) == ("server_error", None)
    assert upstream.requests_seen == 0


# Where else


@pytest.mark.parametrize(("fault", "status"), [("status=503", 503), ("cut-after=0", 200), ("first-byte=1ms", 200)])
async def test_faults_are_for_routes_that_are_passed_through_too(
    fault: str, status: int, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """It is one way for all requests."""
    upstream.will_send(plain(ANSWER))

    response = await proxy.send("GET", "/v1/models", [with_fault(fault)])

    assert response.status == status
    if fault == "cut-after=0":
        assert await response.body_broken_off() == b""
    assert upstream.requests_seen == (status == 200)


@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_without_the_setting_a_fault_is_refused(
    target: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Whoever asks for one reads what to set; ignored, his test would pass for the wrong reason."""
    proxy = await start_proxy(server__allow_faults="false")

    response = await proxy.ask(PROMPT, target, headers=dict([with_fault("cut-after=5")]))

    assert response.status == 400
    assert b"server.allow_faults" in await response.body()
    assert upstream.requests_seen == 0


async def test_a_fault_that_cannot_be_read_is_refused(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """With what there is."""
    response = await proxy.ask(headers=dict([with_fault("cut=5")]))

    assert response.status == 400
    assert b"cut-after=5" in await response.body()
    assert upstream.requests_seen == 0


@pytest.mark.parametrize("lane", ["true", "false"])
async def test_a_request_that_comes_again_meets_its_fault_again(
    lane: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """On one connection, between requests without: what is known of a head by its bytes does not pass it by."""
    proxy = await start_proxy(server__fast_lane=lane)
    await arrive_apart(proxy, upstream, *FRAMES)
    connection = await proxy.connect()
    fields, body = [("Content-Type", "application/json")], orjson.dumps(STREAMED)

    for _ in range(3):
        for more, chunks in (((), [STREAM]), ((with_fault("gap=0ms"),), list(FRAMES))):
            connection.send(request_bytes("POST", CHAT, [*fields, *more], body))
            response = await connection.response("POST")
            assert await response.body() == STREAM
            assert response.chunks == chunks


@pytest.mark.parametrize("fault", ["first-byte=60s", "gap=60s"])
async def test_a_client_that_leaves_in_the_midst_leaves_nothing_behind(
    fault: str, make_scene: MakeScene, log: Log
) -> None:
    """And the answer is recorded all the same."""
    scene = await make_scene(cache__linger="0")
    connection = await scene.start_asking(fault)
    await scene.arrive(1)

    connection.writer.transport.abort()
    await until(lambda: listeners(scene.proxy) == (1 if scene.source == "JOINED" else 0))

    assert await scene.is_recorded_whole()
    assert (await faulty_line(log))["outcome"] == "client_disconnected"
