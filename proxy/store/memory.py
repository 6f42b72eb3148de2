"""The memory tier: what was recorded and used lately, in so many bytes.

The rule: it holds what a replay needs and no more, and is never the only place of a recording that must last.
"""

from collections import OrderedDict

from proxy.recording import RecordedAnswer


class Memory:
    """Recorded answers up to a limit in bytes (0 keeps none); the one used least recently gives way."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._answers: OrderedDict[str, RecordedAnswer] = OrderedDict()

    def get(self, key: str) -> RecordedAnswer | None:
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, answer: RecordedAnswer) -> None:
        """Take it in, in place of an older one of its key; one that is larger than the limit only removes that."""
        if (older := self._answers.pop(answer.key, None)) is not None:
            self._used_bytes -= older.size_bytes
        size_bytes = answer.size_bytes
        if size_bytes > self._limit_bytes:
            return
        self._answers[answer.key] = answer
        self._used_bytes += size_bytes
        self._make_room()

    def resize(self, limit_bytes: int) -> None:
        """What is beyond the new limit is let go at once."""
        self._limit_bytes = limit_bytes
        self._make_room()

    def clear(self) -> None:
        self._answers.clear()
        self._used_bytes = 0

    def _make_room(self) -> None:
        while self._used_bytes > self._limit_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._used_bytes -= oldest.size_bytes
