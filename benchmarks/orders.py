"""What the load generator is told to do, and what it reports: one line of JSON each.

The rule: an order says all there is to know of it, so that the load generator remembers nothing but what it holds open.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Order:
    """Questions to ask, each connection asking its next one when the last is answered."""

    port: int
    connections: int = 1
    first: int = 1
    """The number of the first question; the others follow."""
    distinct: int | None = None
    """After so many questions it begins with the first again; None for never."""
    count: int | None = None
    """Questions in all."""
    seconds: float | None = None
    """No question is asked after it."""
    frames: int = 0
    """Of a streamed answer; 0 for a plain one."""
    gap_us: int = 0
    """Between the frames; 0 for all at once."""
    spread_s: float = 0.0
    """Time over which the connections begin, one after the other."""
    hold: bool = False
    """Keep the streams under way once each has its first frame, until the next order comes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Answers whose every byte was right, and their figures."""

    answers: int = 0
    elapsed_s: float = 0.0
    """From the first question to the end of the last answer."""
    times: dict[str, float] = field(default_factory=dict)
    """Microseconds: `whole_p50_us`, and of paced streams `first_byte_p50_us` and `frame_p50_us`; with p99 and max."""
    wrong: str | None = None
    """What was wrong with the first answer that was; nothing else is said then."""
