"""What the load generator is told to do, and what it reports.

The rule: an order says all there is to know of it, so that the load generator remembers nothing but what it holds open.
"""

from dataclasses import dataclass, field, fields

from benchmarks.questions import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Questions to ask, each connection asking its next one when the last is answered."""

    question: Question
    """What all of them are like; the first has its number."""
    port: int
    connections: int = 1
    distinct: int = 0
    """After so many questions it begins with the first again; 0 for never."""
    stride: int = 1
    """From one question to the next."""
    same: int = 0
    """The number of the question whose answer is due to all of them; 0 where each has an answer of its own."""
    count: int = 0
    """Questions in all; 0 for no bound."""
    milliseconds: int = 0
    """No question is asked after it; 0 for no bound."""
    spread_us: int = 0
    """Time over which the connections begin, one after the other."""
    hold: bool = False
    """Keep the streams under way once each has its first frame, until the next order comes."""
    remade: bool = False
    """The answers are made anew on their way: only their text is compared."""

    def to_wire(self) -> bytes:
        """As native/load.c reads it."""
        number, frames, gap_us, _ = self.question
        request = self.question.request_format(self.port)
        names = [each.name for each in fields(self) if each.name != "question"]
        values = {name: int(getattr(self, name)) for name in names}
        values |= {"first": number, "frames": frames, "gap_us": gap_us, "request_bytes": len(request)}
        return " ".join(f"{name}={value}" for name, value in values.items()).encode() + b"\n" + request


@dataclass(frozen=True, slots=True)
class Outcome:
    """Answers whose every byte was right, and their figures."""

    answers: int = 0
    asked: int = 0
    elapsed_s: float = 0.0
    """From the first question to the end of the last answer."""
    times: dict[str, float] = field(default_factory=dict)
    """Microseconds: `whole_p50_us`, and of paced streams `first_byte_p50_us` and `frame_p50_us`; with p99 and max."""
    wrong: str | None = None
    """What was wrong with the first answer that was; nothing else is said then."""
