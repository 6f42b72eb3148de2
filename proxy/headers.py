"""Which header fields travel, in which direction, and which of them a recording may keep.

The rule: what is end-to-end travels unchanged, in its order and spelling; what is hop-by-hop never does.
"""

from functools import partial
from itertools import compress
from typing import NamedTuple

from proxy.by_names import by_names
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
_NOT_FOR_CLIENT = _HOP_BY_HOP | _MADE_FOR_CLIENT

_CORS_PREFIX = b"access-control-"

# Contract section 5. Never framing, dates, cookies, rate limits, or who paid for it.
_RECORDED = frozenset((b"content-type", b"x-request-id", b"openai-version", b"openai-processing-ms", b"openai-model"))

# What an upstream says to one caller: his session, his account, what is left of his limits.
_CALLERS_OWN = frozenset((b"set-cookie", b"openai-organization", b"openai-project"))
_LIMITS_PREFIX = b"x-ratelimit-"

_CR = ord("\r")  # to look for a number is much faster than to look for one byte

# Of what is no token (RFC 9110 section 5.1) the parser lets only white space through, where the reader after us may not
# see the same field in it: `Content-Length : 5`.
_ALLOWED_IN_NAME = bytes(byte for byte in range(0x21, 0x7F) if byte != ord(":"))


class _Selection(NamedTuple):
    """What becomes of the fields of these names."""

    kept: tuple[bool, ...]
    connections: tuple[int, ...]
    """The places of those that may take others away."""


def end_to_end(headers: Headers) -> Headers:
    """All but the hop-by-hop fields and those that `Connection` names (RFC 9110 section 7.6.1)."""
    return _travelling(headers, _HOP_BY_HOP)


def for_upstream(headers: Headers, *, cached_route: bool, authorization: bytes | None) -> Headers:
    """The fields of a request as the upstream gets them.

    On a cached route the body travels in one piece and the answer must be readable by everyone who may get it later: so
    its length is made anew, and identity coding is asked for.
    `authorization`, where given, takes the place of the caller's.
    """
    dropped = _HOP_BY_HOP | _KEPT_FROM_UPSTREAM
    if cached_route:
        dropped |= {b"accept-encoding", b"content-length"}
    if authorization is not None:
        dropped |= {b"authorization"}
    kept = _travelling(headers, dropped, CONTROL_PREFIX)
    if cached_route:
        kept += ((b"Accept-Encoding", b"identity"),)
    if authorization is not None:
        kept += ((b"Authorization", authorization),)
    return kept


def for_client(headers: Headers, *, own_cors: bool) -> Headers:
    """The fields of a live answer as the client gets them; with `own_cors` without the upstream's CORS fields."""
    return _selected(headers, (_shown_with_own_cors if own_cors else _shown)(headers))


def of_our_own(status: str, word: str, age_s: int | None, request_id: str) -> Headers:
    """What an answer from a source carries behind its own fields (contract section 5).

    `status` are the parameters of our member of `Cache-Status` (RFC 9211); `age_s` is that of a recording.
    """
    fields: Headers = ((b"Cache-Status", f"reprise; {status}".encode()), (b"X-Cache-Status", word.encode()))
    if age_s is not None:
        fields += ((b"Age", b"%d" % age_s),)
    return (*fields, (b"X-Reprise-Id", request_id.encode()))


def for_another_caller(headers: Headers) -> Headers:
    """The fields of a live answer as one gets them who joined it with another credential than it was asked for."""
    named = [(field, field[0].lower()) for field in headers]
    return tuple([field for field, name in named if name not in _CALLERS_OWN and not name.startswith(_LIMITS_PREFIX)])


def for_recording(headers: Headers) -> Headers:
    """The fields that a recording may keep, and a replay may carry."""
    return _selected(headers, _recorded(headers))


def all_recorded(headers: Headers) -> bool:
    """Whether these are fields that a recording may keep, and nothing else."""
    return _are_recorded(headers)


def is_sendable(headers: Headers, reason: bytes = b"") -> bool:
    """Whether no value, nor the reason, can be taken for the end of its line, and no name for another one."""
    return is_sendable_as(headers, value_lines(headers, reason))


def is_sendable_as(headers: Headers, lines: bytes) -> bool:
    """The same, where the `value_lines` are at hand."""
    # RFC 9110 section 5.5: what has another line within it lets headers be injected.
    if _CR in lines or 0 in lines or lines.count(b"\n") > len(headers) + 1:
        return False
    return _are_tokens(headers)


def value_lines(headers: Headers, reason: bytes) -> bytes:
    """The reason, and each value, with a line feed behind it."""
    return b"\n".join([reason, *[value for _, value in headers], b""])


def media_type(content_type: bytes | None) -> bytes:
    """`application/json` of `Application/JSON; charset=utf-8`; empty if there is none."""
    return (content_type or b"").partition(b";")[0].strip().lower()


def is_encoded(headers: Headers) -> bool:
    """Whether the body is compressed, or in another way not what its content type says."""
    return any(value.strip(" \t").lower() not in ("", "identity") for value in values(headers, b"content-encoding"))


def values(headers: Headers, name: bytes) -> list[str]:
    """All values of a field, in order; `name` in lower case."""
    return [value.decode("latin-1") for known, value in headers if known.lower() == name]


def _travelling(headers: Headers, dropped: frozenset[bytes], prefix: bytes | None = None) -> Headers:
    """All but the fields of these names, those that `Connection` names, and those whose names begin so."""
    return _selected(headers, _all_but(tuple([name for name, _ in headers]), dropped, prefix))


def _selected(headers: Headers, selection: _Selection) -> Headers:
    kept = compress(headers, selection.kept)
    if not selection.connections:
        return tuple(kept)
    connections = [headers[place][1] for place in selection.connections]
    if connections == [b"keep-alive"]:  # which takes nothing else away
        return tuple(kept)
    nominated = _nominated(connections)
    return tuple([field for field in kept if field[0].lower() not in nominated])


def _nominated(connections: list[bytes]) -> frozenset[bytes]:
    """What these values of `Connection` take away besides the hop-by-hop fields."""
    return frozenset([token.strip().lower() for value in connections for token in value.split(b",")]) - _NOT_NOMINATABLE


def _all_but(names: tuple[bytes, ...], dropped: frozenset[bytes], prefix: bytes | None = None) -> _Selection:
    lowered = [name.lower() for name in names]
    kept = [name not in dropped and not (prefix is not None and name.startswith(prefix)) for name in lowered]
    return _Selection(tuple(kept), _connections(lowered))


def _only(names: tuple[bytes, ...], wanted: frozenset[bytes]) -> _Selection:
    lowered = [name.lower() for name in names]
    return _Selection(tuple([name in wanted for name in lowered]), _connections(lowered))


def _connections(lowered: list[bytes]) -> tuple[int, ...]:
    return tuple([place for place, name in enumerate(lowered) if name == b"connection"])


_are_tokens = by_names(lambda names: not b"".join(names).translate(None, _ALLOWED_IN_NAME))
_are_recorded = by_names(lambda names: all(name.lower() in _RECORDED for name in names))
_shown = by_names(partial(_all_but, dropped=_NOT_FOR_CLIENT))
_shown_with_own_cors = by_names(partial(_all_but, dropped=_NOT_FOR_CLIENT, prefix=_CORS_PREFIX))
_recorded = by_names(partial(_only, wanted=_RECORDED))
