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

# A stream has few kinds of events, and what comes in other kinds than these is read, which is all that happens to it.
_KINDS = 4
_ATTEMPTS = 16
_LONGEST_BYTES = 4096
_MOST_DIGITS = 15  # so that the number is one to every reader


class _Kind(NamedTuple):
    """What events of a kind have in common."""

    start: bytes
    rests: list[bytes]
    """How they go on after each part that varies, from the byte on that ends it: a quote, or what follows a number."""


class Alike:
    """The kinds of events that have been read."""

    def __init__(self) -> None:
        self._kinds: list[_Kind] = []
        self._attempts = _ATTEMPTS

    def includes(self, event: bytes) -> bool:
        """Whether the event says no more than one that was learned."""
        try:
            for start, rests in self._kinds:
                if event.startswith(start) and _goes_on(event, len(start), rests):
                    return True
        except UnicodeDecodeError:
            pass
        return False

    def learn(self, event: bytes) -> None:
        """Take it for an example of its kind: it was readable JSON, and would change nothing if it came again.

        The judge must not ask for the members that may vary.
        """
        if self._attempts and len(event) <= _LONGEST_BYTES and _BACKSLASH not in event:
            self._attempts -= 1
            if kind := _kind(event):
                self._kinds = [kind, *self._kinds[: _KINDS - 1]]


def _goes_on(event: bytes, at: int, rests: list[bytes]) -> bool:
    for rest in rests:
        end = event.find(rest[0], at)
        if end < 0 or not event.startswith(rest, end):
            return False
        varied = event[at:end]
        if rest[0] == _QUOTE:
            if _BACKSLASH in varied or not varied.decode().isprintable():
                return False
        elif not varied.isdigit() or len(varied) > _MOST_DIGITS or varied.startswith(b"0"):
            return False
        at = end + len(rest)
    return at == len(event)


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
