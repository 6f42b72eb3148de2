"""The benchmark: it runs, it checks what it says it checks, and it compares what it says it compares.

The rule: no figure is expected to be of any size; the machine that runs this is not quiet.
"""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks import native, questions
from benchmarks.orders import Order, Outcome
from benchmarks.processes import Program
from benchmarks.questions import FRAME_BYTES, Question
from benchmarks.report import Figures, Measurement
from benchmarks.scenarios import QUICK, beside_name, missed_name
from benchmarks.subjects import ALONE, BARE_TEE, COUNTING, DIRECT, MISSING, NGINX, REPRISE
from benchmarks.targets import Verdict, targets, verdicts

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark is built on epoll and /proc"),
    pytest.mark.skipif(not shutil.which("cc"), reason="the load generator is made by a C compiler, and there is none"),
]

REPOSITORY = Path(__file__).parent.parent
FRAMES = 4
PLAIN, STREAM, PACED = Question(7), Question(7, FRAMES), Question(7, FRAMES, 5000)


def ran(group: str, directory: Path) -> tuple[Any, str]:
    """One quick round of a group, in which all bytes were right: what the command has told, as JSON and as a table."""
    file = directory / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1", "--only", group, "--json", str(file)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 0, ended.stderr
    found = orjson.loads(file.read_bytes())
    assert found["bytes_right"] is True
    return found, ended.stdout


def test_the_command_measures_every_subject_and_says_that_the_bytes_were_right(tmp_path: Path) -> None:
    """One round of the plain misses, from the command line to the JSON."""
    found, shown = ran("misses", tmp_path)

    assert found["stopped_by"] is None
    scenarios = ("plain misses, 1 at once", "plain misses, 32 at once")
    expected = {(scenario, subject) for scenario in scenarios for subject in (DIRECT, BARE_TEE, REPRISE)}
    for figure in ("answers_per_s", "whole_p50_us"):
        assert {(row["scenario"], row["subject"]) for row in found["rows"] if row["figure"] == figure} >= expected
    costs = {row["subject"] for row in found["rows"] if row["figure"] == "cpu_us_per_answer"}
    assert {BARE_TEE, REPRISE} <= costs
    assert DIRECT not in costs
    judged = [each for each in found["targets"] if each["measured"] is not None]
    assert "CPU a plain miss" in {each["target"] for each in judged}
    assert all(scenario in shown for scenario in scenarios)


def test_hits_are_compared_with_and_without_a_miss_under_way(tmp_path: Path) -> None:
    """One round in a store of 1,000, in replay mode: each condition has its figures, and the promises are judged."""
    found, _ = ran("nearest", tmp_path)

    figures = {(row["scenario"], row["subject"], row["figure"]) for row in found["rows"]}
    for at_once in (1, 32):
        scenario = beside_name(QUICK, at_once)
        assert {(scenario, each, "p99_us") for each in (ALONE, MISSING, COUNTING)} <= figures
        assert {(scenario, each, "rate_to_alone") for each in (MISSING, COUNTING)} <= figures
        assert (scenario, MISSING, "miss_p50_ms") in figures
    assert (missed_name(QUICK), REPRISE, "first_miss_ms") in figures
    judged = {each["target"] for each in found["targets"] if each["measured"] is not None}
    assert judged >= {"hits a second while one misses, 1 at once", "hits a second while one misses, 32 at once"}
    assert len([each for each in judged if each.startswith("ms to name the nearest")]) == 2


def test_without_a_c_compiler_the_command_says_so(tmp_path: Path) -> None:
    """A mistake that can be mended has no traceback."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "idle"]
    environment = {**os.environ, "PATH": str(tmp_path)}

    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=50, check=False
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("The benchmark needs a C compiler")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Program]]:
    """The upstream and the load generator."""
    started = []
    for name in ("upstream", "load"):
        directory = tmp_path_factory.mktemp(name)
        started.append(Program(native.make(name, directory), directory, talks=True))
    yield started[0], started[1]
    for program in started:
        program.end()


@pytest.fixture(scope="module")
def load(programs: tuple[Program, Program]) -> Program:
    return programs[1]


@pytest.fixture(scope="module")
def upstream_port(programs: tuple[Program, Program]) -> int:
    return int(programs[0].hear())


def carry_out(load: Program, order: Order) -> Outcome:
    load.tell(order.to_wire())
    return Outcome(**orjson.loads(load.hear()))


@contextmanager
def answering(*pieces: bytes) -> Iterator[int]:
    """A server that answers one request in these pieces, each a write, and then closes; its port.

    A stamp is the time at which its piece was written, and all before it had been read.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(20)
                connection.recv(1 << 16)
                for piece in pieces:
                    if STAMP_HERE in piece:
                        wait_until_read(connection)
                    connection.sendall(piece.replace(STAMP_HERE, b"%019d" % time.monotonic_ns()))

        server = threading.Thread(target=serve)
        server.start()
        yield listener.getsockname()[1]
        server.join()


def wait_until_read(connection: socket.socket) -> None:
    """Until nothing waits in the peer's socket (proc_net_tcp: addresses in hexadecimal, then state, then queues)."""
    ours, theirs = (f":{name[1]:04X}" for name in (connection.getsockname(), connection.getpeername()))
    for _ in range(100_000):
        fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        waiting = [each[4] for each in fields if each[1].endswith(theirs) and each[2].endswith(ours)]
        if all(queues.endswith(":00000000") for queues in waiting):
            return


STAMP_HERE = b"<stamped at write>."
assert len(STAMP_HERE) == 19


def outcome_of(load: Program, question: Question, *pieces: bytes, remade: bool = False) -> Outcome:
    with answering(*pieces) as port:
        return carry_out(load, Order(question=question, port=port, count=1, remade=remade))


def paced_body(question: Question) -> bytes:
    frames = [questions.frame(question.number, index, 1_000 + index) for index in range(question.frames)]
    return b"".join((*frames, questions.end(question.number)))


def body_of(question: Question) -> bytes:
    if question.gap_us:
        return paced_body(question)
    return (
        questions.stream_body(question.number, question.frames)
        if question.frames
        else questions.plain_body(question.number)
    )


def chunked(body: bytes, chunk_bytes: int) -> bytes:
    chunks = (questions.chunk(body[start : start + chunk_bytes]) for start in range(0, len(body), chunk_bytes))
    return b"".join((questions.stream_head(7), *chunks, questions.LAST_CHUNK))


def counted(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("question", [PLAIN, STREAM, PACED], ids=["plain", "stream", "paced"])
def test_the_right_bytes_are_right_however_they_are_framed(load: Program, question: Question) -> None:
    """A proxy may cut a body into other chunks, or none, and a read may end at any byte."""
    body = body_of(question)
    for raw in (counted(body), *(chunked(body, chunk_bytes) for chunk_bytes in (7, FRAME_BYTES, 10_000))):
        for cut in (1, 50, len(raw) // 2, len(raw) - 3):
            outcome = outcome_of(load, question, raw[:cut], raw[cut:])

            assert outcome.wrong is None
            assert outcome.answers == 1


@pytest.mark.parametrize("question", [PLAIN, STREAM, PACED], ids=["plain", "stream", "paced"])
def test_an_answer_with_any_byte_of_its_body_altered_is_wrong(load: Program, question: Question) -> None:
    """The right bytes pass, and no others: at the begin, at the end, and in between."""
    body = body_of(question)
    for place in (*range(0, len(body), len(body) // 12), len(body) - 1):
        altered = body[:place] + (b"~" if body[place : place + 1] != b"~" else b"!") + body[place + 1 :]

        outcome = outcome_of(load, question, chunked(altered, 300))

        assert outcome.wrong is not None, place


def test_a_body_that_is_cut_or_goes_on_is_wrong(load: Program) -> None:
    """However clean its framing is."""
    body = body_of(STREAM)
    for other in (body[:-1], body + b"\n", body + body, b"", body[FRAME_BYTES:]):
        assert outcome_of(load, STREAM, chunked(other, 300)).wrong is not None
        assert outcome_of(load, STREAM, counted(other)).wrong is not None


def test_a_framing_that_is_broken_is_wrong(load: Program) -> None:
    """A body that is right within it does not help."""
    whole = chunked(body_of(STREAM), 300)
    for raw in (
        whole[: -len(questions.LAST_CHUNK)],  # never ends: the connection closes
        whole + b"HTTP/1.1 200 OK\r\n",
        whole.replace(b"200 OK", b"500 No", 1),
        whole.replace(b"Transfer-Encoding: chunked", b"Connection: close", 1),
        whole.replace(b"Transfer-Encoding:", b"Content-Length: 300\r\nTransfer-Encoding:", 1),
        whole.replace(b"\r\n12c\r\n", b"\r\n12d\r\n", 1),
        whole.replace(b"\r\n12c\r\n", b"\r\n12c.\r\n", 1),
        whole.replace(b"\r\n12c\r\n", b".\r\n12c\r\n", 2).replace(b".\r\n", b"\r\n", 1),  # after the first chunk
    ):
        assert outcome_of(load, STREAM, raw).wrong is not None


def test_a_frame_of_another_answer_or_in_another_place_is_wrong(load: Program) -> None:
    """Frames are told apart by the number of their question and by their place."""
    body = body_of(PACED)
    frames = [body[start : start + FRAME_BYTES] for start in range(0, FRAMES * FRAME_BYTES, FRAME_BYTES)]
    end = body[FRAMES * FRAME_BYTES :]
    for wrong in ([*reversed(frames)], [*frames[:3], questions.frame(8, 3, 1_000)], frames[:3]):
        assert outcome_of(load, PACED, counted(b"".join((*wrong, end)))).wrong is not None


def test_a_frame_has_arrived_with_its_last_byte(load: Program) -> None:
    """A frame that comes in two pieces is not there with the first, which is earlier than the stamp in the second."""
    frame = questions.frame(7, 0, 10**18).replace(b"%d" % 10**18, STAMP_HERE)
    raw = counted(frame + questions.end(7))

    for cut in (raw.index(b"data:") + 1, raw.index(STAMP_HERE)):
        outcome = outcome_of(load, Question(7, 1, 5000), raw[:cut], raw[cut:])

        assert outcome.wrong is None
        assert outcome.times["frame_p50_us"] >= 0


def test_of_an_answer_made_anew_the_text_must_be_right(load: Program) -> None:
    """Where a gateway replaces members, a frame that is missing shows all the same."""
    body = paced_body(PACED).replace(b"chatcmpl-", b"other-")
    without, without_the_last = (
        body.replace(b'"content":"%04d' % each, b'"other":"%04d' % each) for each in (2, FRAMES - 1)
    )

    assert outcome_of(load, PACED, chunked(body, 100), remade=True).wrong is None
    assert outcome_of(load, PACED, chunked(without, 100), remade=True).wrong is not None
    assert outcome_of(load, PACED, chunked(without_the_last, 100), remade=True).wrong is not None
    assert outcome_of(load, PACED, chunked(body.replace(b"[DONE]", b""), 100), remade=True).wrong is not None
    cut_in_words = paced_body(PACED).replace(b'"content":"0002', b'"content":"00"}\n{"content":"02')
    assert outcome_of(load, PACED, chunked(cut_in_words, 100), remade=True).wrong is None
    plain = questions.plain_body(8)
    assert outcome_of(load, PLAIN, counted(plain), remade=True).wrong is None
    assert outcome_of(load, PLAIN, counted(plain.replace(b"quick", b"slow")), remade=True).wrong is not None


def test_the_upstream_answers_what_the_questions_say(upstream_port: int) -> None:
    """Its texts are the ones that everybody else expects, also for a body that comes in many reads."""
    connection = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=20)
    for question in (PLAIN, STREAM, Question(9, body_bytes=1_000_000)):
        connection.request("POST", questions.PATH.decode(), question.body())
        answer = connection.getresponse()

        assert answer.read() == body_of(question)
        assert answer.headers["x-request-id"] == f"req_{question.number:010d}"
    connection.request("POST", questions.PATH.decode(), b"{}")
    assert connection.getresponse().status == 400
    connection.close()


def test_a_question_is_as_long_as_it_is_asked_to_be() -> None:
    """Large bodies are made of the same text, more of it."""
    assert [len(Question(1, 200, 5000, size).body()) for size in (2_000, 200_000)] == [2_000, 200_000]
    assert len({len(Question(number).body()) for number in (0, 9_999_999_999)}) == 1


def measured(subject: str, figure: str, values: Sequence[float], scenario: str) -> list[Measurement]:
    return [Measurement(scenario, subject, number, {figure: value}) for number, value in enumerate(values)]


def verdict_on(target: str, level: str, measurements: Sequence[Measurement]) -> Verdict:
    judged = verdicts(targets(QUICK), Figures(measurements))
    return next(each for each in judged if (each.target, each.level) == (target, level))


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    """A machine that is slower in one round is so for both."""
    scenario, figure = "plain misses, 32 at once", "cpu_us_per_answer"
    measurements = measured(REPRISE, figure, [10, 200, 11], scenario) + measured(
        BARE_TEE, figure, [10, 100, 10], scenario
    )

    must, aim = (verdict_on("CPU a plain miss", level, measurements) for level in ("must", "aim"))

    assert (must.measured, must.reached) == (1.1, True)
    assert (aim.measured, aim.reached) == (None, None)


def test_times_are_compared_by_what_is_added_to_the_direct_connection() -> None:
    """A proxy cannot answer for the time that passes without it."""
    scenario, figure = "paced streams, 60 at once", "frame_p99_us"
    times = {DIRECT: [100.0], BARE_TEE: [120.0], NGINX: [110.0], REPRISE: [150.0]}
    measurements = [each for name, values in times.items() for each in measured(name, figure, values, scenario)]

    must, aim = (verdict_on("added to a frame, p99, 60 streams", level, measurements) for level in ("must", "aim"))

    assert (must.measured, must.reached) == (2.5, False)
    assert (aim.measured, aim.reached) == (5.0, False)
