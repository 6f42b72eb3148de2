"""What may become of a request at the upstream: answers of every kind, good and bad, and how often each is dealt.

The rule: a kind says what a client must see of it and whether it may be recorded; the checks know nothing else of it.
"""

import random
from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

Route = Literal["chat", "chat_stream", "responses_stream", "embeddings", "files"]
Family = Literal["plain", "stream", "passed"]

TARGETS: dict[Route, str] = {
    "chat": "/v1/chat/completions",
    "chat_stream": "/v1/chat/completions",
    "responses_stream": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "files": "/v1/files",
}
FAMILIES: dict[Route, Family] = {
    "chat": "plain",
    "chat_stream": "stream",
    "responses_stream": "stream",
    "embeddings": "plain",
    "files": "passed",
}

_T = TypeVar("_T")


class Kind(NamedTuple):
    """One thing that the upstream does."""

    name: str
    end: Literal["clean", "cut", "headless"]
    """Whether a client sees a whole answer, one that is broken off, or none of the upstream's at all."""
    families: tuple[Family, ...] = ("plain", "stream", "passed")
    weight: int = 1
    recordable: bool = False
    code: str = ""
    """Of the proxy's own error, where there is no head, or what comes behind it may overtake it."""
    whole: bool = False
    """Whether all that was sent before a cut has to arrive: a reset may overtake it, a close may not."""
    cut_unless: Literal["", "unjudged"] = ""
    """A cut that nobody can tell from an end who may not read what is in the answer."""
    status: int = 200


KINDS = (
    Kind("good", "clean", weight=26, recordable=True),
    Kind("interim_responses", "clean", weight=2, recordable=True),
    Kind("finish_reason_without_done", "clean", ("stream",), 2, recordable=True),
    Kind("late_end_of_framing", "clean", ("stream",), 2, recordable=True),
    Kind("status_429", "clean", status=429),
    Kind("status_500", "clean", status=500),
    Kind("status_503", "clean", status=503),
    Kind("error_event", "clean", ("stream",)),
    Kind("no_done", "clean", ("stream",)),
    Kind("error_body", "clean", ("plain",)),
    Kind("half_json", "clean", ("plain",)),
    Kind("wrong_type", "clean", ("plain", "stream")),
    Kind("compressed", "clean", ("plain", "stream")),
    Kind("cut_in_chunks", "cut", whole=True),
    Kind("no_last_chunk", "cut", whole=True),
    Kind("short_of_its_length", "cut", whole=True),
    Kind("closed_in_mid_body", "cut", ("plain", "stream"), whole=True, cut_unless="unjudged"),
    Kind("reset_in_mid_body", "cut", code="upstream_unreachable"),
    Kind("reset_instead_of_close", "cut", code="upstream_unreachable"),
    Kind("bad_chunk", "cut", code="upstream_invalid_response"),
    Kind("silent_in_mid_body", "cut", whole=True),
    Kind("reset_before_head", "headless", code="upstream_unreachable"),
    Kind("close_before_head", "headless", code="upstream_unreachable"),
    Kind("garbage", "headless", code="upstream_invalid_response"),
    Kind("silent_before_head", "headless", code="upstream_timeout"),
)
BY_NAME = {kind.name: kind for kind in KINDS}
GOOD = BY_NAME["good"]


class Deck(Generic[_T]):
    """Cards dealt in a seeded order: each of them before any comes again, so that even a short run has seen all."""

    def __init__(self, rng: random.Random, cards: Sequence[_T]) -> None:
        self._rng = rng
        self._cards = cards
        self._left: list[_T] = []

    def deal(self) -> _T:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


def decks(seed: int) -> dict[Family, Deck[Kind]]:
    """A deck for each family of answers."""
    families: tuple[Family, ...] = ("plain", "stream", "passed")
    return {family: Deck(seeded(seed, "kinds", family), _cards(family)) for family in families}


def seeded(*parts: object) -> random.Random:
    """Chance that comes out the same for the same parts."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - it guards nothing


def _cards(family: Family) -> list[Kind]:
    return [kind for kind in KINDS if family in kind.families for _ in range(kind.weight)]
