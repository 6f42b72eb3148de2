"""The note that each request carries to the upstream in a header of its own: who asked, and what for.

The rule: it is no part of the cache key, so an answer says whose request fetched it, whoever gets it later.
"""

from typing import NamedTuple, Self, cast

from tests.chaos.kinds import FAMILIES, Family, Route

FIELD = "X-Soak"

_LARGE_EVERY, _HUGE_EVERY = 12, 19


class Identity(NamedTuple):
    """What tells one question from another."""

    route: Route
    prompt: int
    namespace: str = ""
    sample: int = 0
    beta: str = ""

    @property
    def family(self) -> Family:
        return FAMILIES[self.route]

    def size_range(self, limit_bytes: int) -> tuple[int, int]:
        """The sizes of its answers, where `limit_bytes` is that of a recording."""
        if self.prompt % _HUGE_EVERY == 0:
            return limit_bytes * 5 // 4, limit_bytes * 5
        if self.prompt % _LARGE_EVERY == 0:
            return limit_bytes // 2, limit_bytes * 9 // 10
        return 100, limit_bytes // 4


class Note(NamedTuple):
    """A request's own number, what it asks, and what is to become of its answer."""

    trace: str
    identity: Identity
    shared: bool
    """Whether its answer may be recorded, and heard by others."""
    digest: str
    """Of the request's body as its client meant to send it."""

    def field(self) -> tuple[str, str]:
        parts = (self.trace, *map(str, self.identity), str(int(self.shared)), self.digest)
        return FIELD, "|".join(parts)

    @classmethod
    def read(cls, value: str) -> Self:
        trace, route, prompt, namespace, sample, beta, shared, digest = value.split("|")
        identity = Identity(cast("Route", route), int(prompt), namespace, int(sample), beta)
        return cls(trace, identity, shared == "1", digest)
