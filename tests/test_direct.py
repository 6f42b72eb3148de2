"""The proxy's own connections to the upstream, as its transport and its sink see them, and the pool that keeps them.

What it makes of an upstream that misbehaves is in the tests of the whole proxy, which ask it by default.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy import events
from proxy import pool as pools
from proxy.answer import DirectAnswer
from proxy.config import UpstreamSettings
from proxy.direct import DirectConnection, Patience
from proxy.errors import RepriseError, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from proxy.pool import Pool
from proxy.upstream import Outgoing, Upstream
from tests.by_hand import UpstreamByHand, quiet
from tests.commands import connect, running
from tests.harness import (
    ANSWER,
    CHAT,
    CLOSE,
    HELLO,
    LAST_CHUNK,
    PATIENCE_S,
    WORLD,
    Barrier,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
    stream,
)
from tests.harness import settings as settings_of
from tests.raw import MiB

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n"
LONG, LONGER = 300.0, 600.0


class Cable(asyncio.Transport):
    """A transport of which a test sees everything, and at whose other end it is."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_reading_paused = False
        self.waiting_bytes = 0
        self.end: str | None = None

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def is_closing(self) -> bool:
        return self.end is not None

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Keeper:
    """Whom a connection belongs to, and what it has said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def take_back(self, connection: DirectConnection) -> None:
        self.said.append("open" if connection.is_open else "closed")

    def forget(self, connection: DirectConnection) -> None:
        self.said.append("forgotten")


class Heard:
    """A sink, and what it has been told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []
        self.ended = asyncio.Event()
        self.hears: Callable[[], None] = lambda: None

    def append(self, frame: bytes) -> None:
        self.told.append(frame)
        self.hears()

    def finish(self) -> None:
        self.told.append("finished")
        self.ended.set()

    def break_off(self, reason: UpstreamBroken) -> None:
        self.told.append(f"broken off: {reason}")
        self.ended.set()


class Line:
    """A connection between a cable and its keeper."""

    def __init__(self) -> None:
        self.cable, self.keeper = Cable(), Keeper()
        self.connection = DirectConnection(Patience(LONGER, LONG), self.keeper)
        self.connection.connection_made(self.cable)

    def ask(self, body: bytes = b"{}") -> asyncio.Future[DirectAnswer]:
        asked: asyncio.Future[DirectAnswer] = asyncio.get_running_loop().create_future()
        self.connection.ask(REQUEST, body, asked)
        return asked

    async def answered(self, *reads: bytes) -> DirectAnswer:
        """The answer to a request, of which so much has come."""
        asked = self.ask()
        for data in reads:
            self.connection.data_received(data)
        return await asked

    async def heard(self, *reads: bytes) -> Heard:
        answer, sink = await self.answered(*reads), Heard()
        answer.flow(sink)
        return sink

    def wait_s(self, seconds: float) -> None:
        """So long has nothing come; and the timer rings."""
        self.connection._since_s -= seconds
        assert self.connection._alarm is not None
        self.connection._alarm.cancel()
        self.connection._look()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    yield line
    line.connection.connection_lost(None)


# Requests go out


async def test_a_request_is_one_write(line: Line) -> None:
    """Head and body, so that they are one packet, if they fit into one."""
    await line.answered(plain(ANSWER))

    assert line.cable.written == [REQUEST + b"{}"]


async def test_a_large_body_goes_out_as_it_is_taken(line: Line) -> None:
    """The transport is never given a second copy of what it can't get rid of."""
    body, pieces = bytes(range(256)) * 4096, []

    class FullAtOnce(Cable):
        def write(self, data: Any) -> None:
            super().write(data)
            line.connection.pause_writing()

    line.cable = FullAtOnce()
    line.connection.connection_made(line.cable)
    asked = line.ask(body)
    while line.connection._unsent is not None:
        pieces.append(len(line.cable.written))
        line.connection.resume_writing()

    assert pieces == list(range(1, len(pieces) + 1)), "one write each time that it has room"
    assert b"".join(line.cable.written) == REQUEST + body
    assert max(map(len, line.cable.written)) <= MiB // 4
    line.connection.data_received(plain(ANSWER))
    assert (await asked).head.status == 200
    assert line.keeper.said == ["open"]


@pytest.mark.parametrize("where", ["not given to the transport", "not taken from it"])
async def test_an_answer_before_the_end_of_its_request_is_the_last(where: str, line: Line) -> None:
    """It is passed on; but what is left of the request would be read as the next one."""
    line.connection.pause_writing()
    if where == "not taken from it":
        line.cable.waiting_bytes = 1
    asked = line.ask(bytes(MiB) if where == "not given to the transport" else b"{}")
    sink = Heard()

    line.connection.data_received(plain(b"too much", status=b"413 Payload Too Large"))
    (await asked).flow(sink)

    assert sink.told == [b"too much", "finished"]
    assert (line.cable.end, line.keeper.said) == ("aborted", ["closed"])


# Frames come in


async def test_what_one_read_gives_is_one_frame(line: Line) -> None:
    """However many chunks it holds, and wherever they are cut; the end comes with the last of them."""
    sink = await line.heard(sse_head())
    reads = [chunk(HELLO) + chunk(WORLD), chunk(b"ab")[:-3], chunk(b"ab")[-3:], b"3\r\n", b"c\r\n\r\n" + LAST_CHUNK]

    for data in reads:
        line.connection.data_received(data)

    assert sink.told == [HELLO + WORLD, b"a", b"b", b"c\r\n", "finished"]
    assert line.keeper.said == ["open"]


async def test_what_came_before_anyone_listened_is_told_at_once(line: Line) -> None:
    """In the frames that it came in, with the end."""
    sink = await line.heard(sse_head() + chunk(HELLO), chunk(WORLD), LAST_CHUNK)

    assert sink.told == [HELLO, WORLD, "finished"]


async def test_an_answer_that_nobody_listens_to_yet_is_not_read_without_end(line: Line) -> None:
    """Beyond what one read may give the upstream waits."""
    answer = await line.answered(sse_head())
    frame = bytes(100_000)
    for _ in range(3):
        assert not line.cable.is_reading_paused
        line.connection.data_received(chunk(frame))
    assert line.cable.is_reading_paused
    sink = Heard()

    answer.flow(sink)

    assert sink.told == [frame] * 3
    assert not line.cable.is_reading_paused


async def test_nothing_is_told_while_it_is_paused(line: Line) -> None:
    """What TLS had read already is told afterwards, in its order, as far as it is wanted then."""
    answer = await line.answered(sse_head())
    sink = Heard()
    sink.hears = answer.pause
    answer.flow(sink)

    for data in (HELLO, WORLD, b"more"):
        line.connection.data_received(chunk(data))
    line.connection.data_received(LAST_CHUNK)
    assert sink.told == [HELLO]
    assert line.cable.is_reading_paused is False, "the connection is back with its keeper, who wants to hear of its end"
    answer.resume()
    assert sink.told == [HELLO, WORLD]
    sink.hears = lambda: None
    answer.resume()

    assert sink.told == [HELLO, WORLD, b"more", "finished"]


async def test_a_pause_stops_reading(line: Line) -> None:
    """And going on goes on with it."""
    answer = await line.answered(sse_head())
    answer.flow(Heard())

    answer.pause()
    assert line.cable.is_reading_paused
    answer.resume()

    assert not line.cable.is_reading_paused


async def test_who_leaves_is_told_nothing_more(line: Line) -> None:
    """Nor is the connection used again; leaving twice, or after the end, is no harm."""
    answer = await line.answered(sse_head())
    sink = Heard()
    sink.hears = answer.close
    answer.flow(sink)

    line.connection.data_received(chunk(HELLO) + LAST_CHUNK)
    answer.close()
    answer.resume()

    assert sink.told == [HELLO]
    assert (line.cable.end, line.keeper.said) == ("closed", ["closed"])


async def test_an_answer_that_has_ended_has_no_hold_on_the_next(line: Line) -> None:
    """Its connection is at work for somebody else."""
    answer = await line.answered(plain(ANSWER))
    sink = await line.heard(sse_head())

    answer.pause()
    answer.close()
    line.connection.data_received(chunk(HELLO))

    assert sink.told == [HELLO]
    assert not line.cable.is_reading_paused


# Silence


async def test_one_timer_serves_many_requests(line: Line) -> None:
    """To make one for each request, or frame, would cost more than to read it."""
    await line.answered(plain(ANSWER))
    alarm = line.connection._alarm

    for _ in range(3):
        (await line.answered(sse_head() + chunk(HELLO), chunk(WORLD), LAST_CHUNK)).flow(Heard())

    assert line.connection._alarm is alarm


async def test_no_head_in_time(line: Line) -> None:
    """Bytes of it are no sign of life."""
    asked = line.ask()
    line.wait_s(LONGER - 1)
    line.connection.data_received(b"HTTP/1.1 200 OK\r\n")
    assert not asked.done()

    line.wait_s(1)

    with pytest.raises(UpstreamTimeout):
        await asked
    assert (line.cable.end, line.keeper.said) == ("closed", ["closed"])


async def test_silence_within_a_body_is_measured_from_the_last_byte(line: Line) -> None:
    """However small, data or not."""
    sink = await line.heard(sse_head())
    for data in (b"5", b"\r\n", b"hello"):
        line.wait_s(LONG - 1)
        line.connection.data_received(data)
    assert sink.told == [b"hello"]

    line.wait_s(LONG)

    assert sink.told == [b"hello", "broken off: the upstream fell silent for upstream.idle_timeout"]
    assert line.keeper.said == ["closed"]


async def test_it_is_no_silence_while_nothing_is_read(line: Line) -> None:
    """It is our client then who takes nothing; the time begins anew when he does."""
    answer, sink = await line.answered(sse_head()), Heard()
    answer.flow(sink)
    answer.pause()
    line.wait_s(10 * LONG)
    assert line.cable.end is None

    answer.resume()
    line.wait_s(LONG - 1)
    assert line.cable.end is None
    line.wait_s(1)

    assert line.cable.end == "closed"


async def test_a_connection_without_a_request_has_no_timer(line: Line) -> None:
    """Its keeper decides how long it is kept."""
    await line.answered(plain(ANSWER))
    line.wait_s(LONGER)

    assert line.connection._alarm is None
    assert line.connection.is_open


# The end of a connection


@pytest.mark.parametrize(("extra", "is_open"), [(b"\r\n", True), (b"H", False), (plain(ANSWER), False)])
async def test_what_comes_unasked_ends_the_connection(extra: bytes, is_open: bool, line: Line) -> None:  # noqa: FBT001
    """But for an empty line, which old servers send behind a body."""
    await line.answered(plain(ANSWER))

    line.connection.data_received(extra)

    assert line.connection.is_open is is_open
    assert line.keeper.said == ["open"] + ["forgotten"] * (not is_open)


async def test_an_upstream_that_ends_while_it_does_not_take_the_request(line: Line) -> None:
    """A transport that closes waits for what is to be sent; nobody will take it."""
    line.cable.waiting_bytes = 1
    asked = line.ask()

    line.connection.eof_received()
    assert line.cable.end == "aborted"
    line.connection.connection_lost(None)

    with pytest.raises(UpstreamUnreachable):
        await asked


# The pool


@pytest.fixture
async def asking(upstream: ScriptedUpstream, tmp_path: Any) -> AsyncIterator[Callable[..., Upstream]]:
    """A function that gives an upstream to ask, with settings of the test's own."""
    opened: list[Upstream] = []

    def ask(**overrides: object) -> Upstream:
        settings = settings_of(upstream.base_url, tmp_path, **{"upstream__fast_connection": True, **overrides})
        opened.append(Upstream(settings.upstream))
        return opened[-1]

    yield ask
    for each in opened:
        await each.__aexit__(None, None, None)
    await upstream.wait_until(lambda: upstream.connections == 0)


def post(body: bytes = b"{}") -> Outgoing:
    return Outgoing("POST", CHAT, ((b"Content-Type", b"application/json"),), body)


GET = Outgoing("GET", "/v1/models", (), None)


async def whole(upstream: Upstream, outgoing: Outgoing) -> list[bytes | str]:
    async with asyncio.timeout(PATIENCE_S):
        answer, sink = await upstream.send(outgoing, lambda: None), Heard()
        answer.flow(sink)
        await sink.ended.wait()
    return sink.told


def pool_of(upstream: Upstream) -> Pool:
    assert upstream._pool is not None
    return upstream._pool


async def test_a_connection_is_used_again(asking: Callable[..., Upstream], upstream: ScriptedUpstream) -> None:
    """After a plain answer and after a stream; what was used last is used next."""
    ours = asking()
    upstream.will_send(*stream())
    await asyncio.gather(*(whole(ours, post()) for _ in range(3)))
    last = next(reversed(pool_of(ours)._idle))
    upstream.will_send(plain(ANSWER))

    for _ in range(3):
        assert await whole(ours, post()) == [ANSWER, "finished"]
        assert next(reversed(pool_of(ours)._idle)) is last

    assert upstream.connections_seen == 3


async def test_a_connection_that_has_waited_too_long_is_closed(
    asking: Callable[..., Upstream], upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the upstream closes it just as a request is on its way."""
    monkeypatch.setattr(pools, "IDLE_S", 0.01)
    ours = asking()
    upstream.will_send(plain(ANSWER))
    await whole(ours, post())

    await upstream.wait_until(lambda: upstream.connections == 0)

    assert not pool_of(ours)._idle
    assert pool_of(ours)._sweeping is None


async def test_an_old_connection_is_not_used_though_nobody_has_swept(
    asking: Callable[..., Upstream], upstream: ScriptedUpstream
) -> None:
    """The timer is a coarse one."""
    ours = asking()
    upstream.will_send(plain(ANSWER))
    await whole(ours, post())
    (connection,) = pool_of(ours)._idle
    pool_of(ours)._idle[connection] -= pools.IDLE_S + 1

    await whole(ours, post())

    assert upstream.connections_seen == 2


async def test_a_connection_that_the_upstream_closes_is_forgotten(
    asking: Callable[..., Upstream], upstream: ScriptedUpstream
) -> None:
    """Nothing has been sent on it since, so the next request goes on another one."""
    ours = asking()
    barrier = Barrier()
    upstream.will_send(plain(ANSWER), barrier, CLOSE)
    await whole(ours, post())
    barrier.release()
    await upstream.wait_until(lambda: upstream.connections == 0)
    await quiet(lambda: len(pool_of(ours)._idle))

    assert not pool_of(ours)._idle
    upstream.will_send(plain(ANSWER))
    assert await whole(ours, post()) == [ANSWER, "finished"]


@pytest.mark.parametrize("leaves", ["before the head", "in the body", "in its turn"])
@pytest.mark.parametrize("first", [GET, post()], ids=["by aiohttp", "on our own"])
async def test_one_bound_holds_for_all_connections(
    *, first: Outgoing, leaves: str, asking: Callable[..., Upstream], upstream: ScriptedUpstream
) -> None:
    """`upstream.max_connections`: whoever is beyond it waits, whichever way he asks, and is served in turn."""
    ours = asking(upstream__max_connections=1)
    barrier = Barrier()
    upstream.will_send(*([barrier] if leaves == "before the head" else [sse_head(), chunk(HELLO), barrier]))
    upstream.will_send(plain(ANSWER))
    leaving = asyncio.create_task(ours.send(first, lambda: None))
    await barrier.reached.wait()
    waiting = [asyncio.create_task(whole(ours, outgoing)) for outgoing in (GET, post(), GET, post())]
    await quiet(lambda: upstream.requests_seen)
    assert upstream.requests_seen == 1

    if leaves == "in its turn":
        waiting.pop(0).cancel()
    if leaves == "before the head":
        leaving.cancel()
    else:
        (await leaving).close()

    async with asyncio.timeout(PATIENCE_S):
        assert await asyncio.gather(*waiting) == [[ANSWER, "finished"]] * len(waiting)
    methods = [received.request_line.partition(" ")[0] for received in upstream.received]
    assert methods[1:] == ["GET", "POST", "GET", "POST"][-len(waiting) :]
    assert ours._turns is not None
    assert ours._turns._value == 1


async def test_a_turn_is_passed_on_where_no_connection_is_made(
    asking: Callable[..., Upstream], upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the three attempts gives it back."""
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)
    assert upstream._server is not None
    ours = asking(upstream__max_connections=1)
    upstream._server.close()
    await upstream._server.wait_closed()

    for outgoing in (post(), GET):
        with pytest.raises(UpstreamUnreachable):
            await ours.send(outgoing, lambda: None)

    assert ours._turns is not None
    assert ours._turns._value == 1


@pytest.mark.parametrize("has_ended", [True, False])
async def test_one_who_leaves_as_the_head_comes_closes_what_is_his(
    *,
    has_ended: bool,
    asking: Callable[..., Upstream],
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer that goes on, but not a connection that may be at work for another one already."""
    ours = asking()
    upstream.will_send(plain(ANSWER))
    await whole(ours, post())
    (connection,) = pool_of(ours)._idle
    upstream.will_send(*([plain(ANSWER)] if has_ended else [sse_head(), Barrier()]))
    leaving = asyncio.create_task(ours.send(post(), lambda: None))
    received = connection.data_received

    def receive_and_leave(data: bytes) -> None:
        received(data)
        leaving.cancel()

    with monkeypatch.context() as patched:
        patched.setattr(connection, "data_received", receive_and_leave)
        with pytest.raises(asyncio.CancelledError):
            await leaving

    assert list(pool_of(ours)._idle) == [connection] * has_ended
    assert not pool_of(ours)._busy


async def test_what_nobody_takes_is_not_read(by_hand: UpstreamByHand) -> None:
    """A paused answer stays with its upstream, but for what the kernel holds."""
    async with Upstream(UpstreamSettings(base_url=by_hand.base_url)) as ours:
        asking = asyncio.create_task(ours.send(post(), lambda: None))
        link = await by_hand.accepted()
        await link.head()
        link.send(sse_head())
        answer, sink = await asking, Heard()
        answer.flow(sink)
        answer.pause()
        link.send(chunk(bytes(32 * MiB)) + LAST_CHUNK)
        left = await quiet(link.writer.transport.get_write_buffer_size)
        assert sink.told == []
        assert left > 16 * MiB

        answer.resume()

        async with asyncio.timeout(PATIENCE_S):
            await sink.ended.wait()
        assert sink.told.pop() == "finished"
        assert sum(map(len, sink.told)) == 32 * MiB


async def test_an_end_of_the_pool_is_told(asking: Callable[..., Upstream], upstream: ScriptedUpstream) -> None:
    """Whoever waits for something on one of its connections hears that there will be none."""
    ours = asking()
    upstream.will_send(sse_head(), Barrier())
    answer, sink = await ours.send(post(), lambda: None), Heard()
    answer.flow(sink)
    upstream.will_send(Barrier())
    waiting = asyncio.create_task(ours.send(post(), lambda: None))
    await upstream.wait_until(lambda: upstream.requests_seen == 2)

    pool_of(ours).close()

    with pytest.raises(RepriseError):
        await waiting
    await sink.ended.wait()
    assert sink.told == ["broken off: the upstream's body broke off (the connection was closed or reset)"]


async def test_an_upstream_that_speaks_before_it_is_asked_takes_no_turn_for_ever(tmp_path: Path) -> None:
    """It has no place for one more, and says so to whoever connects; uvloop reads that before anyone could ask."""

    async def turn_away(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(b'{"error":"full"}', b"Connection: close", status=b"503 Service Unavailable"))
        writer.close()

    server = await asyncio.start_server(turn_away, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        given = {"upstream__base_url": f"http://127.0.0.1:{port}/v1", "upstream__max_connections": 1}
        async with running("--port", 0, at=tmp_path, **given) as command:
            connection = await connect((await command.line()).removeprefix("export OPENAI_BASE_URL="))
            for _ in range(6):
                connection.send(request_bytes("POST", CHAT, [("Content-Type", "application/json")], b'{"model":"m"}'))
                answer = await connection.response()
                await answer.body()
                assert answer.status in (502, 503)
            await connection.close()
            assert not command.log(events.CRASHED)
