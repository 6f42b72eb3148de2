"""The memory tier: what was recorded or used lately, in so many bytes.

A segmented LRU. What is new is on probation: it has a small part of the room, until it is asked for. From then on it is
protected, and gives way only to what was used later. So the questions of a batch, each asked once, neither drive out
the answers that are replayed all day nor fill the memory with what nobody asks for.

The rule: it holds what a replay needs and no more, and is never the only place of a recording that must last.
"""

from collections import OrderedDict

from proxy.recording import RecordedAnswer

# So much of the limit is for what is on probation, and while there is room so many bytes: some thousands of answers.
_PROBATION_PART = 16
_PROBATION_BYTES = 4 * 1024 * 1024


class Memory:
    """Recorded answers up to a limit in bytes (0 keeps none); the one used least recently gives way."""

    def __init__(self, limit_bytes: int) -> None:
        self._used_bytes = 0
        self._probation: OrderedDict[str, RecordedAnswer] = OrderedDict()
        self._probation_bytes = 0  # of `_used_bytes`
        self._protected: OrderedDict[str, RecordedAnswer] = OrderedDict()
        self.resize(limit_bytes)

    def get(self, key: str) -> RecordedAnswer | None:
        """The answer under a key, which is protected from now on."""
        answer = self._protected.get(key)
        if answer is not None:
            self._protected.move_to_end(key)
        elif (answer := self._probation.pop(key, None)) is not None:
            self._probation_bytes -= answer.size_bytes
            self._protected[key] = answer
        return answer

    def put(self, answer: RecordedAnswer, *, used: bool = False) -> None:
        """Take it in, in place of an older one of its key; one for which there is never room only removes that.

        `used`: it was asked for after it had been recorded. So was what takes the place of one that was.
        """
        used = used or answer.key in self._protected
        self._remove(answer.key)
        size_bytes = answer.size_bytes
        if size_bytes > (self._limit_bytes if used else min(self._limit_bytes, self._most_on_probation)):
            return
        self._used_bytes += size_bytes
        if used:
            self._protected[answer.key] = answer
        else:
            self._probation[answer.key] = answer
            self._probation_bytes += size_bytes
        self._make_room()

    def resize(self, limit_bytes: int) -> None:
        """What is beyond the new limit is let go at once."""
        self._limit_bytes = limit_bytes
        self._most_on_probation = max(limit_bytes // _PROBATION_PART, _PROBATION_BYTES)
        self._make_room()

    def clear(self) -> None:
        self._probation.clear()
        self._protected.clear()
        self._used_bytes = self._probation_bytes = 0

    def _remove(self, key: str) -> None:
        if (older := self._probation.pop(key, None)) is not None:
            self._probation_bytes -= older.size_bytes
        else:
            older = self._protected.pop(key, None)
        if older is not None:
            self._used_bytes -= older.size_bytes

    def _make_room(self) -> None:
        while self._probation_bytes > self._most_on_probation:
            self._remove_oldest(self._probation)
        while self._used_bytes > self._limit_bytes:
            is_too_much = self._probation_bytes > self._limit_bytes // _PROBATION_PART
            self._remove_oldest(self._probation if is_too_much else self._protected)

    def _remove_oldest(self, answers: OrderedDict[str, RecordedAnswer]) -> None:
        _, oldest = answers.popitem(last=False)
        self._used_bytes -= oldest.size_bytes
        if answers is self._probation:
            self._probation_bytes -= oldest.size_bytes
