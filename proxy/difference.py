"""Where two requests differ, for a person who took them for the same.

The rule: what is shown is short, and nothing in it steers a terminal, however long and strange the requests are.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from typing import Any, AnyStr, NamedTuple
from unicodedata import normalize

import orjson

from proxy.recording import RecordedRequest

LONGEST_BYTES = 4 * 1024 * 1024
"""Of a body that is compared: to read more of it at once holds up everything else for longer than a stream should."""

_MOST_VALUES = 100_000  # some 15 MB while they are compared; more of them are numbers that tell a person nothing

_MOST_SHOWN = 5
_MOST_WEIGHED = 1000  # beyond it one request is as far from another as any
_SHOWN_TOGETHER = 600  # characters of all differences, so that they stay a message
_LONGEST_POINTER = 80
_LONGEST_VALUE = 48
_LEAD = 16  # characters before the first that differs, to find it by
_LONGEST_SPELLED = 100  # what can't be shown as it is takes up to ten characters for one

_OTHER_ROUTE = 1000  # a request on another route is further away than any on the same


class Incomparable(Exception):
    """The body is too long, has too much in it or is nested too deeply to be compared, or it is no JSON at all."""


class _Number(NamedTuple):
    """As it is spelled: `1` and `1.0` are two requests."""

    spelled: str


_ABSENT = object()


class Comparable(NamedTuple):
    """A request, read so that it can be compared with others."""

    facts: dict[str, Any]
    """What is no part of the body, by name."""
    body: Any


class Difference(NamedTuple):
    """One place at which a recorded request and one that was asked are not the same."""

    where: str
    """A JSON pointer into the canonical body (RFC 6901), or `path`, `sample`, `header openai-beta`."""
    recorded: str | None
    """The value there, shortened, of a text the part that differs; None if there is none."""
    asked: str | None
    character: int | None = None
    """At which two texts begin to differ, the first being 1."""

    def __str__(self) -> str:
        at = "" if self.character is None else f" differs at character {self.character}"
        return f"`{self.where}`{at}: recorded {_quoted(self.recorded)}, asked {_quoted(self.asked)}"


class Differences(NamedTuple):
    """The first places at which two requests differ, and how many there are besides."""

    first: tuple[Difference, ...] = ()
    more: int = 0

    def __str__(self) -> str:
        """All of it in one line, at most some 800 characters."""
        return self._joined(map(str, self.first))

    def places(self) -> str:
        """Where they differ, and nothing of how: no value, and no name within a member that was not asked with it."""
        return self._joined(
            f"`{each.where if each.asked is not None else _known_part(each.where)}`" for each in self.first
        )

    def _joined(self, texts: Iterable[str]) -> str:
        shown: list[str] = []
        for text in texts:
            if shown and sum(map(len, shown)) + len(text) > _SHOWN_TOGETHER:
                break
            shown.append(text)
        left = self.more + len(self.first) - len(shown)
        return "; ".join([*shown, f"and {left} more"] if left else shown)


def comparable(request: RecordedRequest) -> Comparable:
    """Read a request.

    Raises:
        Incomparable: its body can't be compared with another.
    """
    if len(request.body) > LONGEST_BYTES:
        raise Incomparable("its body is too long")
    if request.body.count(b",") > _MOST_VALUES:
        raise Incomparable("its body has too many values")
    try:
        body = json.loads(request.body, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
    except RecursionError as error:
        raise Incomparable("its body is nested too deeply") from error
    except ValueError as error:
        raise Incomparable("its body is no JSON") from error
    facts = {"method": request.method, "path": request.path, "sample": _Number(str(request.sample))}
    return Comparable(facts | {f"header {name}": value for name, value in request.vary}, body)


def distance(recorded: Comparable, asked: Comparable) -> int:
    """How far one request is from another, in about the characters that are to be changed; 0 if they are the same.

    Raises:
        Incomparable: they are nested too deeply.
    """
    try:
        unlike = list(islice(_unlike(recorded, asked), _MOST_WEIGHED))
    except RecursionError as error:
        raise Incomparable("its body is nested too deeply") from error
    return sum(_OTHER_ROUTE if where == "path" else _weight(one, other) for where, one, other in unlike)


def differences(recorded: Comparable, asked: Comparable) -> Differences:
    """Where one request differs from another, in the order of their canonical form.

    Raises:
        Incomparable: they are nested too deeply.
    """
    unlike = _unlike(recorded, asked)
    try:
        first = tuple(_difference(*each) for each in islice(unlike, _MOST_SHOWN))
        return Differences(first, sum(1 for _ in unlike))
    except RecursionError as error:
        raise Incomparable("its body is nested too deeply") from error


def characters_apart(one: AnyStr, other: AnyStr) -> int:
    """The length of the longer one without what both begin with and what both end with."""
    start = _shared_start(one, other)
    return max(len(one), len(other)) - start - _shared_start(one[start:][::-1], other[start:][::-1])


_Unlike = tuple[str, Any, Any]
"""Where, what is recorded there, and what is asked."""


def _unlike(recorded: Comparable, asked: Comparable) -> Iterator[_Unlike]:
    for name in dict.fromkeys([*recorded.facts, *asked.facts]):
        one, other = recorded.facts.get(name, _ABSENT), asked.facts.get(name, _ABSENT)
        if one != other:
            yield name, one, other
    yield from _unlike_within(recorded.body, asked.body, "")


def _unlike_within(recorded: Any, asked: Any, at: str) -> Iterator[_Unlike]:  # noqa: ANN401 - it is JSON
    if type(recorded) is dict and type(asked) is dict:
        for name in sorted(recorded.keys() | asked.keys()):
            pointer = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
            yield from _unlike_within(recorded.get(name, _ABSENT), asked.get(name, _ABSENT), pointer)
    elif type(recorded) is list and type(asked) is list:
        # One that was put in or left out in the middle is one difference, and does not make all behind it differ.
        start = _alike(zip(recorded, asked, strict=False))
        ends = zip(reversed(recorded[start:]), reversed(asked[start:]), strict=False)
        end = _alike(ends)
        pairs = zip_longest(recorded[start : len(recorded) - end], asked[start : len(asked) - end], fillvalue=_ABSENT)
        for place, (one, other) in enumerate(pairs, start):
            yield from _unlike_within(one, other, f"{at}/{place}")
    elif recorded != asked:
        yield at, recorded, asked


def _alike(pairs: Iterable[tuple[Any, Any]]) -> int:
    """How many pairs of the same come before the first of two that differ."""
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def _weight(one: Any, other: Any) -> int:  # noqa: ANN401 - it is JSON
    if isinstance(one, str) and isinstance(other, str):
        return 1 + characters_apart(one, other)
    return 1 + max(len(value) if isinstance(value, str | list | dict) else 1 for value in (one, other))


def _shared_start(one: AnyStr, other: AnyStr) -> int:
    """How much two texts begin with alike; in halves, since to compare is quick and to count is not."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _difference(where: str, recorded: Any, asked: Any) -> Difference:  # noqa: ANN401 - it is JSON
    shown = where if len(where) <= _LONGEST_POINTER else f"{where[:39]}…{where[-40:]}"
    if not (isinstance(recorded, str) and isinstance(asked, str)):
        return Difference(_printable(shown), _value(recorded), _value(asked))
    at = _shared_start(recorded, asked)
    start = 0 if max(len(recorded), len(asked)) <= _LONGEST_VALUE else max(0, at - _LEAD)
    excerpts = [_excerpt(recorded, start), _excerpt(asked, start)]
    if normalize("NFC", excerpts[0]) == normalize("NFC", excerpts[1]):  # they would look the same
        excerpts = [text.encode("unicode_escape").decode() for text in excerpts]
    one, other = map(_printable, excerpts)
    return Difference(_printable(shown), one, other, at + 1)


def _known_part(where: str) -> str:
    # What is known of an API are the names of its parameters; those within, as in `/metadata`, somebody has chosen.
    member, slash, _ = where[1:].partition("/")
    return f"/{member}/…" if where.startswith("/") and slash else where


def _excerpt(text: str, start: int) -> str:
    end = start + _LONGEST_VALUE
    return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))


def _value(value: Any) -> str | None:  # noqa: ANN401 - it is JSON
    if value is _ABSENT:
        return None
    try:
        text = orjson.dumps(value, default=_as_spelled).decode()
    except TypeError:  # a lone surrogate, or more within each other than any request of ours has
        text = repr(value)
    return _printable(_excerpt(text, 0))


def _as_spelled(number: _Number) -> orjson.Fragment:
    return orjson.Fragment(number.spelled)


def _quoted(value: str | None) -> str:
    return "nothing" if value is None else f"`{value}`"


def _printable(text: str) -> str:
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= _LONGEST_SPELLED else f"{text[:_LONGEST_SPELLED]}…"
