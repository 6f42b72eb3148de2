"""The body of a request, as it arrives.

The rule: it is bounded in time and, where it is held, in bytes: by itself and together with those of all others.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from proxy.allowance import Allowance
from proxy.errors import BadRequest, BodyTooLarge, ClientGone, Overloaded, RequestTimeout
from proxy.incoming import Incoming
from proxy.streams import next_piece

_JOINED_AT_ONCE_BYTES = 4 * 1024 * 1024  # takes about 3 ms; the largest bodies 50


class RequestBody:
    """Can be read once, whole or piece by piece."""

    def __init__(self, request: Incoming, timeout_s: float) -> None:
        """`timeout_s`: how long nothing may come."""
        self._request = request
        self._timeout_s = timeout_s
        self.held_bytes = 0
        """Of what was read whole."""

    async def whole(self, limit_bytes: int, bodies: Allowance) -> bytes:
        """All of it; `bodies` is what those of all requests may take in memory.

        Raises:
            BodyTooLarge, RequestTimeout, BadRequest: it is longer, does not arrive in time, or its framing is wrong.
            Overloaded: there is no room for it.
        """
        declared, content = self._request.content_length, self._request.content
        if declared is not None and declared > limit_bytes:
            raise _too_large(limit_bytes)
        if content.is_eof() and content.exception() is None:  # it has come together with the head, as nearly always
            body = content.read_nowait()
            self._hold(body, limit_bytes, bodies)
            return body
        pieces = []
        async for piece in self.pieces():
            self._hold(piece, limit_bytes, bodies)
            pieces.append(piece)
        if self.held_bytes <= _JOINED_AT_ONCE_BYTES:
            return b"".join(pieces)
        return await asyncio.to_thread(b"".join, pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Piece by piece, as they arrive.

        Raises:
            RequestTimeout: nothing came for `server.read_timeout`.
            BadRequest: its framing is wrong.
        """
        content = self._request.content
        self._invite()
        while not content.at_eof():
            try:
                async with asyncio.timeout(None if content.is_eof() else self._timeout_s):
                    piece = await next_piece(content)
            except TimeoutError as error:
                raise RequestTimeout("The request's body did not arrive in time. Send it again.") from error
            except web.RequestPayloadError as error:
                raise BadRequest("The request's body is not framed as its headers say.") from error
            if piece:
                yield piece

    def _hold(self, piece: bytes, limit_bytes: int, bodies: Allowance) -> None:
        self.held_bytes += len(piece)
        is_room = bodies.take(len(piece))
        if self.held_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        if not is_room:
            raise Overloaded("The proxy has no room for this request's body, beside those of others. Ask again.")

    def _invite(self) -> None:
        """A client that asked whether to send its body is told to go on (RFC 9110 section 10.1.1)."""
        request = self._request
        if hdrs.EXPECT not in request.headers or request.version < HttpVersion11 or request.content.is_eof():
            return
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the connection is closed")
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request's body is larger than the {limit_bytes:,} bytes of server.max_body_size. Send less, or raise it."
    )
