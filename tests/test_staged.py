"""What `X-Reprise-Fault` may ask for, and where the events end that it counts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import StagedFailure
from proxy.sse import events, stream_ending
from proxy.staged import EventCutter, StagedFault, error_event
from tests.harness import DONE, HELLO, WORLD


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status=429", StagedFault("status=429", status=429)),
        ("first-byte=2s", StagedFault("first-byte=2s", first_byte_s=2.0)),
        ("gap=50ms", StagedFault("gap=50ms", gap_s=0.05)),
        ("cut-after=0", StagedFault("cut-after=0", cut_after=0)),
        ("error-event=12", StagedFault("error-event=12", error_after=12)),
        ("gap=0ms,\tcut-after=5 ", StagedFault("gap=0ms, cut-after=5", gap_s=0.0, cut_after=5)),
        ("status=500,first-byte=1.5s", StagedFault("status=500, first-byte=1.5s", status=500, first_byte_s=1.5)),
    ],
)
def test_a_fault_is_read(text: str, expected: StagedFault) -> None:
    """One, or several with commas between."""
    assert StagedFault.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        *((text, "expected status=429, first-byte=2s") for text in ("", ",", "cut", "Status=429", "cut-after =5", "=")),
        *((text, "expected status=429, first-byte=2s") for text in ("gap=1s,", "gap=1s,gap=1s", "pace=2x")),
        *((f"status={value}", "that of an error") for value in ("", "200", "399", "499", "600", "x", "\xb2", "-500")),
        *((f"cut-after={value}", "a number of events") for value in ("", "-1", "1.0", "five", "\u0665", "9" * 10)),
        *((f"error-event={value}", "a number of events") for value in ("", "+1", "5 frames")),
        *((f"gap={value}", "a time such as 20ms or 2s") for value in ("", "5", "1m", "61s", "-1s", "1e3ms", "1s;x")),
        ("first-byte=3600s", "first-byte and gap take a time .* a minute at most"),
        ("status=500, cut-after=5", "an answer ends in one way"),
        ("cut-after=5, error-event=5", "an answer ends in one way"),
    ],
)
def test_anything_else_is_refused_with_the_ways_out(text: str, told: str) -> None:
    """A fault that is not staged as it was meant would let a test pass for another reason."""
    with pytest.raises(ValueError, match=told):
        StagedFault.parse(text)


NAMES = st.sampled_from(["status", "first-byte", "gap", "cut-after", "error-event", "pace", ""])
VALUES = st.text("0123456789.ms-", max_size=8) | st.sampled_from(["429", "2s", "50ms", "5"])
PARTS = st.lists(st.tuples(NAMES, st.sampled_from(["=", "", "=="]), VALUES).map("".join), max_size=4)


@given(PARTS, st.sampled_from([",", ", ", ";"]))
def test_what_was_read_says_the_same_when_it_is_read_again(parts: list[str], between: str) -> None:
    """So the log tells what was staged, in a form that can be asked for."""
    try:
        fault = StagedFault.parse(between.join(parts))
    except ValueError:
        return

    assert StagedFault.parse(fault.text) == fault
    assert fault.text.isascii()
    assert 0 <= fault.first_byte_s <= 60
    assert 0 <= fault.gap_s <= 60


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
BLOCKS = st.sampled_from(
    [b"data: x", b"data", b"event: e|data: {}|data: 2", b"id: 7|data:", b": ping", b"id: data:", b""]
)


@given(
    LINE_ENDS, st.lists(BLOCKS, max_size=6), st.lists(st.integers(0, 99), max_size=12), st.sampled_from([b"", b"da"])
)
def test_a_stream_is_cut_behind_each_event(line_end: bytes, blocks: list[bytes], cuts: list[int], rest: bytes) -> None:
    """However its frames were cut, and whichever line ends it has; no byte is lost or added."""
    stream = b"".join((block + b"||").replace(b"|", line_end) for block in blocks) + rest
    places = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    cutter = EventCutter()

    pieces = [piece for start, end in pairwise(places) for piece in cutter.pieces(stream[start:end])]

    assert b"".join(piece for piece, _ in pieces) == stream
    heard, after = b"", []
    for piece, is_end in pieces:
        heard += piece
        if is_end:
            after.append(heard.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    has_data = [any(line.partition(b":")[0] == b"data" for line in block.split(b"|")) for block in blocks]
    assert len(after) == sum(has_data)
    for number, text in enumerate(after, 1):
        assert text.endswith(b"\n\n")
        assert len(list(events(text))) >= number


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_an_error_event_is_one_that_is_never_recorded(path: str) -> None:
    """By the proxy's own judgement it is what an upstream sends that has failed."""
    assert stream_ending(HELLO + WORLD + error_event(path, 2) + DONE, 1).reason == "error_event"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_failure_has_the_form_of_openais(status: int) -> None:
    """Only the message tells that it was staged."""
    body = StagedFailure(status).body()

    assert b"reprise_error" not in body
    assert b"X-Reprise-Fault" in body
