"""From an answer that has ended to a recording of it, or to the reason why there is none.

The rule: it is looked at once, as a whole, and recorded as it came.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from proxy import headers, sse
from proxy.question import Question
from proxy.recording import Check, Head, Recording, Timeline, Usage
from proxy.sse import Ending

# So much takes half a millisecond, and some milliseconds if it is all tiny events; more of it is a matter for a thread,
# so that no stream waits for it. A frame costs as much as some bytes do.
_SOON_JUDGED_BYTES = 96 * 1024
_SOON_JUDGED_LINES = 1000
_FRAME_BYTES = 16
_CR = ord("\r")  # to look for a number is much faster than to look for one byte


@dataclass(slots=True)
class Take:
    """An answer as it came, with the moments of its parts on one clock, in seconds."""

    sent_s: float
    """When its request was sent."""
    head_s: float
    head: Head
    frames: Sequence[bytes]
    arrived_s: Sequence[float]
    body: bytes
    """The frames in one piece."""

    def timeline(self) -> Timeline:
        sent_s = self.sent_s
        # An array takes a list several times faster than what is made one by one while it is filled.
        return Timeline(
            head_us=max(0, int((self.head_s - sent_s) * 1e6)),
            lengths=array("I", list(map(len, self.frames))),
            arrived_us=array(
                "Q", [int((moment_s - sent_s) * 1e6) if moment_s > sent_s else 0 for moment_s in self.arrived_s]
            ),
        )


def is_soon_judged(frames: Sequence[bytes], size_bytes: int) -> bool:
    """Whether an answer is judged and recorded in no time that anyone would notice; `size_bytes` is to be read."""
    if size_bytes + _FRAME_BYTES * len(frames) > _SOON_JUDGED_BYTES:
        return False
    body = b"".join(frames)  # to count in each of many frames takes ten times as long
    returns = body.count(b"\r") if _CR in body else 0  # there is mostly none, which is seen far sooner than counted
    return body.count(b"\n") + returns <= _SOON_JUDGED_LINES


def judge(body: bytes, question: Question) -> Ending:
    """Whether this is the whole answer to the question, and how it says so."""
    return sse.stream_ending(body, question.choices_expected) if question.stream else sse.plain_ending(body)


def record(question: Question, take: Take, check: Check, usage: Usage | None, *, now_s: float) -> Recording:
    """The recording of an answer that was judged to be whole; `now_s` is Unix time."""
    return Recording(
        key=question.key,
        recorded_at=now_s,
        request=question.request,
        head=Head(take.head.status, take.head.reason, headers.for_recording(take.head.headers)),
        body=take.body,
        timeline=take.timeline(),
        check=check,
        stream=question.stream,
        model=question.model,
        usage=usage,
    )
