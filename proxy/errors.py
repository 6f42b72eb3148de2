"""Every error of the proxy's own: whose fault it is, its status, its code, and what to do about it.

    RepriseError
    ├── RequestRefused               the client's doing
    │   ├── BadRequest               400 bad_request
    │   ├── UnknownRoute             404 unknown_route
    │   ├── MethodNotAllowed         405 method_not_allowed
    │   ├── RequestTimeout           408 request_timeout
    │   ├── BodyTooLarge             413 body_too_large
    │   ├── TargetTooLong            414 target_too_long
    │   ├── ExpectationFailed        417 expectation_failed
    │   ├── HeadTooLarge             431 head_too_large
    │   └── ReplayMiss               504 replay_miss
    ├── UpstreamFailed               the upstream's doing, before a response head was passed on
    │   ├── UpstreamUnreachable      502 upstream_unreachable
    │   ├── UpstreamInvalidResponse  502 upstream_invalid_response
    │   └── UpstreamTimeout          504 upstream_timeout
    ├── StagedFailure                the error that the request asks for
    ├── Draining                     503 draining
    ├── Overloaded                   503 overloaded
    └── InternalError                500 internal_error, a bug of ours
    UpstreamBroken                   the upstream failed within a body: there is no status left to send
    ClientGone                       the client left, or takes nothing: there is nobody left to tell

A message never names the upstream's address, a credential, or anything else that the operator keeps to himself.
"""

from http import HTTPStatus
from typing import ClassVar, Literal

import orjson

# Type and code of OpenAI's errors, where they are not those of all in their class.
_KNOWN_FAILURES: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
_WHEN_TO_RETRY = (
    (b"retry-after", b"1"),
    (b"retry-after-ms", b"250"),  # soon, since whoever asks for it is a test; the other one has whole seconds only
    (b"x-ratelimit-limit-requests", b"500"),
    (b"x-ratelimit-remaining-requests", b"0"),
    (b"x-ratelimit-reset-requests", b"250ms"),
)

Outcome = Literal["complete", "client_disconnected", "upstream_truncated", "upstream_error", "rejected"]


class RepriseError(Exception):
    """An answer of the proxy's own, in OpenAI's error form."""

    status: int
    code: ClassVar[str]
    outcome: ClassVar[Outcome] = "rejected"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def body(self) -> bytes:
        """The error as the official SDKs expect it: `{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": "reprise_error", "param": None, "code": self.code}
        return orjson.dumps({"error": error})


class RequestRefused(RepriseError):
    """The client can do something about it."""


class BadRequest(RequestRefused):
    status, code = 400, "bad_request"


class UnknownRoute(RequestRefused):
    status, code = 404, "unknown_route"


class MethodNotAllowed(RequestRefused):
    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.headers = ((b"Allow", allow.encode()),)


class RequestTimeout(RequestRefused):
    status, code = 408, "request_timeout"


class BodyTooLarge(RequestRefused):
    status, code = 413, "body_too_large"


class TargetTooLong(RequestRefused):
    status, code = 414, "target_too_long"


class ExpectationFailed(RequestRefused):
    status, code = 417, "expectation_failed"


class HeadTooLarge(RequestRefused):
    status, code = 431, "head_too_large"


class ReplayMiss(RequestRefused):
    """Nothing is recorded, and the upstream may not be asked. SDKs retry a 504 unless told not to.

    The message may hold prompts, and goes to the caller alone.
    """

    status, code = 504, "replay_miss"
    headers = ((b"x-should-retry", b"false"),)


class UpstreamFailed(RepriseError):
    """No response head came, so a whole error answer can still be given."""

    outcome = "upstream_error"


class UpstreamUnreachable(UpstreamFailed):
    status, code = 502, "upstream_unreachable"

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        """`lasting`: a fault of the settings, such as a wrong name or certificate; trying again is no use."""
        super().__init__(message)
        if lasting:
            self.headers = ((b"x-should-retry", b"false"),)


class UpstreamInvalidResponse(UpstreamFailed):
    status, code = 502, "upstream_invalid_response"


class UpstreamTimeout(UpstreamFailed):
    status, code = 504, "upstream_timeout"


class StagedFailure(RepriseError):
    """What an upstream in trouble would have answered: status, form and headers are OpenAI's."""

    code = "staged_fault"

    def __init__(self, status: int) -> None:
        super().__init__(f"{HTTPStatus(status).phrase}, as X-Reprise-Fault asked.")
        self.status = status
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self.headers = _WHEN_TO_RETRY

    def body(self) -> bytes:
        of_its_class = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        kind, code = _KNOWN_FAILURES.get(self.status, (of_its_class, None))
        return orjson.dumps({"error": {"message": self.message, "type": kind, "param": None, "code": code}})


class Draining(RepriseError):
    status, code = 503, "draining"
    headers = ((b"Retry-After", b"1"),)


class Overloaded(RepriseError):
    """A bound of the proxy's own was reached; the same request may be welcome a moment later."""

    status, code = 503, "overloaded"
    headers = ((b"Retry-After", b"1"),)


class InternalError(RepriseError):
    status, code = 500, "internal_error"


class UpstreamBroken(Exception):
    """The upstream's body ended before its end, or not as HTTP says a body ends."""


class ClientGone(Exception):
    """The client closed the connection, or took no byte of its answer for `server.write_timeout`."""
