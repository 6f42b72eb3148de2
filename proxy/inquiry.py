"""What is asked about a request that no recording answers, and what is said of it: which recording comes nearest.

The rule: an inquiry is data, so that another process can answer it.
"""

import json
from collections.abc import Callable
from typing import NamedTuple, Self

from proxy.difference import Incomparable
from proxy.key import SHARED_SCOPE, SHORT_KEY, cache_key
from proxy.nearest import Nearest, Recorded, nearest
from proxy.question import Question
from proxy.recording import RecordedRequest

ASKED_OTHERWISE = (
    "asked with another upstream.name, query or cache.scope, which are part of the key, or scrubbed for a cassette"
)
INCOMPARABLE = "It is too long, or has too much in it, to be compared with what is recorded."

_NONE = "There is no recording to compare it with."


class Inquiry(NamedTuple):
    """Which recording comes nearest to a question of everybody's."""

    question: Question
    upstream: str
    target: str
    """Where it was sent, with the query."""
    shows_how: bool
    """Whether the caller may see what others have asked, or only where it differs."""

    def answer(self, recorded: Recorded) -> str:
        """A sentence on that recording, or on why none is named."""
        try:
            found = nearest(self.question, recorded, key_here(self.upstream, self.target))
        except Incomparable:
            return INCOMPARABLE
        return _NONE if found is None else _sentence(found, shows_how=self.shows_how)

    def dump(self) -> tuple[bytes, bytes]:
        """Its facts and the body of the request, for `load`."""
        question, request = self.question, self.question.request
        facts = {
            "key": question.key,
            "stream": question.stream,
            "model": question.model,
            "method": request.method,
            "path": request.path,
            "vary": request.vary,
            "namespace": request.namespace,
            "sample": request.sample,
            "upstream": self.upstream,
            "target": self.target,
            "shows_how": self.shows_how,
        }
        # A path may hold bytes that are no UTF-8, which arrive here as lone surrogates: orjson would refuse them.
        return json.dumps(facts).encode("ascii"), request.body

    @classmethod
    def load(cls, facts: bytes, body: bytes) -> Self:
        """What `dump` wrote."""
        known = json.loads(facts)
        request = RecordedRequest(
            known["method"],
            known["path"],
            b"",
            tuple((name, value) for name, value in known["vary"]),
            known["namespace"],
            known["sample"],
        )
        question = Question(known["key"], known["stream"], known["model"], 1, unworded=request, body=body)
        return cls(question, known["upstream"], known["target"], known["shows_how"])


def key_here(upstream: str, target: str) -> Callable[[RecordedRequest], str]:
    """The key of a request of everybody's that is sent to that upstream with the query of that target."""
    _, mark, query = target.partition("?")

    def key(request: RecordedRequest) -> str:
        asked = request._replace(path=f"{request.path}{mark}{query}")
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
