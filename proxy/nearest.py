"""The recording that comes nearest to a request which none answers, for a person to find out what changed.

The rule: it is told, and never served. How many recordings are looked at is bounded, and so is what is read of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nsmallest
from operator import itemgetter
from typing import NamedTuple, Protocol

from proxy.difference import Comparable, Differences, Incomparable, characters_apart, comparable, differences, distance
from proxy.question import Question
from proxy.recording import RecordedRequest
from proxy.store.summary import Summary, line, prompt_of

# So many are read whole and compared, those that seem most alike by what a listing shows. Where more of them show the
# same, as prompts that are made from one template do, so many are told apart by the bytes of their requests.
_MOST_COMPARED = 300
_MOST_EQUALS = 4000
_SAMPLES, _SAMPLE_BYTES = 12, 16
_MOST_BYTES = 4 * 1024 * 1024  # of the requests that are compared, together


class Recorded(Protocol):
    """What there is to be compared with."""

    def newest(self) -> Iterator[Summary]:
        """The recordings, the latest first."""
        ...

    def bodies(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The bodies of their requests as they may be, to choose by; of some perhaps none."""
        ...

    def request(self, key: str) -> RecordedRequest | None:
        """What one of them answers; None if that can't be had."""
        ...


class Nearest(NamedTuple):
    """The recording that comes nearest, and how it differs."""

    key: str
    differences: Differences
    is_made_alike: bool
    """Its key is made as that of the request; if not, it was asked with another `upstream.name`, query or scope, which
    recordings do not keep."""


def nearest(question: Question, recorded: Recorded, key_here: Callable[[RecordedRequest], str]) -> Nearest | None:
    """The recording of the same namespace that differs least; None if there is none that can be compared.

    `key_here` is the key that a request would have if it were asked as this one was.

    Raises:
        Incomparable: the request itself can't be compared with any.
    """
    asked = question.request
    wanted = comparable(asked)
    best: tuple[int, str, RecordedRequest, Comparable] | None = None
    left_bytes = _MOST_BYTES
    for key in _most_alike(question, asked, recorded):
        request = recorded.request(key)
        if request is None or request.namespace != asked.namespace:
            continue
        left_bytes -= len(request.body)
        if best is not None and left_bytes < 0:
            break
        try:
            found = comparable(request)
            apart = distance(found, wanted)
        except Incomparable:
            continue
        if best is None or apart < best[0]:
            best = apart, key, request, found
    if best is None:
        return None
    _, key, request, found = best
    return Nearest(key, differences(found, wanted), is_made_alike=key_here(request) == key)


def _most_alike(question: Question, asked: RecordedRequest, recorded: Recorded) -> list[str]:
    """The keys of those that are most like it, the most alike first, and of equals the latest."""
    summaries = (each for each in recorded.newest() if each.namespace == asked.namespace and each.key != question.key)
    ranked = sorted(_likenesses(question, asked, summaries), key=itemgetter(0), reverse=True)
    if len(ranked) <= _MOST_COMPARED:
        return [key for _, key in ranked]
    least, _ = ranked[_MOST_COMPARED]
    more_alike = [key for likeness, key in ranked[:_MOST_COMPARED] if likeness > least]
    equals = [key for likeness, key in ranked if likeness == least][:_MOST_EQUALS]
    read = _apart(recorded.bodies(equals), asked.body)
    return more_alike + [key for _, key in nsmallest(_MOST_COMPARED - len(more_alike), read, key=itemgetter(0))]


def _apart(bodies: Iterable[tuple[str, bytes]], asked: bytes) -> Iterator[tuple[tuple[int, int], str]]:
    """How far each body is from what is asked, by bytes, and its key."""
    # One change leaves the same before and behind it. Several do not, but most samples are still found.
    step = max(1, len(asked) // _SAMPLES)
    samples = [asked[at : at + _SAMPLE_BYTES] for at in range(0, len(asked), step)]
    fewest = len(samples)
    for key, body in bodies:
        missing = sum([sample not in body for sample in samples])
        fewest = min(fewest, missing)
        yield (missing, characters_apart(body, asked) if missing <= fewest else len(body)), key


def _likenesses(
    question: Question, asked: RecordedRequest, summaries: Iterable[Summary]
) -> Iterator[tuple[float, str]]:
    """How like it each of them is by what a listing shows of it, and its key."""
    path, model, prompt = line(asked.path), line(question.model or ""), prompt_of(asked.body)
    parts_of: Callable[[str], Sequence[str]] = str.split if " " in prompt else str  # words, or characters
    parts = {*parts_of(prompt)}
    for summary in summaries:
        others = parts_of(summary.prompt)
        same = 2 * len(parts.intersection(others)) / max(1, len(parts) + len(others))
        yield (
            (
                4 * (summary.path == path)
                + 2 * (1 if summary.prompt == prompt else same)
                + ((summary.model or "") == model)
                + 0.5 * (summary.stream is question.stream)
                + 0.25 * (summary.sample == asked.sample)
            ),
            summary.key,
        )
