"""The simulated upstream, as a socket sees it: framing, header fields, errors, rhythm, and clients that leave."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple

import pytest
from aiohttp.web import RequestHandler

from proxy.simulator import Rhythm, Simulator
from tests.exchanges import until

CHAT = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}'
STREAM = CHAT[:-1] + b', "stream": true}'
EMBED = b'{"model": "m", "input": "Hi"}'
KEY = {"Authorization": "Bearer sk-canary"}
NEVER_MS = 3_600_000.0  # longer than any test waits


Connections = Callable[[], list[RequestHandler]]


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    chunks: list[bytes]
    """Empty where the body is not chunked."""

    def values(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name]

    def error(self) -> dict[str, str | None]:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)


class Wire:
    """One connection, read byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = KEY) -> None:
        fields = {"Host": "api", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        await self.writer.drain()

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = KEY) -> Answer:
        await self.send(method, path, body, headers)
        return await self.answer()

    async def answer(self) -> Answer:
        status, headers = await self.head()
        answer = Answer(status, headers, b"", [])
        if answer.values("transfer-encoding") == ["chunked"]:
            while chunk := await self.chunk():
                answer.chunks.append(chunk)
            return answer._replace(body=b"".join(answer.chunks))
        (length,) = answer.values("content-length")
        return answer._replace(body=await self.reader.readexactly(int(length)))

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        start, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        fields = [line.partition(": ") for line in lines]
        return int(start.split(" ")[1]), [(name, value) for name, _, value in fields]

    async def chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        framed = await self.reader.readexactly(size + 2)
        assert framed.endswith(b"\r\n")
        return framed[:-2]

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(Rhythm(first_byte_ms=0, gap_ms=0, tokens=8), required_key="sk-canary")
    await simulator.start()
    yield simulator
    await simulator.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def connections(simulator: Simulator) -> Connections:
    """The server's side of what is connected now."""
    assert simulator._runner is not None
    server = simulator._runner.server
    assert server is not None
    return lambda: server.connections


@pytest.fixture
async def wire(simulator: Simulator) -> AsyncIterator[Wire]:
    wire = await connect(simulator)
    yield wire
    await wire.close()


async def connect(simulator: Simulator) -> Wire:
    host, port = re.findall(r"http://(.*):(\d+)/v1", simulator.base_url)[0]
    return Wire(*await asyncio.open_connection(host, int(port)))


def watch_writes(handler: RequestHandler, seen: Callable[[bytes], None]) -> None:
    transport = handler.transport
    assert transport is not None
    send = transport.write

    def write(data: bytes | bytearray | memoryview) -> None:
        seen(bytes(data))
        send(data)

    transport.write = write  # type: ignore[method-assign]  # a look over its shoulder


async def test_a_chat_stream_has_one_event_a_chunk_and_ends_with_done(wire: Wire) -> None:
    """Each event is `data: JSON` and an empty line; the connection then takes the next request."""
    answer = await wire.ask("POST", "/v1/chat/completions", STREAM)
    again = await wire.ask("POST", "/v1/chat/completions", STREAM)

    assert answer.values("content-type") == ["text/event-stream; charset=utf-8"]
    assert answer.chunks[-1] == b"data: [DONE]\n\n"
    assert len(answer.chunks) == 8 + 3
    for chunk in answer.chunks[:-1]:
        assert chunk.startswith(b"data: {")
        assert chunk.endswith(b"}\n\n")
        assert json.loads(chunk[6:])["object"] == "chat.completion.chunk"
    assert again.status == 200


async def test_a_response_stream_names_its_events(wire: Wire) -> None:
    """Each event has an `event:` line that repeats its type; there is no `[DONE]`."""
    answer = await wire.ask("POST", "/v1/responses", b'{"model":"gpt-4o","input":"Hi","stream":true}')

    for chunk in answer.chunks:
        name, data = re.fullmatch(rb"event: (.+)\ndata: (.+)\n\n", chunk).groups()  # type: ignore[union-attr]  # or fail
        assert json.loads(data)["type"] == name.decode()
    assert answer.chunks[-1].startswith(b"event: response.completed\n")
    assert b"[DONE]" not in answer.body


async def test_each_event_is_one_write_and_the_last_brings_the_end_along(wire: Wire, connections: Connections) -> None:
    """Whoever has read the last event has read the end of the body, so no client leaves between the two."""
    await until(lambda: bool(connections()))
    writes: list[bytes] = []
    watch_writes(connections()[0], writes.append)

    answer = await wire.ask("POST", "/v1/chat/completions", STREAM)

    _head, *events = writes
    assert events[:-1] == [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in answer.chunks[:-1]]
    assert events[-1] == b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def test_a_plain_answer_says_its_length(wire: Wire) -> None:
    """JSON comes whole, with a Content-Length."""
    answer = await wire.ask("POST", "/v1/chat/completions", CHAT)

    assert answer.values("content-type") == ["application/json"]
    assert answer.values("content-length") == [str(len(answer.body))]
    assert json.loads(answer.body)["object"] == "chat.completion"


async def test_every_answer_has_the_header_fields_of_the_api(wire: Wire) -> None:
    """Those that callers read, and those of the network in front of it; errors have them too."""
    answers = [
        await wire.ask("POST", "/v1/chat/completions", STREAM),
        await wire.ask("GET", "/v1/models"),
        await wire.ask("GET", "/v1/nothing"),
    ]

    for answer in answers:
        assert re.fullmatch(r"req_[0-9a-f]{32}", answer.values("x-request-id")[0])
        assert answer.values("openai-organization") == ["org-simulated"]
        assert answer.values("openai-version") == ["2020-10-01"]
        assert answer.values("openai-processing-ms")[0].isdigit()
        assert [cookie.split("=")[0] for cookie in answer.values("set-cookie")] == ["__cf_bm", "_cfuvid"]
        assert answer.values("cf-ray")
        assert answer.values("alt-svc")
    assert answers[0].values("openai-model") == ["gpt-4o"]
    assert len({answer.values("x-request-id")[0] for answer in answers}) == 3


async def test_the_rate_limits_count_down(wire: Wire) -> None:
    """Each request takes one of the requests, and its tokens of the tokens."""
    first = await wire.ask("POST", "/v1/chat/completions", CHAT)
    second = await wire.ask("POST", "/v1/chat/completions", CHAT)

    assert first.values("x-ratelimit-limit-requests") == ["10000"]
    assert first.values("x-ratelimit-remaining-requests") == ["9999"]
    assert first.values("x-ratelimit-reset-requests") == ["8.64s"]
    assert second.values("x-ratelimit-remaining-requests") == ["9998"]
    assert first.values("x-ratelimit-limit-tokens") == ["200000"]
    left = 200_000 - json.loads(first.body)["usage"]["total_tokens"]
    assert first.values("x-ratelimit-remaining-tokens") == [str(left)]
    assert re.fullmatch(r"\d+ms", first.values("x-ratelimit-reset-tokens")[0])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, None, None),
        ("POST", "/v1/chat/completions", b"[]", 400, None, None),
        ("POST", "/v1/chat/completions", b'{"model": "gpt-4o"}', 400, "missing_required_parameter", "messages"),
        ("POST", "/v1/chat/completions", b'{"model": "gpt-4o", "messages": "Hi"}', 400, "invalid_type", "messages"),
        ("POST", "/v1/chat/completions", b'{"model": "gpt-4o", "messages": []}', 400, "invalid_value", "messages"),
        ("POST", "/v1/chat/completions", CHAT[:-1] + b', "n": 0}', 400, "integer_out_of_range", "n"),
        ("POST", "/v1/chat/completions", CHAT[:-1] + b', "n": true}', 400, "invalid_type", "n"),
        ("POST", "/v1/chat/completions", CHAT.replace(b"gpt-4o", b"unknown"), 404, "model_not_found", None),
        ("POST", "/v1/chat/completions", CHAT.replace(b'"model": "gpt-4o", ', b""), 400, None, None),
        ("POST", "/v1/embeddings", b'{"model": "m", "input": ["a", 1]}', 400, "invalid_value", "input"),
        ("POST", "/v1/embeddings", EMBED[:-1] + b', "encoding_format": "x"}', 400, "invalid_value", "encoding_format"),
        ("POST", "/v1/files", b"{}", 400, None, None),
        ("GET", "/v1/models/does-not-exist", b"", 404, "model_not_found", "model"),
        ("GET", "/v1/chat/completions", b"", 405, "method_not_supported", None),
        ("GET", "/elsewhere", b"", 404, None, None),
    ],
)
async def test_mistakes_are_answered_as_the_api_answers_them(  # noqa: PLR0917, a table of cases
    wire: Wire, method: str, path: str, body: bytes, status: int, code: str | None, param: str | None
) -> None:
    """The status, and an error that says what to mend."""
    answer = await wire.ask(method, path, body)

    assert answer.status == status
    assert answer.values("content-type") == ["application/json"]
    error = answer.error()
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert error["message"]


async def test_a_required_key_is_required(wire: Wire) -> None:
    """Without the key, or with another, nothing is answered; what was sent is not repeated."""
    without = await wire.ask("GET", "/v1/models", headers={})
    wrong = await wire.ask("GET", "/v1/models", headers={"Authorization": "Bearer sk-wrong"})

    assert (without.status, without.error()["code"]) == (401, None)
    assert (wrong.status, wrong.error()["code"]) == (401, "invalid_api_key")
    assert b"sk-wrong" not in wrong.body


async def test_a_large_request_is_read_whole(wire: Wire) -> None:
    """Prompts with pictures are larger than web servers take by default."""
    body = CHAT.replace(b"Hi", b"x" * 3_000_000)

    answer = await wire.ask("POST", "/v1/chat/completions", body)

    assert json.loads(answer.body)["usage"]["prompt_tokens"] > 700_000


async def test_a_request_that_is_nested_too_deeply_is_refused(wire: Wire) -> None:
    """What can be read but not written again is the caller's mistake."""
    body = CHAT.replace(b'"Hi"', b"[" * 300 + b"]" * 300)

    answer = await wire.ask("POST", "/v1/chat/completions", body)

    assert (answer.status, answer.error()["code"]) == (400, "invalid_value")


async def test_a_model_may_have_any_name(wire: Wire) -> None:
    """A name that cannot stand in a header field is left out there."""
    answer = await wire.ask("POST", "/v1/chat/completions", CHAT.replace(b"gpt-4o", b"\\r\\nx: y"))

    assert json.loads(answer.body)["model"] == "\r\nx: y"
    assert answer.values("openai-model") == []


async def test_a_broken_form_is_refused(wire: Wire) -> None:
    """A form that says nothing of its boundary cannot be read."""
    answer = await wire.ask("POST", "/v1/files", b"x", KEY | {"Content-Type": "multipart/form-data"})

    assert (answer.status, answer.error()["type"]) == (400, "invalid_request_error")


async def test_a_form_without_a_file_is_refused(wire: Wire) -> None:
    """What is missing is named."""
    form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'

    answer = await wire.ask("POST", "/v1/files", form, KEY | {"Content-Type": "multipart/form-data; boundary=x"})

    assert (answer.status, answer.error()["message"]) == (400, "'file' is a required property")


async def test_events_are_sent_as_they_come(wire: Wire, simulator: Simulator) -> None:
    """The first event is there long before the second; stopping then breaks the stream off without a clean end."""
    simulator.rhythm = Rhythm(first_byte_ms=0, gap_ms=NEVER_MS)
    await wire.send("POST", "/v1/chat/completions", STREAM)

    status, _ = await wire.head()
    first = await wire.chunk()
    await simulator.stop()
    rest = await wire.reader.read()

    assert status == 200
    assert b'"role":"assistant"' in first
    assert rest == b""


async def test_the_rhythm_is_kept(wire: Wire, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause before the head, and one between two events, each as long as was asked for."""
    simulator.rhythm = Rhythm(first_byte_ms=300, gap_ms=20, tokens=3)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("proxy.simulator.server.asyncio.sleep", pause)
    answer = await wire.ask("POST", "/v1/chat/completions", STREAM)
    await wire.ask("GET", "/v1/models")

    assert len(answer.chunks) == 6
    assert pauses == [0.3, 0.02, 0.02, 0.02, 0.02, 0.02]


async def test_a_client_that_leaves_is_noticed_at_once(
    wire: Wire, simulator: Simulator, connections: Connections
) -> None:
    """An answer that nobody waits for is given up, though its next event is far away."""
    simulator.rhythm = Rhythm(first_byte_ms=0, gap_ms=NEVER_MS)
    await wire.send("POST", "/v1/chat/completions", STREAM)
    await wire.head()

    await wire.close()

    await until(lambda: not connections())


async def test_a_client_that_leaves_is_no_error(
    wire: Wire, connections: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even when the connection is lost between two events that are sent without a pause."""
    await until(lambda: bool(connections()))
    transport = connections()[0].transport
    assert transport is not None
    watch_writes(connections()[0], lambda _: transport.abort())

    await wire.send("POST", "/v1/chat/completions", STREAM)

    await until(lambda: not connections())
    assert caplog.records == []


async def test_an_address_in_use_is_an_error(simulator: Simulator) -> None:
    """The second simulator says so and leaves nothing behind."""
    port = int(simulator.base_url.split(":")[2].removesuffix("/v1"))

    with pytest.raises(OSError, match="address already in use"):
        await Simulator().start(port=port)


@pytest.mark.parametrize("rhythm", [{"first_byte_ms": -1.0}, {"gap_ms": -0.1}, {"tokens": 0}])
def test_a_rhythm_that_cannot_be_is_refused(rhythm: dict[str, float]) -> None:
    """A mistake shows where it is made, not in the stream."""
    with pytest.raises(ValueError, match="rhythm"):
        Rhythm(**rhythm)  # type: ignore[arg-type]  # whole or not, it has to be refused
