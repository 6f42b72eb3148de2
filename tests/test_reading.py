"""The reader of answers: it finds what aiohttp finds, wherever the network cuts, and keeps no more than it should."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import headers
from proxy.extent import framing
from proxy.reading import AnswerReader, NotHttp
from proxy.recording import Head
from tests.harness import HELLO, LAST_CHUNK, STREAM, chunk, plain, sse_head
from tests.test_upstream_not_http import HINT, NOT_HTTP, TOLERATED

LONGEST = 64 * 1024


class Found(NamedTuple):
    """What a reader makes of the bytes of an answer; nothing of its body where it is refused."""

    head: Head | None
    body: bytes = b""
    has_ended: bool = False


REFUSED = Found(None)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """In pieces that end at these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if data[start:end]]


def read(pieces: Sequence[bytes]) -> Found:
    """What our reader finds; an answer is refused while its head has not been passed on."""
    reader, body, told = AnswerReader(), b"", False
    reader.expect()
    for piece in pieces:
        try:
            reader.read(piece)
        except NotHttp:
            if not told:
                return REFUSED
            body += b"".join(reader.pieces)
            break
        if reader.pieces:
            body += reader.frame()
        told = reader.head is not None
        if reader.has_ended:
            break
    return Found(reader.head, body, reader.has_ended) if reader.head is not None else REFUSED


def read_by_aiohttp(pieces: Sequence[bytes], loop: asyncio.AbstractEventLoop) -> Found:
    """The same, as `wire` and `upstream` use aiohttp's parser."""
    parser = HttpResponseParser(
        BaseProtocol(loop), loop, 2**26, read_until_eof=True, max_line_size=LONGEST, max_field_size=LONGEST
    )
    message, content = None, EMPTY_PAYLOAD
    for piece in pieces:
        try:
            messages, upgraded, _ = parser.feed_data(piece)
        except Exception:  # noqa: BLE001 - whatever it is, it is refused
            break
        if upgraded and message is None:
            break
        for each, payload in messages:
            if message is None and (each.code < 100 or each.code > 199):
                message, content = each, payload
        if message is not None and content.is_eof():
            break
    if message is None or not is_passed_on(message):
        return REFUSED
    head = Head(message.code, message.reason, message.raw_headers)
    return Found(head, b"".join(getattr(content, "_buffer", ())), content.is_eof())


def is_passed_on(message: RawResponseMessage) -> bool:
    codings = [value for name, value in message.raw_headers if name.lower() == b"transfer-encoding"]
    lengths = [value for name, value in message.raw_headers if name.lower() == b"content-length"]
    if codings and not message.chunked:  # the parser has overlooked it
        return False
    reason = message.reason.encode("utf-8", "surrogateescape")
    how = framing(message.code, codings, lengths[0] if lengths else None)
    return how is not None and headers.is_sendable(message.raw_headers, reason)


_STATUSES = (b"200 OK", b"200", b"404 Not \xe9", b"204 No Content", b"304 Not Modified", b"099 X", b"1000 X", b"103 H")
_NAMES = (b"Content-Length", b"Transfer-Encoding", b"X-A", b"x-b ", b"Connection", b"Set-Cookie", b"X\xe9", b"")
_VALUES = (b"2", b"5", b"0", b"05", b"+2", b"2 ", b"2\t", b"2,2", b"chunked", b"Chunked ", b"gzip, chunked", b"close")
_ODD_VALUES = (b"keep-alive", b"a\x00b", b"a\rb", b"\xff\xfe", b"1\r\n 2", b"\r\n 2", b"", b"\x0b2", b"a\x7f")
_SEPARATORS = (b": ", b":", b":\t", b" : ")
_ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\r\n")
_BODIES = (
    b"{}",
    b"hello",
    b"",
    b"2\r\n{}\r\n0\r\n\r\n",
    b"5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    b"zz\r\n",
    b"5\r\nhelloXX",
)
_ODD_BODIES = (
    b"2\n{}\r\n0\r\n\r\n",
    b"2 \r\n{}\r\n0\r\n\r\n",
    b"{}HTTP/1.1 200 OK\r\n\r\n",
    b"{}\r\n\r\n",
    b"fffffffffffffffff\r\n",
)

lines = st.tuples(*map(st.sampled_from, (_NAMES, _SEPARATORS, _VALUES + _ODD_VALUES, _ENDS))).map(b"".join)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Bytes that are an answer, or nearly one."""
    version = draw(st.sampled_from((b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2.0 ", b"\r\nHTTP/1.1 ")))
    status = draw(st.sampled_from(_STATUSES)) + draw(st.sampled_from(_ENDS))
    fields = draw(st.lists(lines, max_size=4))
    body = draw(st.sampled_from(_BODIES + _ODD_BODIES))
    return b"".join((draw(st.sampled_from((b"", b"", HINT))), version, status, *fields, b"\r\n", body))


def _is_told_apart(data: bytes) -> bool:
    """Blanks behind `chunked` where the connection is closed anyway: httptools does not say whether it saw a coding."""
    return b"hunked " in data or b"chunked\r\n 2" in data


@settings(max_examples=400, deadline=None)
@given(answers(), st.lists(st.integers(min_value=0, max_value=400), max_size=3))
def test_it_finds_what_aiohttp_finds(data: bytes, places: list[int]) -> None:
    """The same head, body and end, and the same refusals, however the answer is cut."""
    loop = asyncio.new_event_loop()
    try:
        pieces = cut(data, places)
        expected = read_by_aiohttp(pieces, loop)
    finally:
        loop.close()

    found = read(pieces)

    if not _is_told_apart(data):
        assert found == expected


WHOLE = {
    "a plain answer": plain(b"hello", b"X-A: \xe9"),
    "a stream": sse_head() + chunk(HELLO) + chunk(STREAM) + b"0\r\nX-T: 1\r\n\r\n",
    "hints": HINT * 3 + sse_head() + chunk(STREAM) + LAST_CHUNK,
    **{what: answer for what, (answer, _) in TOLERATED.items() if len(answer) < 2000},
}


@pytest.mark.parametrize("what", WHOLE)
def test_it_does_not_matter_where_it_is_cut(what: str) -> None:
    """At each single place, and at all of them."""
    answer = WHOLE[what]
    whole = read([answer])
    assert whole.has_ended

    for place in range(len(answer)):
        assert read(cut(answer, [place])) == whole
    assert read(cut(answer, range(len(answer)))) == whole


@pytest.mark.parametrize("what", NOT_HTTP)
def test_what_is_no_answer_is_refused_at_once(what: str) -> None:
    """Or, where only its body is none, before anything of it is passed on, if it came in one piece."""
    assert read([NOT_HTTP[what]]) == REFUSED


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"HTTP/1.1 200 ", b"a"),
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
        (b"HTTP/1.1 200 OK\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: 1\r\n"),
        (sse_head() + chunk(HELLO) + b"0\r\nX-A: ", b"a"),
        (sse_head() + chunk(HELLO) + b"0\r\n", b"X-A: 1\r\n"),
    ],
    ids=["a reason", "a value", "a name", "fields", "a trailer", "trailers"],
)
def test_what_has_no_end_is_not_kept_for_ever(start: bytes, rest: bytes) -> None:
    """A head or trailers without an end are refused; and nothing else is kept that is not data."""
    reader = AnswerReader()
    reader.expect()
    reader.read(start)
    reader.pieces.clear()

    with pytest.raises(NotHttp):
        read_on(reader, rest * 512)


def read_on(reader: AnswerReader, data: bytes) -> None:
    for _ in range(2_000):
        reader.read(data)
