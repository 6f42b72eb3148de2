"""How an answer looks on the wire to the client (RFC 9112): its head, and its body in chunks where it has no length.

The rule: framing is made for each hop anew, so no field of it comes from an upstream or a recording.
"""

from typing import Literal

from proxy.recording import Head, Headers

Framing = Literal["none", "length", "chunked", "close"]
"""What delimits a body: nothing, since there is none; `Content-Length`; chunks; the end of the connection."""

LAST_CHUNK = b"0\r\n\r\n"

_NO_BODY = frozenset((204, 304))  # RFC 9112 section 6.3


def has_no_body(method: str, status: int) -> bool:
    """Whether an answer to this method with this status ends with its head."""
    return method == "HEAD" or status in _NO_BODY


def head_bytes(head: Head, added: Headers, framing: Framing, connection: bytes | None) -> bytes:
    """The head, with fields of our own behind its own; `connection` is the value of that field, if it is needed."""
    lines = [f"HTTP/1.1 {head.status} {head.reason}".encode("utf-8", "surrogateescape")]
    lines += [b": ".join(field) for field in (*head.headers, *added)]
    if framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
    if connection is not None:
        lines.append(b"Connection: " + connection)
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def chunk(frame: bytes) -> bytes:
    """A frame as one chunk; nothing of an empty one, since that would be the last one."""
    return b"%x\r\n%b\r\n" % (len(frame), frame) if frame else b""


def whole_body(body: bytes) -> tuple[bytes, bytes, bytes]:
    """A body as one chunk, and the last one, which is all there is of an empty one."""
    return (b"%x\r\n" % len(body), body, b"\r\n" + LAST_CHUNK) if body else (b"", b"", LAST_CHUNK)
