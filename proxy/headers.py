"""Which header fields travel, in which direction, and which of them a recording may keep.

The rule: what is end-to-end travels unchanged, in its order and spelling; what is hop-by-hop never does.
"""

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
_NOTHING: frozenset[bytes] = frozenset()

_CORS_PREFIX = b"access-control-"

# Contract section 5. Never framing, dates, cookies, rate limits, or who paid for it.
_RECORDED = frozenset((b"content-type", b"x-request-id", b"openai-version", b"openai-processing-ms", b"openai-model"))

# What an upstream says to one caller: his session, his account, what is left of his limits.
_CALLERS_OWN = frozenset((b"set-cookie", b"openai-organization", b"openai-project"))
_LIMITS_PREFIX = b"x-ratelimit-"

# RFC 9110 section 5.5: a value has no CR, LF or NUL; whoever lets one through lets headers be injected.
_FORBIDDEN_IN_VALUE = b"\r\n\0"
# Of what is no token (RFC 9110 section 5.1) the parser lets only white space through, where the reader after us may not
# see the same field in it: `Content-Length : 5`.
_ALLOWED_IN_NAME = bytes(byte for byte in range(0x21, 0x7F) if byte != ord(":"))


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
    return _travelling(headers, _NOT_FOR_CLIENT, _CORS_PREFIX if own_cors else None)


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
    named = zip(headers, _lowered_names(headers), strict=True)
    return tuple([field for field, name in named if name not in _CALLERS_OWN and not name.startswith(_LIMITS_PREFIX)])


def for_recording(headers: Headers) -> Headers:
    """The fields that a recording may keep, and a replay may carry."""
    names = _lowered_names(headers)
    nominated = _nominated(headers, names)
    kept = _RECORDED - nominated if nominated else _RECORDED
    return tuple([field for field, name in zip(headers, names, strict=True) if name in kept])


def is_sendable(headers: Headers) -> bool:
    """Whether no value can be taken for the end of its line, and no name for another one."""
    names = b"".join([name for name, _ in headers])
    values = b"".join([value for _, value in headers])
    return not names.translate(None, _ALLOWED_IN_NAME) and values.translate(None, _FORBIDDEN_IN_VALUE) == values


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
    names = _lowered_names(headers)
    if nominated := _nominated(headers, names):
        dropped |= nominated
    named = zip(headers, names, strict=True)
    if prefix is None:
        return tuple([field for field, name in named if name not in dropped])
    return tuple([field for field, name in named if name not in dropped and not name.startswith(prefix)])


def _nominated(headers: Headers, names: list[bytes]) -> frozenset[bytes]:
    """What `Connection` takes away besides the hop-by-hop fields; `names` are all names in lower case."""
    if b"connection" not in names:
        return _NOTHING
    if names.count(b"connection") == 1 and headers[names.index(b"connection")][1] == b"keep-alive":  # as nearly all say
        return _NOTHING
    listed = [value for (_, value), name in zip(headers, names, strict=True) if name == b"connection"]
    return frozenset([token.strip().lower() for value in listed for token in value.split(b",")]) - _NOT_NOMINATABLE


def _lowered_names(headers: Headers) -> list[bytes]:
    return [name.lower() for name, _ in headers]
