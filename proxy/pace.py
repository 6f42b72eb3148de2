"""The pace of a replay: at once, in the recorded rhythm, faster or slower than it, or a fixed gap between frames."""

import re
from contextlib import suppress
from typing import Literal, NamedTuple

_SPEED = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)x")
_GAP = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s)")

# Beyond these it is a slip of the pen, and would hold the connection for hours.
_SLOWEST = 0.01
_LONGEST_GAP_S = 60.0


class Pace(NamedTuple):
    """When each frame of a replay is due."""

    kind: Literal["instant", "recorded", "gap"]
    factor: float = 1.0
    """For `recorded` how many times as fast; for `gap` the seconds between two frames."""

    @classmethod
    def parse(cls, text: str) -> "Pace":
        """Read `instant`, `recorded`, `2x`, `0.5x` or `20ms`.

        Raises:
            ValueError: it is none of these, or a speed below 0.01x, or a gap of more than a minute.
        """
        if text == "instant":
            return cls("instant")
        if text == "recorded":
            return cls("recorded")
        if (match := _SPEED.fullmatch(text)) and float(match[1]) >= _SLOWEST:
            return cls("recorded", float(match[1]))
        with suppress(ValueError):
            return cls("gap", pause_s(text))
        raise ValueError("expected instant, recorded, a speed such as 2x or 0.5x, or a gap such as 20ms")

    def due_s(self, frame: int, arrived_us: int) -> float:
        """Seconds from the start of the replay at which the `frame`-th frame, counted from 0, goes out."""
        match self.kind:
            case "instant":
                return 0.0
            case "recorded":
                return arrived_us / 1e6 / self.factor
            case "gap":
                return frame * self.factor


FRAME_BY_FRAME = Pace("gap", 0.0)
"""At once, but not in one piece."""


def pause_s(text: str) -> float:
    """Read `20ms` or `2s`, in seconds.

    Raises:
        ValueError: it is neither, or more than a minute.
    """
    if match := _GAP.fullmatch(text):
        given_s = float(match[1]) * (0.001 if match[2] == "ms" else 1.0)
        if given_s <= _LONGEST_GAP_S:
            return given_s
    raise ValueError("a time such as 20ms or 2s, a minute at most")
