"""The frames of a response as they came, as many of them as may be kept.

The rule: what is kept has a bound, in bytes and in frames, for each response and for all of them together.
"""

from collections.abc import Collection

from proxy.allowance import Allowance

# A listener may fall this far behind a response that is too long to be kept; what it has not taken by then, it loses.
_LEEWAY_BYTES = 1024 * 1024

# A frame takes about as much memory besides its bytes, so a stream of single bytes is too long by its frames first.
_FRAME_BYTES = 64
_FEW_FRAMES = 10_000  # so many are none too many, however little a recording may hold


class KeptFrames:
    """Frames, their arrival times, and how much of that is still here."""

    def __init__(self, limit_bytes: int, shared: Allowance) -> None:
        """Keep up to `limit_bytes`, and together no more than is `shared`."""
        self.frames: list[bytes] = []
        self.arrived_s: list[float] = []
        self.size_bytes = 0
        """Of all that have arrived."""
        self.is_whole = limit_bytes > 0
        """Whether every frame that has arrived is still here."""
        self._limit_bytes = limit_bytes
        self._limit_frames = _FEW_FRAMES + limit_bytes // _FRAME_BYTES
        self._shared = shared
        self._held_bytes = 0
        self._gone = 0  # frames that are not here any more, of all that have arrived
        self._removed = 0  # of these, the ones whose places in the lists have been removed, too

    @property
    def arrived(self) -> int:
        """How many frames have come so far."""
        return self._removed + len(self.frames)

    @property
    def is_too_long(self) -> bool:
        """For one response by itself."""
        return self.size_bytes > self._limit_bytes or len(self.frames) > self._limit_frames

    def append(self, frame: bytes, arrived_s: float) -> bool:
        """Take in the next one; False if it was one too many, and they are not all kept any more."""
        size_bytes = len(frame)
        self.size_bytes += size_bytes
        self._held_bytes += size_bytes
        is_room = self._shared.take(size_bytes)
        self.frames.append(frame)
        self.arrived_s.append(arrived_s)
        if not self.is_whole or (is_room and not self.is_too_long):
            return True
        self.is_whole = False
        return False

    def at(self, position: int) -> bytes | None:
        """The frame before which `position` others came; None if it is here no more."""
        return None if position < self._gone else self.frames[position - self._removed]

    def drop_played(self, positions: Collection[int]) -> None:
        """Drop what every listener has played, and what the slowest may no longer expect to be kept for it.

        `positions` says how many frames each of them has played.
        """
        taking = (position for position in positions if position >= self._gone)
        played = min(taking, default=self.arrived)
        while self._gone < played or (self._gone < self.arrived - 1 and self._holds_too_much):
            self._drop(self._gone - self._removed)
        # Their places go when they are half of all: to move the rest up for each frame would take ever longer.
        if (surplus := self._gone - self._removed) * 2 > len(self.frames):
            del self.frames[:surplus], self.arrived_s[:surplus]
            self._removed = self._gone

    def release(self) -> None:
        """What is held counts no longer: it has ended, and nobody will play it again."""
        self._shared.give_back(self._held_bytes)
        self._held_bytes = 0

    @property
    def _holds_too_much(self) -> bool:
        in_bytes = self._held_bytes > self._limit_bytes + _LEEWAY_BYTES
        return in_bytes or self.arrived - self._gone > self._limit_frames

    def _drop(self, place: int) -> None:
        size_bytes = len(self.frames[place])
        self.frames[place] = b""
        self._held_bytes -= size_bytes
        self._shared.give_back(size_bytes)
        self._gone += 1
