"""The memory tier: recordings that were used lately, in so many bytes.

The rule: it is never the only place of a recording that must last.
"""

from collections import OrderedDict

from proxy.recording import Recording


class Memory:
    """Recordings up to a limit in bytes (0 keeps none); the one used least recently gives way."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._recordings: OrderedDict[str, Recording] = OrderedDict()

    def get(self, key: str) -> Recording | None:
        recording = self._recordings.get(key)
        if recording is not None:
            self._recordings.move_to_end(key)
        return recording

    def put(self, recording: Recording) -> None:
        """Take it in, in place of an older one of its key; one that is larger than the limit only removes that."""
        if (older := self._recordings.pop(recording.key, None)) is not None:
            self._used_bytes -= older.size_bytes
        size_bytes = recording.size_bytes
        if size_bytes > self._limit_bytes:
            return
        self._recordings[recording.key] = recording
        self._used_bytes += size_bytes
        self._make_room()

    def resize(self, limit_bytes: int) -> None:
        """What is beyond the new limit is let go at once."""
        self._limit_bytes = limit_bytes
        self._make_room()

    def clear(self) -> None:
        self._recordings.clear()
        self._used_bytes = 0

    def _make_room(self) -> None:
        while self._used_bytes > self._limit_bytes:
            _, oldest = self._recordings.popitem(last=False)
            self._used_bytes -= oldest.size_bytes
