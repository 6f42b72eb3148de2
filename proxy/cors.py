"""CORS for pages that call the proxy (WHATWG Fetch, CORS protocol).

The rule: made for each answer, from the settings and the request's Origin, never from a recording.
"""

from collections.abc import Collection

from proxy.recording import Head, Headers

_PREFLIGHT_MAX_AGE_S = b"600"
_EXPOSE_ALL = (b"Access-Control-Expose-Headers", b"*")
_VARY = (b"Vary", b"Origin")


class Cors:
    """What pages of the given origins may do; with no origins, nothing is answered and nothing added here."""

    def __init__(self, origins: Collection[str]) -> None:
        self.enabled = bool(origins)
        self._origins = frozenset(origin.encode() for origin in origins)

    def fields_for(self, headers: Headers) -> Headers:
        """The fields that the answer to a request with these fields carries."""
        return self.headers_for(Head(0, "", headers).get(b"origin")) if self.enabled else ()

    def headers_for(self, origin: bytes | None) -> Headers:
        """The fields that an answer to a page of this origin carries. Never credentials: no cookie is of use here."""
        if not self.enabled:
            return ()
        if b"*" in self._origins:
            return ((b"Access-Control-Allow-Origin", b"*"), _EXPOSE_ALL)
        if origin is None or origin not in self._origins:
            return (_VARY,)
        return ((b"Access-Control-Allow-Origin", origin), _EXPOSE_ALL, _VARY)

    def preflight(self, method: str, headers: Headers) -> Head | None:
        """The answer to a preflight, or None if this request is none, or none of ours to answer.

        A page of another origin is told nothing, which its browser takes for a no.
        """
        if not self.enabled or method != "OPTIONS":
            return None
        asked = Head(0, "", headers)
        wanted = asked.get(b"access-control-request-method")
        origin = asked.get(b"origin")
        if wanted is None or origin is None:
            return None
        answer = self.headers_for(origin)
        if self._origins & {b"*", origin}:
            answer += (
                (b"Access-Control-Allow-Methods", wanted),
                # Named, not `*`: a wildcard does not cover Authorization.
                (b"Access-Control-Allow-Headers", asked.get(b"access-control-request-headers") or b"*"),
                (b"Access-Control-Max-Age", _PREFLIGHT_MAX_AGE_S),
            )
        return Head(204, "No Content", answer)
