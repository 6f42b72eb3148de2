"""When each frame of a replay is due."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.pace import Pace


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("instant", Pace("instant")),
        ("recorded", Pace("recorded", 1.0)),
        ("2x", Pace("recorded", 2.0)),
        ("0.5x", Pace("recorded", 0.5)),
        ("0.01x", Pace("recorded", 0.01)),
        ("100x", Pace("recorded", 100.0)),
        ("20ms", Pace("gap", 0.02)),
        ("1.5s", Pace("gap", 1.5)),
        ("0ms", Pace("gap", 0.0)),
        ("60s", Pace("gap", 60.0)),
        ("60000ms", Pace("gap", 60.0)),
    ],
)
def test_a_pace_is_read(text: str, expected: Pace) -> None:
    """A word, a speed or a gap."""
    assert Pace.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "Instant", "fast", "2", "x", "ms", "s", "2 x", " 2x", "2x ", "2X", "2x\n", "2.x", ".5x"),
        *("+2x", "1e3x"),
        *("-1x", "0x", "0.0x", "0.009x", "0.0000001x", "nanx", "infx", "61s", "60001ms", "-5ms", "1m", "1h", "20 ms"),
        *("\u0662x", "\uff12x", "\xb2x", "9" * 400 + "x", "0." + "0" * 400 + "1x", "0" * 400 + "1ms"),
    ],
)
def test_anything_else_is_refused_with_the_ways_out(text: str) -> None:
    """A speed so low, or a gap so long, that it would hold a connection for hours, is a slip of the pen."""
    with pytest.raises(ValueError, match="expected instant, recorded, a speed such as 2x"):
        Pace.parse(text)


@given(st.text("0123456789.xms", max_size=12))
def test_every_pace_that_is_read_can_be_kept(text: str) -> None:
    """Whatever was let in gives times that a timer takes, in the order of the frames."""
    try:
        pace = Pace.parse(text)
    except ValueError:
        return

    due_s = [pace.due_s(number, arrived_us) for number, arrived_us in enumerate((0, 1, 10**6, 3600 * 10**6))]

    assert due_s == sorted(due_s)
    assert due_s[0] == 0
    assert math.isfinite(due_s[-1])


def test_instant_waits_for_nothing() -> None:
    """Every frame is due at the start."""
    assert [Pace("instant").due_s(number, number * 10**6) for number in range(3)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("text", "expected"), [("recorded", [0.25, 1.5]), ("2x", [0.125, 0.75]), ("0.5x", [0.5, 3.0])])
def test_the_recorded_rhythm_is_kept_or_scaled(text: str, expected: list[float]) -> None:
    """`2x` is twice as fast, `0.5x` half as fast."""
    pace = Pace.parse(text)

    assert [pace.due_s(0, 250_000), pace.due_s(1, 1_500_000)] == expected


def test_a_gap_stands_between_frames() -> None:
    """The first one goes out at once, whenever it had arrived."""
    pace = Pace.parse("20ms")

    assert [pace.due_s(number, 10**9) for number in range(3)] == pytest.approx([0, 0.02, 0.04])
