"""May this request come in, what is it for, and what does it ask of the cache?

The rule: a client chooses a path below `/v1/` and nothing else; the upstream's address is never its choice.
"""

import re
from collections.abc import Collection
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from proxy import headers, policy
from proxy.errors import BadRequest, ExpectationFailed, MethodNotAllowed, UnknownRoute
from proxy.pace import Pace
from proxy.policy import Directives
from proxy.recording import Headers
from proxy.staged import StagedFault

Route = Literal["cached", "passed", "healthz", "readyz"]

_HTTP_1_0 = (1, 0)
_VERSIONS = (_HTTP_1_0, (1, 1))

_REFUSED_METHODS = frozenset(("CONNECT", "TRACE"))
_ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_HEALTH: dict[str, Route] = {"/healthz": "healthz", "/readyz": "readyz"}

# Visible ASCII without `#`, which means one thing to us and another to whoever reads the target next. The same goes for
# a backslash, but not in a query, where browsers send it as it is.
_PATH = re.compile(r"/[!\"$-\[\]-~]*")
_QUERY = re.compile(r"[!\"$-~]*")
_DOT_SEGMENT = re.compile(rb"/\.{1,2}(?:[/;?#]|$)")
_USER_INFO = re.compile(r"//[^/]*@")
_CONTROL_OR_BACKSLASH = re.compile(rb"[\x00-\x1f\x7f\\]")

_NAME = re.compile(r"[A-Za-z0-9._:/@+-]{1,128}")
_SAMPLE = re.compile(r"[0-9]{1,9}")
_KNOWN_CONTROLS = frozenset(
    (b"x-reprise-namespace", b"x-reprise-sample", b"x-reprise-session", b"x-reprise-pace", b"x-reprise-fault")
)
_LONGEST_SHOWN = 100  # of a name in an answer: enough to find it by


class Controls(NamedTuple):
    """What the request says to the proxy alone (contract section 4)."""

    directives: Directives = Directives()
    namespace: str = ""
    sample: int = 0
    pace: Pace | None = None
    session: str = ""
    """In which samples are counted here; then the request says no `sample`."""
    fault: StagedFault | None = None


def route(method: str, target: str, cached_routes: Collection[str]) -> Route:
    """What a request is for; `target` is the request target as it was sent.

    Raises:
        BadRequest: the target is not plainly under `/v1/`.
        UnknownRoute: it is under nothing that is served here.
        MethodNotAllowed: the route has no such method.
    """
    path, _, query = target.partition("?")
    if method in _REFUSED_METHODS:
        raise MethodNotAllowed(f"{method} is not served by this proxy.", allow=_ALLOWED_METHODS)
    if path in _HEALTH:
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{path} takes GET.", allow="GET, HEAD")
        return _HEALTH[path]
    if not (_PATH.fullmatch(path) and _QUERY.fullmatch(query) and _is_plain(path)):
        raise BadRequest(
            "The request target is not plainly under /v1/: no absolute form, no fragment, no // and, percent-encoded "
            "or not, no dot segments, backslashes or control characters."
        )
    if not path.startswith("/v1/"):
        raise UnknownRoute("Only paths under /v1/ are proxied. Set OPENAI_BASE_URL to this server's address and /v1.")
    return "cached" if method == "POST" and path in cached_routes else "passed"


def loggable(target: str) -> str:
    """The path of a target as the log may show it: without its query, and without a user and password before a host."""
    path = target.partition("?")[0]
    return _USER_INFO.sub("//", path) if "@" in path else path


def refuse_odd_head(version: tuple[int, int], fields: Headers) -> None:
    """Refuse what the parser lets pass, and nobody here, or the next server in another way, understands.

    Raises:
        BadRequest: another version than 1.1 and 1.0, or a transfer coding other than chunked (RFC 9112 section 6.1).
        ExpectationFailed: an expectation other than 100-continue (RFC 9110 section 10.1.1).
    """
    if version not in _VERSIONS:
        raise BadRequest("This proxy speaks HTTP/1.1, and HTTP/1.0.")
    codings = [coding.strip(" \t").lower() for coding in headers.values(fields, b"transfer-encoding")]
    if codings and version == _HTTP_1_0:
        raise BadRequest("HTTP/1.0 has no transfer codings.")
    if codings not in ([], ["chunked"]):
        raise BadRequest("The only transfer coding that is taken here is chunked.")
    expected = (member for value in headers.values(fields, b"expect") for member in value.split(","))
    if any(member.strip(" \t").lower() not in ("", "100-continue") for member in expected):
        raise ExpectationFailed("The only expectation that is met here is 100-continue. Leave the Expect header out.")


def controls(fields: Headers) -> Controls:
    """What the control headers and `Cache-Control` ask for.

    Raises:
        BadRequest: a value that can't be read, one given twice, or a control header that does not exist; a sample in a
            session.
    """
    given = _given(fields)
    if b"x-reprise-sample" in given and b"x-reprise-session" in given:
        raise BadRequest("X-Reprise-Sample and X-Reprise-Session exclude each other: a session numbers what it asks.")
    return Controls(
        directives=policy.directives(headers.values(fields, b"cache-control")),
        namespace=_name("X-Reprise-Namespace", given.get(b"x-reprise-namespace")),
        sample=_sample(given.get(b"x-reprise-sample")),
        pace=_pace(given.get(b"x-reprise-pace")),
        session=_name("X-Reprise-Session", given.get(b"x-reprise-session")),
        fault=_fault(given.get(b"x-reprise-fault")),
    )


def _is_plain(path: str) -> bool:
    """Whether every reader of this path goes to the same place, also one that decodes it once or twice."""
    # What is there after one decoding is still there after the second. An encoded `//` is let through: the ids of some
    # upstreams are addresses, such as gs%3A%2F%2Fbucket%2Ffile.
    decoded = unquote_to_bytes(unquote_to_bytes(path))
    return "//" not in path and not _DOT_SEGMENT.search(decoded) and not _CONTROL_OR_BACKSLASH.search(decoded)


def _given(fields: Headers) -> dict[bytes, str]:
    given: dict[bytes, str] = {}
    for name, value in fields:
        lowered = name.lower()
        if not lowered.startswith(headers.CONTROL_PREFIX):
            continue
        shown = name[:_LONGEST_SHOWN].decode("latin-1")
        if lowered not in _KNOWN_CONTROLS:
            raise BadRequest(
                f"{shown} is no control header of this proxy; there are X-Reprise-Namespace, X-Reprise-Sample, "
                "X-Reprise-Session, X-Reprise-Pace and X-Reprise-Fault."
            )
        if lowered in given:
            raise BadRequest(f"{shown} is given twice; send it once.")
        given[lowered] = value.decode("latin-1")
    return given


def _name(header: str, text: str | None) -> str:
    if text is None:
        return ""
    if not _NAME.fullmatch(text):
        raise BadRequest(f"{header} takes 1 to 128 letters, digits or any of . _ : / @ + -")
    return text


def _sample(text: str | None) -> int:
    if text is None:
        return 0
    if not _SAMPLE.fullmatch(text):
        raise BadRequest("X-Reprise-Sample takes a whole number from 0 to 999999999.")
    return int(text)


def _pace(text: str | None) -> Pace | None:
    if text is None:
        return None
    try:
        return Pace.parse(text)
    except ValueError as error:
        raise BadRequest(f"X-Reprise-Pace: {error}.") from error


def _fault(text: str | None) -> StagedFault | None:
    if text is None:
        return None
    try:
        return StagedFault.parse(text)
    except ValueError as error:
        raise BadRequest(f"X-Reprise-Fault: {error}.") from error
