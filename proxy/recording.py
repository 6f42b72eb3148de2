"""What a response is made of: a head, frames as they came, and, when it has ended well, a whole recording.

Values only: nothing here waits, reads a clock or touches a disk.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from array import array

Headers = tuple[tuple[bytes, bytes], ...]
"""Header fields in their order and spelling, duplicates kept."""

# What an answer and a request take in memory besides their bodies, as measured: names, values, and what holds them.
_ANSWER_BYTES = 864
_FIELD_BYTES = 144  # of the head, besides its value
_FRAME_BYTES = 12
_REQUEST_BYTES = 288

Check = Literal["json", "done", "response_completed", "response_incomplete", "finish_reason"]
"""How a recorded response said that it was finished."""


class Head(NamedTuple):
    """Status line and end-to-end header fields of a response, as the upstream sent them."""

    status: int
    reason: str
    headers: Headers

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field; `name` in lower case."""
        for known, value in self.headers:
            if known.lower() == name:
                return value
        return None


class Usage(NamedTuple):
    """Tokens as the response itself counted them."""

    input_tokens: int
    output_tokens: int


class RecordedRequest(NamedTuple):
    """What was asked. No header but those of `cache.vary`, never a credential."""

    method: str
    path: str
    """From `/v1/` on; with the query while its key is made, and never in a recording."""
    body: bytes
    """The canonical body, see `canonical.py`."""
    vary: tuple[tuple[str, str], ...] = ()
    """Names in lower case, in the order of `cache.vary`; absent ones left out."""
    namespace: str = ""
    sample: int = 0

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, near enough to account for it."""
        return len(self.body) + _REQUEST_BYTES


class Timeline(NamedTuple):
    """The length of each frame and when it arrived.

    Times are microseconds from the moment the request had been sent; `head_us` is when the response head arrived.
    """

    head_us: int
    lengths: "array[int]"
    arrived_us: "array[int]"

    def frames(self, body: bytes) -> Iterator[tuple[int, bytes]]:
        """Arrival time in microseconds and bytes of each frame of `body`."""
        start = 0
        for length, arrived_us in zip(self.lengths, self.arrived_us, strict=True):
            yield arrived_us, body[start : start + length]
            start += length

    @property
    def duration_us(self) -> int:
        return self.arrived_us[-1] if self.arrived_us else self.head_us


class RecordedAnswer(NamedTuple):
    """A recording without its request, which may be a hundred times as long: what a replay needs, and no more."""

    key: str
    recorded_at: float
    head: Head
    body: bytes
    timeline: Timeline
    stream: bool
    usage: Usage | None
    size_bytes: int
    """What it takes in memory, near enough to account for it."""

    def age_s(self, now_s: float) -> int:
        """Whole seconds since it was recorded; never negative, whatever the clock did."""
        return max(0, int(now_s - self.recorded_at))


class Recording(NamedTuple):
    """A whole response that ended well, and the request that it answers."""

    key: str
    """64 hexadecimal digits."""
    recorded_at: float
    """Unix time in seconds at which the response ended."""
    request: RecordedRequest
    head: Head
    """Of the header fields only those that a replay may carry, see `headers.py`."""
    body: bytes
    timeline: Timeline
    check: Check
    stream: bool
    model: str | None = None
    """The model that was asked for."""
    usage: Usage | None = None

    @property
    def answer(self) -> RecordedAnswer:
        """It without the request."""
        key, recorded_at, _, head, body, timeline, _, stream, _, usage = self
        size_bytes = _held_bytes(head, body, timeline)
        return RecordedAnswer(key, recorded_at, head, body, timeline, stream, usage, size_bytes)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, near enough to account for it."""
        return _held_bytes(self.head, self.body, self.timeline) + self.request.size_bytes


def _held_bytes(head: Head, body: bytes, timeline: Timeline) -> int:
    fields_bytes = sum([_FIELD_BYTES + len(value) for _, value in head.headers])
    return len(body) + _FRAME_BYTES * len(timeline.lengths) + fields_bytes + _ANSWER_BYTES
