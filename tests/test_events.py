"""The log: one line a request, readable by machines and by people, with no secret in it."""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import events, limits
from proxy.events import RequestLine, log
from proxy.recording import Head, Usage

ESCAPE = "\x1b"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_line(**facts: Any) -> RequestLine:
    line = RequestLine(id="0123456789abcdef", method="POST", path="/v1/chat/completions")
    for name, value in facts.items():
        setattr(line, name, value)
    return line


def as_json(line: RequestLine, level: events.Level = "info") -> dict[str, Any]:
    stream = io.StringIO()
    events.configure("json", level, stream)
    line.write()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    parsed: dict[str, Any] = orjson.loads(text)
    return parsed


def as_text(line: RequestLine, stream: TextIO | None = None) -> str:
    stream = stream or io.StringIO()
    events.configure("console", "info", stream)
    line.write()
    assert isinstance(stream, io.StringIO)
    text = stream.getvalue()
    assert text.count("\n") == 1
    return text


def answer(**fields: str) -> Head:
    return Head(200, "OK", tuple((name.replace("_", "-").encode(), text.encode()) for name, text in fields.items()))


FULL = {
    "model": "gpt-x",
    "stream": True,
    "cache": "MISS",
    "key": "ab" * 32,
    "status": 200,
    "outcome": "complete",
    "stored": True,
    "not_stored_because": None,
    "upstream_request_id": "req_1",
    "organization": "acme",
    "openai_processing_ms": 120,
    "ratelimit": {"limit_requests": 10, "reset_tokens_s": 0.006},
    "attempts": 1,
    "bytes": 12_345,
    "frames": 7,
    "first_byte_ms": 12.345,
    "duration_ms": 1234.5,
    "usage": Usage(3, 4),
}


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["m" * 1000, "\U0001f3b5" * 1001])
ANY_FACTS = {
    **dict.fromkeys(("path", "model", "error", "organization", "upstream_request_id"), TEXTS),
    **dict.fromkeys(("stream", "stored"), st.booleans()),
    **dict.fromkeys(("status", "bytes", "frames", "openai_processing_ms"), st.integers(0, 2**53)),
    **dict.fromkeys(("first_byte_ms", "duration_ms"), st.floats(0, 1e9)),
    "ratelimit": st.dictionaries(st.sampled_from(["limit_requests", "reset_tokens_s"]), st.floats(0, 1e9)),
    "usage": st.builds(Usage, st.integers(0, 2**53), st.integers(0, 2**53)),
}


def test_a_line_tells_all_that_is_known() -> None:
    """Under the names of contract section 9."""
    written = as_json(a_line(**FULL))

    time = written.pop("time")
    assert time.endswith("Z")
    assert written == {
        **{name: value for name, value in FULL.items() if name != "not_stored_because"},
        "event": "request",
        "level": "info",
        "id": "0123456789abcdef",
        "method": "POST",
        "path": "/v1/chat/completions",
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }


@given(st.fixed_dictionaries({}, optional=ANY_FACTS))
def test_a_line_is_what_its_fields_say(facts: dict[str, Any]) -> None:
    """In their order and one by one, as the plain way to write them would have it; then what every event has."""
    line = a_line(**facts)

    written = as_json(line)

    expected = {name: getattr(line, name) for name in RequestLine.__slots__ if name != "quiet"}
    expected["usage"] = line.usage._asdict() if line.usage else None
    long = {name: value[:1000] + "\u2026" for name, value in expected.items() if len(str(value)) > 1000}
    known = {name: value for name, value in (expected | long).items() if value is not None and value != {}}
    assert list(written) == [*known, "event", "level", "time"]
    assert written == known | {name: written[name] for name in ("event", "level", "time")}
    assert abs(datetime.fromisoformat(written["time"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_every_event_has_the_time_in_one_form() -> None:
    """Also where a line holds what most JSON libraries refuse; it sorts as text."""
    stream = io.StringIO()
    events.configure("json", "info", stream)

    a_line().write()
    a_line(path="/v1/\udcff").write()
    log.info(events.STARTED)

    times = [orjson.loads(line)["time"] for line in stream.getvalue().splitlines()]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", time) for time in times)


def test_a_line_leaves_out_what_is_not_known() -> None:
    """But not what is always asked after: a no and a zero are facts."""
    written = as_json(a_line())

    written.pop("time")
    assert written == {
        "event": "request",
        "level": "info",
        "id": "0123456789abcdef",
        "method": "POST",
        "path": "/v1/chat/completions",
        "outcome": "complete",
        "stored": False,
        "attempts": 0,
        "bytes": 0,
        "frames": 0,
    }


def test_a_quiet_line_is_for_whoever_looks_for_it() -> None:
    """Health checks come every few seconds; at `debug` they are there."""
    stream = io.StringIO()
    events.configure("json", "info", stream)
    a_line(quiet=True).write()

    assert stream.getvalue() == ""
    assert as_json(a_line(quiet=True), "debug")["level"] == "debug"
    assert "quiet" not in as_json(a_line(quiet=True), "debug")


def test_a_level_holds_back_what_is_below_it() -> None:
    """From `warning` on there is no line for each request."""
    stream = io.StringIO()
    events.configure("json", "warning", stream)

    a_line().write()
    log.warning("store_slow")

    assert [orjson.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["store_slow"]


def test_the_log_can_be_set_up_again() -> None:
    """The last setting counts, also for who has logged before."""
    first, second = io.StringIO(), io.StringIO()

    for stream in (first, second):
        events.configure("json", "info", stream)
        a_line().write()

    assert first.getvalue().count("\n") == second.getvalue().count("\n") == 1


ANYTHING = st.text(st.characters(), max_size=20)  # lone surrogates and controls, too


@given(ANYTHING, ANYTHING, st.integers() | st.floats())
def test_a_line_survives_whatever_a_client_calls_things(path: str, model: str, first_byte_ms: float) -> None:
    """One line of JSON, or one line of text on which a terminal acts in no way."""
    line = a_line(path=path, model=model, error=model, first_byte_ms=first_byte_ms)

    written = as_json(line)
    text = as_text(line)

    if (path + model).isascii():
        assert (written["path"], written["model"]) == (path, model)
    assert text.removesuffix("\n").isprintable()


def test_odd_bytes_in_a_path_become_question_marks() -> None:
    """The parser hands them over as lone surrogates, which JSON has no form for; all else in the line is kept."""
    written = as_json(a_line(path="/v1/\udcff\udc80x", model='caf\xe9 \u2028"\n', usage=Usage(2**70, 1)))

    assert (written["path"], written["model"]) == ("/v1/??x", 'caf\xe9 \u2028"\n')


def test_a_name_of_any_length_makes_a_line_of_some_length() -> None:
    """A client may call its model what it likes."""
    written = as_json(a_line(model="m" * 10**6, path="/v1/" + "p" * 1000))

    assert written["model"] == "m" * 1000 + "\u2026"
    assert len(written["path"]) == 1001
    assert as_json(a_line(model="m" * 1000))["model"] == "m" * 1000


def test_the_head_says_whom_the_answer_was_for() -> None:
    """Its id, who paid, how long it took, and what is left."""
    line = a_line()

    line.read_head(
        answer(
            X_Request_Id="req_1",
            openai_organization="acme",
            OpenAI_Processing_MS="120",
            x_ratelimit_limit_requests="10000",
            X_RateLimit_Remaining_Tokens="149984",
        )
    )

    assert (line.upstream_request_id, line.organization, line.openai_processing_ms) == ("req_1", "acme", 120)
    assert line.ratelimit == {"limit_requests": 10_000, "remaining_tokens": 149_984}


def test_a_head_that_says_nothing_leaves_nothing_in_the_line() -> None:
    """As that of most servers but OpenAI's."""
    line = a_line()
    line.read_head(answer(content_type="text/html", openai_processing_ms="fast", date="x"))

    assert as_json(line).keys() == as_json(a_line()).keys()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("limit-requests", "10000", {"limit_requests": 10_000}),
        ("limit-tokens", "0", {"limit_tokens": 0}),
        ("remaining-project-tokens", "7", {"remaining_project_tokens": 7}),
        ("reset-requests", "8.64s", {"reset_requests_s": 8.64}),
        ("reset-requests", "120ms", {"reset_requests_s": 0.12}),
        ("reset-tokens", "6m0s", {"reset_tokens_s": 360}),
        ("reset-tokens", "1h2m3.5s", {"reset_tokens_s": 3723.5}),
        ("reset-tokens", "1d", {"reset_tokens_s": 86_400}),
        ("reset-tokens", "1m1ms", {"reset_tokens_s": 60.001}),
        ("reset-requests", "7", {"reset_requests_s": 7}),
        ("reset-requests", "0.5", {"reset_requests_s": 0.5}),
        ("reset-requests", "1741305600000", {"reset_requests": 1_741_305_600_000}),
        ("reset", "12", {"reset": 12}),
        *(("reset-tokens", text, {}) for text in ["", "soon", "s", "-1s", "1s!", "x1s", "1 s", "1sm", "1s2", "inf"]),
        *(("limit-tokens", text, {}) for text in ["", "-1", "1.5", "1e3", "many", "\xb2", "9" * 16, "9" * 5000]),
        *(("reset-tokens", text, {}) for text in ["9" * 30 + "s", "9" * 300_000, "1.s", "1.5.5s"]),
    ],
)
def test_rate_limits_are_told_as_numbers(name: str, value: str, expected: dict[str, float]) -> None:
    """In OpenAI's notation or a plain one; what is no number, or no reasonable one, is left out."""
    told = limits.told(Head(200, "", ((b"x-ratelimit-" + name.encode(), value.encode("latin-1")),)))

    assert told.limits == expected


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8) | st.from_regex(rb"[0-9.]+(m|s|ms|h)?"))))
def test_any_head_gives_a_line(fields: list[tuple[bytes, bytes]]) -> None:
    """Whatever an upstream sends, it can't make its own request go unlogged."""
    line = a_line()
    names = (b"x-ratelimit-reset-", b"x-ratelimit-", b"openai-processing-ms", b"x-request-id", b"openai-organization")
    odd = [(name + rest, value) for name in names for rest, value in (*fields, (b"", b"5"))]

    line.read_head(Head(200, "", tuple(odd)))

    assert as_json(line)["event"] == "request"


def test_no_credential_is_read_from_a_head() -> None:
    """What is logged is listed, not what is not."""
    line = a_line()
    line.read_head(answer(set_cookie="CANARY", authorization="CANARY", x_api_key="CANARY", www_authenticate="CANARY"))

    assert "CANARY" not in str(as_json(line))


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values(form: events.Format) -> None:
    """They may be prompts or credentials; on a colour terminal structlog would print all local variables."""
    stream = Terminal()
    events.configure(form, "info", stream)

    def fail() -> None:
        header = "sk-" + "CANARY"
        raise ValueError(len(header))

    try:
        fail()
    except ValueError:
        log.exception(events.CRASHED, id="x")

    assert "ValueError: 9" in stream.getvalue()
    assert "in fail" in stream.getvalue()
    assert "sk-CANARY" not in stream.getvalue()


@contextlib.contextmanager
def full_disk() -> Iterator[TextIO]:
    yield os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")


@contextlib.contextmanager
def pipe_without_a_reader() -> Iterator[TextIO]:
    reader, writer = os.pipe()
    os.close(reader)
    yield os.fdopen(writer, "w")


@contextlib.contextmanager
def full_pipe() -> Iterator[TextIO]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(65_536))
    yield os.fdopen(writer, "w")
    os.close(reader)


@pytest.mark.parametrize("open_stream", [full_disk, pipe_without_a_reader, full_pipe])
@pytest.mark.parametrize("form", ["json", "console"])
def test_serving_goes_on_without_a_log(
    open_stream: Callable[[], contextlib.AbstractContextManager[TextIO]], form: events.Format
) -> None:
    """A full disk, or a reader that has gone away or does not keep up, must not break what is being served."""
    with open_stream() as stream:
        events.configure(form, "info", stream)

        a_line().write()
        a_line().write()

        with contextlib.suppress(OSError):  # it still cannot be written
            stream.close()


def test_serving_goes_on_after_the_log_was_closed() -> None:
    """As standard error is while the interpreter shuts down."""
    stream = io.StringIO()
    events.configure("json", "info", stream)
    stream.close()

    a_line().write()


def test_the_log_goes_to_standard_error_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    """To the one that is standard error now; standard output is for what was asked for."""
    events.configure("auto", "info")
    a_line().write()

    out, err = capsys.readouterr()
    assert out == ""
    assert orjson.loads(err)["event"] == "request"


def test_auto_is_for_people_on_a_terminal_and_for_machines_elsewhere() -> None:
    """As the stream is, not as the program was started."""
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        events.configure("auto", "info", stream)
        a_line().write()

    assert ESCAPE in terminal.getvalue()
    assert orjson.loads(file.getvalue())["event"] == "request"


def test_a_person_reads_the_line_from_left_to_right() -> None:
    """When, how it went, where from, what, how long, how much."""
    words = as_text(a_line(**FULL)).split()

    assert words[1:] == [
        *("200", "MISS", "POST", "/v1/chat/completions", "gpt-x"),
        *("12", "ms", "/", "1234", "ms", "12,345", "B", "0123456789abcdef"),
    ]


def test_a_person_sees_what_is_missing_and_what_went_wrong() -> None:
    """A dash where there is nothing, and the reason where there is one."""
    words = as_text(a_line(outcome="client_disconnected", error="left", first_byte_ms=0.123)).split()

    assert words[1:] == [
        *("-", "-", "POST", "/v1/chat/completions"),
        *("0.1", "ms", "/", "-", "0", "B", "client_disconnected", "left", "0123456789abcdef"),
    ]


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({"cache": "HIT", "status": 200}, "\x1b[32mHIT    \x1b[0m"),
        ({"cache": "JOINED", "status": 200}, "\x1b[36mJOINED \x1b[0m"),
        ({"cache": "BYPASS", "status": 200}, "\x1b[2mBYPASS \x1b[0m"),
        ({"status": 200}, " 200  "),
        ({"status": 429}, "\x1b[31m429\x1b[0m"),
        ({"status": 200, "outcome": "upstream_truncated"}, "\x1b[31m200\x1b[0m"),
        ({"status": 200, "outcome": "upstream_truncated"}, "\x1b[31mupstream_truncated\x1b[0m"),
        ({"not_stored_because": "too_large"}, "\x1b[2mtoo_large\x1b[0m"),
        ({"model": "gpt-x"}, "\x1b[1mgpt-x\x1b[0m"),
    ],
)
def test_colours_are_for_terminals(facts: dict[str, Any], shown: str) -> None:
    """Red is for what failed; without a terminal there is none of it."""
    assert shown in as_text(a_line(**facts), Terminal())
    assert ESCAPE not in as_text(a_line(**facts))


def test_other_events_are_written_with_their_facts() -> None:
    """For people, too."""
    stream = io.StringIO()
    events.configure("console", "info", stream)

    log.info(events.STARTED, base_url="http://127.0.0.1:8080/v1", mode="cache\n\x1b[2J")

    (line,) = stream.getvalue().splitlines()
    assert "started" in line
    assert "base_url=http://127.0.0.1:8080/v1" in line
    assert ESCAPE not in line


@pytest.mark.parametrize(("form", "said"), [("json", '"worker":2'), ("console", "worker 2")])
def test_a_line_says_which_worker_it_is_from(form: events.Format, said: str) -> None:
    """Where there are several."""
    stream = io.StringIO()
    events.configure(form, "info", stream, worker=2)

    a_line().write()

    assert said in stream.getvalue()


def test_ids_are_new_each_time() -> None:
    """And tell nothing."""
    ids = {events.new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(len(one) == 16 and one.isalnum() for one in ids)


@pytest.mark.parametrize("show", [as_text, lambda line: str(as_json(line))])
def test_a_fault_that_was_asked_for_is_told_from_others(show: Callable[[RequestLine], str]) -> None:
    """Or somebody would look for what has failed."""
    assert "cut-after=5" in show(a_line(fault="cut-after=5", outcome="upstream_truncated"))
    assert "fault" not in as_json(a_line())
