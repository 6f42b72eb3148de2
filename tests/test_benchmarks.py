"""The benchmark: it runs, it checks what it says it checks, and its clock is read at the right byte.

The rule: no figure is expected to be of any size; the machine that runs this is not quiet.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from benchmarks import questions
from benchmarks.connection import Answer, Wrong
from benchmarks.questions import Question

REPOSITORY = Path(__file__).parent.parent
FRAMES = 4
SENT_NS = [1_000, 2_000, 3_000, 4_000]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads /proc")
def test_the_command_measures_every_subject_and_says_that_the_bytes_were_right(tmp_path: Path) -> None:
    """One round of the plain misses, from the command line to the JSON."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1", "--only", "misses", "--json", str(file)]

    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False)

    assert ended.returncode == 0, ended.stderr
    found = orjson.loads(file.read_bytes())
    assert found["bytes_right"] is True
    assert found["stopped_by"] is None
    scenarios = ("plain misses, 1 at once", "plain misses, 32 at once")
    expected = {(scenario, subject) for scenario in scenarios for subject in ("direct", "bare tee", "reprise")}
    for figure in ("answers_per_s", "whole_p50_us"):
        assert {(row["scenario"], row["subject"]) for row in found["rows"] if row["figure"] == figure} == expected
    costs = [row for row in found["rows"] if row["figure"] == "cpu_us_per_answer"]
    assert {row["subject"] for row in costs} == {"bare tee", "reprise"}
    assert all(row["median"] > 0 for row in found["rows"])
    assert all(scenario in ended.stdout for scenario in scenarios)


@pytest.mark.parametrize("asked", [Question(7), Question(7, FRAMES)], ids=["plain", "stream"])
def test_an_answer_with_any_byte_of_its_body_altered_is_wrong(asked: Question) -> None:
    """The right bytes pass, and no others."""
    raw = questions.stream_answer(*asked[:2]) if asked.frames else questions.plain_answer(asked.number)
    body = raw.index(b"\r\n\r\n") + 4
    first, last = raw.index(b"{", body), raw.rindex(b"}")

    _arrived(asked, [raw]).check()

    for place in (first, (first + last) // 2, last):
        with pytest.raises(Wrong):
            _arrived(asked, [raw[:place] + b"~" + raw[place + 1 :]]).check()


def test_a_paced_stream_with_a_frame_of_another_answer_is_wrong() -> None:
    """Frames are told apart by the number of their question and by their place."""
    for own in (b"".join(_chunks(8)), b"".join(reversed(_chunks(7)))):
        with pytest.raises(Wrong):
            _arrived(Question(7, FRAMES, 5000), [questions.stream_head(7) + own + questions.LAST_CHUNK]).frame_times()


@pytest.mark.parametrize("chunk_bytes", [7, questions.FRAME_BYTES, 10_000])
def test_a_frame_has_arrived_with_its_last_byte_wherever_a_proxy_cuts_the_stream(chunk_bytes: int) -> None:
    """Chunks may join frames or cut them, and a read may end at any byte."""
    body = b"".join(questions.frame(7, index, SENT_NS[index]) for index in range(FRAMES)) + questions.end(7)
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    raw = questions.stream_head(7) + b"".join(map(questions.chunk, chunks)) + questions.LAST_CHUNK

    for cut in range(1, len(raw)):
        times = _arrived(Question(7, FRAMES, 5000), [raw[:cut], raw[cut:]]).frame_times()

        by_the_first_read = _whole_frames(raw[:cut])
        assert [sent for sent, _ in times] == SENT_NS
        assert [read for _, read in times] == [1] * by_the_first_read + [2] * (FRAMES - by_the_first_read)


def _chunks(number: int) -> list[bytes]:
    frames = [questions.frame(number, index, SENT_NS[index]) for index in range(FRAMES)]
    return [questions.chunk(part) for part in (*frames, questions.end(number))]


def _arrived(question: Question, pieces: Sequence[bytes]) -> Answer:
    """An answer by a clock that counts reads."""
    answer = Answer(question)
    answer.pieces = list(pieces)
    answer.arrived_ns = list(range(1, len(pieces) + 1))
    return answer


def _whole_frames(raw: bytes) -> int:
    """How many frames are whole in what has arrived, read byte by byte as RFC 9112 section 7.1 has it."""
    head_end = raw.find(b"\r\n\r\n")
    rest, body = raw[head_end + 4 :] if head_end >= 0 else b"", b""
    while b"\r\n" in rest:
        size, rest = rest.split(b"\r\n", 1)
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return len(body) // questions.FRAME_BYTES
