"""An answer read from the bytes of its connection: its head, the data of its body, its end.

The parser is llhttp, by way of httptools, and as lenient as it is in aiohttp: what has one reading only is put right.

The rule: what two readers could read in two ways is no answer; and what is not read yet has a bound.
"""

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy import extent, framing, headers
from proxy.by_names import places_of
from proxy.recording import Head, Headers

FIELD_BYTES = 64 * 1024  # a header line longer than this is no header; OpenAI's are under 8 KiB, cookies may not be
_HEAD_BYTES = 512 * 1024  # with the interim responses before it, or trailers: then nobody waits for its end
_MOST_FIELDS = 128  # in a head and its trailers
_framing_places = places_of(b"content-length", b"transfer-encoding")
MOST_INTERIM_RESPONSES = 100  # nobody sends more than a few, and each of them may be as large as a head can be


class NotHttp(Exception):
    """What came is no answer."""


class NotSendable(NotHttp):
    """It is one whose status line or headers could be taken for something else by whoever reads them next."""


class AnswerReader:
    """Reads one answer after another, each after `expect`."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.framing: framing.Framing = "none"
        self.pieces: list[bytes] = []
        """Data of the body, to be taken after each `read`."""
        self.has_ended = False
        self.keeps_alive = False
        """Whether the connection may be used for another request, for all that the answer says."""
        self._reason = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._unread_bytes = 0
        self._interim_responses = 0
        self._in_chunk = False
        self._wanted: int | None = None
        # What the parser calls; it holds on to this object, and this one to it, until `close`.
        self.on_body = self.pieces.append
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def expect(self) -> None:
        """A request is sent: what comes next is its answer."""
        self.head = None
        self.has_ended = False
        self._interim_responses = 0
        self._unread_bytes = 0
        self._wanted = None

    def read(self, data: bytes) -> None:
        """Take what has come.

        Raises:
            NotHttp: it is no answer, or none any more; `pieces` has what came of the body before that.
        """
        assert self._parser is not None, "read() after close()"  # noqa: S101 - a fault of ours
        self._unread_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as fault:
            raise NotHttp("a change of protocol") from fault
        except HttpParserError as fault:
            raise fault.__context__ if isinstance(fault.__context__, NotHttp) else NotHttp(str(fault)) from fault
        finally:
            if self._wanted is not None:
                del self.pieces[self._wanted :]
        if self.head is None:
            if self._unread_bytes > _HEAD_BYTES:
                raise NotHttp("no end of the head")
        elif self.pieces or not self._in_chunk:
            self._unread_bytes = 0
        elif self._unread_bytes > _HEAD_BYTES:
            raise NotHttp("no end of the trailers")

    @property
    def has_surplus(self) -> bool:
        """Whether something has come that nobody has asked for."""
        return self._wanted is not None

    def frame(self) -> bytes:
        """Take the data of the body that the last `read` has given, which is some."""
        pieces = self.pieces
        frame = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return frame

    def close(self) -> None:
        """Let go of the parser."""
        self._parser = None

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.has_ended:
            self._wanted = len(self.pieces)
        self._reason = b""
        self._fields = []

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        fields = self._fields
        fields.append((name, value))
        if len(fields) > _MOST_FIELDS:
            raise NotHttp("no end of header fields")

    def on_headers_complete(self) -> None:
        if self._wanted is not None:
            return
        assert self._parser is not None  # noqa: S101 - it is calling
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:  # noqa: PLR2004 - RFC 9110 section 15.2: the answer is still to come
            self._interim_responses += 1
            if self._interim_responses > MOST_INTERIM_RESPONSES:
                raise NotHttp("no end of interim responses")
        else:
            self._take_head(self._parser, status)

    def on_chunk_header(self) -> None:
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        self._in_chunk = False

    def on_message_complete(self) -> None:
        if self.head is not None:
            self.has_ended = True

    def _take_head(self, parser: HttpResponseParser, status: int) -> None:
        if self._unread_bytes > FIELD_BYTES and self._has_a_long_line():
            raise NotHttp("too long a line")
        self.keeps_alive = parser.should_keep_alive()
        fields: Headers = tuple(self._fields)
        lengths, transfers = _framing_places(fields)
        length = fields[lengths[-1]][1].rstrip(b" \t") if lengths else None
        codings = self._codings(parser, [fields[place][1] for place in transfers]) if transfers else []
        found = extent.framing(status, codings, length)
        lines = headers.value_lines(fields, self._reason)
        # Not `in`, which makes an error before it looks for more than a byte, and throws it away.
        if lines.find(b" \n") >= 0 or lines.find(b"\t\n") >= 0:
            fields = tuple([(name, value.rstrip(b" \t")) for name, value in fields])
        if found is None or not headers.is_sendable_as(fields, lines):
            raise NotSendable
        self.framing = found
        self.head = Head(status, self._reason.decode("utf-8", "surrogateescape"), fields)

    def _codings(self, parser: HttpResponseParser, values: list[bytes]) -> list[bytes]:
        """The transfer codings as they are to be understood: what the parser has overlooked is none."""
        # It takes `chunked` with blanks behind it, or a tab, for something else, and so for a body until closed.
        overlooked = not self.keeps_alive and any(value[-1:] in (b" ", b"\t") for value in values)
        if parser.get_http_version() == "1.0":  # RFC 9112 section 6.1
            self.keeps_alive = False
        return [b"overlooked"] if overlooked else [value.rstrip(b" \t") for value in values]

    def _has_a_long_line(self) -> bool:
        lines = [len(self._reason), *(len(name) + len(value) for name, value in self._fields)]
        return max(lines) > FIELD_BYTES
