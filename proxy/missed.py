"""What is said of a request that no recording answers and that may not be forwarded: which one comes nearest.

The rule: what one caller has asked is shown to another only where recordings are there to be tested with.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from proxy.config import Settings
from proxy.difference import LONGEST_BYTES, Incomparable
from proxy.key import SHARED_SCOPE, SHORT_KEY, cache_key
from proxy.nearest import Nearest, Recorded, nearest
from proxy.question import Question
from proxy.recording import RecordedRequest
from proxy.store.tiered import Store

ASKED_OTHERWISE = (
    "asked with another upstream.name, query or cache.scope, which are part of the key, or scrubbed for a cassette"
)

_NONE = "There is no recording to compare it with."
_INCOMPARABLE = "It is too long, or has too much in it, to be compared with what is recorded."
_TOO_MANY = "Too many others are being compared with what is recorded; ask again to hear which comes nearest."


class Missed:
    """Finds the recording that comes nearest to a request, as far as the caller may hear of it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        # A recording does not say whose it is, so that of those of single callers none is shown.
        self._is_shared = settings.cache.scope == "shared"
        # Elsewhere it holds what others have asked in earnest: whoever hears where a text of theirs begins to differ
        # from his guess finds out all of it, letter by letter. What is only replayed is there to be tested with.
        self._shows_how = settings.cache.mode == "replay"
        self._upstream = settings.upstream.name
        self._store = store

    async def told(self, question: Question, target: str) -> str:
        """A sentence on the recording nearest to a request that was sent there; empty where none may be named."""
        if not self._is_shared:
            return ""
        if len(question.body) > LONGEST_BYTES:
            return _INCOMPARABLE
        search = self._store.survey(partial(self._look, question, target))
        return _TOO_MANY if search is None else await search or ""

    def _look(self, question: Question, target: str, recorded: Recorded) -> str:
        try:
            found = nearest(question, recorded, key_here(self._upstream, target))
        except Incomparable:
            return _INCOMPARABLE
        return _NONE if found is None else _sentence(found, shows_how=self._shows_how)


def key_here(upstream: str, target: str) -> Callable[[RecordedRequest], str]:
    """The key of a request of everybody's that is sent to that upstream with the query of that target."""
    _, mark, query = target.partition("?")

    def key(request: RecordedRequest) -> str:
        asked = replace(request, path=f"{request.path}{mark}{query}")
        return cache_key(asked, upstream=upstream, scope=SHARED_SCOPE)

    return key


def _sentence(found: Nearest, *, shows_how: bool) -> str:
    short, differences = found.key[:SHORT_KEY], found.differences
    if not differences.first:
        return f"Recording {short} answers the same request, {ASKED_OTHERWISE}."
    if found.is_made_alike and shows_how:
        return f"The nearest recording is {short}: {differences}."
    # It may be that of a single caller, from when cache.scope was another one.
    otherwise = "" if found.is_made_alike else f" It was {ASKED_OTHERWISE}."
    return f"The nearest recording, {short}, differs at {differences.places()}.{otherwise}"
