"""The timeline of an answer: how long each of its parts is, and when it came. And which answers take long to judge."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.recorder import Take, is_soon_judged
from proxy.recording import Head

MOMENTS = st.floats(0, 1e7) | st.floats(1000, 1001)


@given(MOMENTS, MOMENTS, st.lists(st.tuples(st.binary(max_size=3), MOMENTS), max_size=5))
@example(1000.0, 999.0, [(b"a", 999.5), (b"b", 1000.0), (b"c", 1000.0000019)])
def test_a_timeline_tells_microseconds_since_the_request_was_sent(
    sent_s: float, head_s: float, parts: list[tuple[bytes, float]]
) -> None:
    """Rounded down, and never before that moment, whatever the clock did."""
    frames, arrived_s = [frame for frame, _ in parts], [moment_s for _, moment_s in parts]

    timeline = Take(sent_s, head_s, Head(200, "OK", ()), frames, arrived_s, b"".join(frames)).timeline()

    def since_us(moment_s: float) -> int:
        return max(0, int((moment_s - sent_s) * 1e6))

    assert timeline.head_us == since_us(head_s)
    assert list(timeline.lengths) == [len(frame) for frame in frames]
    assert list(timeline.arrived_us) == [since_us(moment_s) for moment_s in arrived_s]


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_an_answer_of_many_lines_is_not_judged_soon(end: bytes) -> None:
    """Whatever ends them, and however they came."""
    line = b":" + end

    assert is_soon_judged([line * 1000], 2000)
    assert not is_soon_judged([line * 1001], 2002)
    assert not is_soon_judged([line * 500, b"\n", line * 500], 2001)
