"""Events that differ only in what a model wrote, as most of a stream do: of those that are alike one is read.

The rule: an event is like another only if it is surely as readable, and says the same but for texts that tell nothing
of how a response ended.
"""

import re
from itertools import pairwise
from typing import NamedTuple

# What varies from event to event: the texts themselves, what pads them, and the number of an event.
_VARYING = re.compile(
    rb'"(?:arguments|content|delta|obfuscation|reasoning|reasoning_content|refusal|text)": ?"([^"\\]*)"'
    rb'|"sequence_number": ?([0-9]+)(?=[,}])'
)
_QUOTE, _BACKSLASH = b'"\\'

_LONGEST_BYTES = 4096
_MOST_DIGITS = 15  # so that the number is one to every reader


class _Kind(NamedTuple):
    """What events of a kind have in common."""

    start: bytes
    rests: list[bytes]
    """How they go on after each part that varies, from the byte on that ends it: a quote, or what follows a number."""


def unlike(event: bytes, others: list[bytes]) -> list[bytes]:
    """Those of the other events that may say something which this one does not, in their order.

    The event was readable JSON and would change nothing if it came again. Whoever asks must not ask any event for the
    members that may vary.
    """
    if len(event) > _LONGEST_BYTES or _BACKSLASH in event or (kind := _kind(event)) is None:
        return others
    start, rests = kind
    end = rests[-1]
    first, least = len(start), len(start) + len(end)
    varying = [
        other[first : -len(end)]
        if other.startswith(start) and other.endswith(end) and len(other) >= least and _BACKSLASH not in other
        else None
        for other in others
    ]
    # All at once, since nearly always all that look like it are of its kind; or else one after the other.
    if _vary([part for part in varying if part is not None], rests):
        return [other for other, part in zip(others, varying, strict=True) if part is None]
    each = zip(others, varying, strict=True)
    return [other for other, part in each if part is None or not _vary([part], rests)]


def _kind(event: bytes) -> _Kind | None:
    *others, data = event.split(b"\n")
    if not data.startswith(b"data: {") or any(line.startswith(b"data") for line in others):
        return None
    # It is readable and holds no escapes, so each quote begins or ends a text, and nothing but white space and marks
    # stands between two texts. Thus `"content":` is a name, and a text or number behind it its value: any other without
    # quotes, escapes and controls would be as readable there.
    places = [match.span(match.lastindex or 0) for match in _VARYING.finditer(data)]
    if not places:
        return None
    parts = [data[end:start] for (_, end), (start, _) in pairwise([(0, 0), *places, (len(data), 0)])]
    return _Kind(b"\n".join([*others, parts[0]]), parts[1:])


def _vary(pieces: list[bytes], rests: list[bytes]) -> bool:
    """Whether all of these, from the first varying part to the last, are what events of a kind may hold there."""
    *inner, last = rests
    for rest in inner:
        parted = [piece.partition(rest) for piece in pieces]
        if not all(found for _, found, _ in parted) or not _may_stand([part for part, _, _ in parted], rest):
            return False
        pieces = [others for _, _, others in parted]
    return _may_stand(pieces, last)


def _may_stand(parts: list[bytes], rest: bytes) -> bool:
    """Whether all of these may be what varies, where `rest` follows."""
    if rest[0] != _QUOTE:
        return all(part.isdigit() and len(part) <= _MOST_DIGITS and not part.startswith(b"0") for part in parts)
    texts = b" ".join(parts)
    try:
        return _QUOTE not in texts and _BACKSLASH not in texts and texts.decode().isprintable()
    except UnicodeDecodeError:
        return False
