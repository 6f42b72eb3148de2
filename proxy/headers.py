"""Which header fields travel, in which direction, and which of them a recording may keep.

The rule: what is end-to-end travels unchanged, in its order and spelling; what is hop-by-hop never does.
"""

import re
from collections.abc import Callable, Iterable

from proxy.recording import Headers

CONTROL_PREFIX = b"x-reprise-"

# RFC 9110 sections 7.6.1 and 11.7, and the old Proxy-Connection.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)

# `Connection` may not be used to take away what the other end needs to understand the message or to trust it.
_NOT_NOMINATABLE = frozenset(
    (
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"openai-organization",
        b"openai-project",
    )
)

# Host and Expect are made anew for this hop; the cache directives spoke to us.
_KEPT_FROM_UPSTREAM = frozenset((b"host", b"expect", b"cache-control"))

# Ours on the way back. An upstream's own (it may be a Reprise too) would contradict them.
_MADE_FOR_CLIENT = frozenset((b"x-cache-status", b"x-reprise-id"))

_CORS_PREFIX = b"access-control-"

# Contract section 5. Never framing, dates, cookies, rate limits, or who paid for it.
_RECORDED = frozenset((b"content-type", b"x-request-id", b"openai-version", b"openai-processing-ms", b"openai-model"))

# What an upstream says to one caller: his session, his account, what is left of his limits.
_CALLERS_OWN = frozenset((b"set-cookie", b"openai-organization", b"openai-project"))
_LIMITS_PREFIX = b"x-ratelimit-"

# RFC 9110 section 5.5: a value has no CR, LF or NUL; whoever lets one through lets headers be injected.
_FORBIDDEN_IN_VALUE = re.compile(rb"[\r\n\0]")
# Of what is no token (RFC 9110 section 5.1) the parser lets only this one through, where the reader after us may not
# see the same field in it: `Content-Length : 5`.
_FORBIDDEN_IN_NAME = re.compile(rb"[^!-9;-~]")


def end_to_end(headers: Headers) -> Headers:
    """All but the hop-by-hop fields and those that `Connection` names (RFC 9110 section 7.6.1)."""
    dropped = _HOP_BY_HOP | (_nominated(headers) - _NOT_NOMINATABLE)
    return tuple(field for field in headers if field[0].lower() not in dropped)


def for_upstream(headers: Headers, *, cached_route: bool, authorization: bytes | None) -> Headers:
    """The fields of a request as the upstream gets them.

    On a cached route the body travels in one piece and the answer must be readable by everyone who may get it later: so
    its length is made anew, and identity coding is asked for.
    `authorization`, where given, takes the place of the caller's.
    """
    dropped = _KEPT_FROM_UPSTREAM
    if cached_route:
        dropped |= {b"accept-encoding", b"content-length"}
    if authorization is not None:
        dropped |= {b"authorization"}
    kept = _without(end_to_end(headers), lambda name: name in dropped or name.startswith(CONTROL_PREFIX))
    if cached_route:
        kept += ((b"Accept-Encoding", b"identity"),)
    if authorization is not None:
        kept += ((b"Authorization", authorization),)
    return kept


def for_client(headers: Headers, *, own_cors: bool) -> Headers:
    """The fields of a live answer as the client gets them; with `own_cors` without the upstream's CORS fields."""

    def dropped(name: bytes) -> bool:
        return name in _MADE_FOR_CLIENT or (own_cors and name.startswith(_CORS_PREFIX))

    return _without(end_to_end(headers), dropped)


def for_another_caller(headers: Headers) -> Headers:
    """The fields of a live answer as one gets them who joined it with another credential than it was asked for."""
    return _without(headers, lambda name: name in _CALLERS_OWN or name.startswith(_LIMITS_PREFIX))


def for_recording(headers: Headers) -> Headers:
    """The fields that a recording may keep, and a replay may carry."""
    return tuple(field for field in end_to_end(headers) if field[0].lower() in _RECORDED)


def is_sendable(headers: Headers) -> bool:
    """Whether no value can be taken for the end of its line, and no name for another one."""
    return not any(_FORBIDDEN_IN_NAME.search(name) or _FORBIDDEN_IN_VALUE.search(value) for name, value in headers)


def media_type(content_type: bytes | None) -> bytes:
    """`application/json` of `Application/JSON; charset=utf-8`; empty if there is none."""
    return (content_type or b"").partition(b";")[0].strip().lower()


def is_encoded(headers: Headers) -> bool:
    """Whether the body is compressed, or in another way not what its content type says."""
    return any(value.strip(" \t").lower() not in ("", "identity") for value in values(headers, b"content-encoding"))


def values(headers: Headers, name: bytes) -> list[str]:
    """All values of a field, in order; `name` in lower case."""
    return [value.decode("latin-1") for known, value in headers if known.lower() == name]


def _nominated(headers: Headers) -> frozenset[bytes]:
    named: Iterable[bytes] = (
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    )
    return frozenset(named)


def _without(headers: Headers, dropped: Callable[[bytes], bool]) -> Headers:
    return tuple(field for field in headers if not dropped(field[0].lower()))
