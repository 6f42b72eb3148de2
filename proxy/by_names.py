"""What follows from the names of header fields, found out once: one sender's are the same again and again.

The rule: it follows from the names alone, and whoever asks can't tell whether it was known.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, TypeVar

from proxy.recording import Headers

_T = TypeVar("_T")

# Names that have been seen: some hundred kilobytes of them, since whoever sends them chooses them.
_MOST_KNOWN = 128
_LONGEST_KNOWN_BYTES = 2048

# Heads that have been asked about lately. Half a dozen things follow from each, and to compare names takes longer than
# all that is done with them.
_MOST_RECENT = 128


_name = itemgetter(0)
_Names = tuple[tuple[bytes, ...], dict[object, Any]]
"""The names of a head, and what is known of them: by the function that found it out."""

_known: dict[tuple[bytes, ...], _Names] = {}
_recent: dict[int, tuple[Headers, _Names]] = {}


def by_names(find: Callable[[tuple[bytes, ...]], _T]) -> Callable[[Headers], _T]:
    """Have what `find` gives for the names of header fields found out once."""

    def found(headers: Headers) -> _T:
        recent = _recent.get(id(headers))
        names, known = recent[1] if recent is not None and recent[0] is headers else _looked_up(headers)
        if find not in known:
            known[find] = find(names)
        result: _T = known[find]
        return result

    return found


def places_of(*wanted: bytes) -> Callable[[Headers], tuple[tuple[int, ...], ...]]:
    """A function that says where the fields of each of these names stand; they are in lower case."""

    def places(names: tuple[bytes, ...]) -> tuple[tuple[int, ...], ...]:
        lowered = [name.lower() for name in names]
        return tuple([tuple([place for place, name in enumerate(lowered) if name == one]) for one in wanted])

    return by_names(places)


def _looked_up(headers: Headers) -> _Names:
    names = tuple(map(_name, headers))
    found = _known.get(names)
    if found is None:
        found = (names, {})
        if sum(map(len, names)) <= _LONGEST_KNOWN_BYTES:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[names] = found
    if len(_recent) >= _MOST_RECENT:
        _recent.clear()
    _recent[id(headers)] = headers, found  # which keeps them, so that nothing else gets that id
    return found
