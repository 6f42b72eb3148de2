"""What the value of a setting may look like, and what it becomes."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.config.values import size_text
from proxy.pace import Pace
from tests.settings import problem, read

UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
UNIT_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


@pytest.fixture(autouse=True)
def _no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@given(number=st.integers(0, 36_500), unit=st.sampled_from(sorted(UNIT_S)))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str) -> None:
    """Whatever the unit, a duration is held in seconds."""
    assert read("cache.ttl", f"{number}{unit}") == pytest.approx(number * UNIT_S[unit])


@given(seconds=st.decimals(0, 10**9, places=3).map(str))
def test_a_plain_number_is_seconds(seconds: str) -> None:
    """As text and as a number, whole or not."""
    assert read("cache.ttl", seconds) == read("cache.ttl", float(seconds)) == float(seconds)


@given(number=st.integers(0, 2**20), unit=st.sampled_from(sorted(UNIT_BYTES)), space=st.sampled_from(["", " "]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str, space: str) -> None:
    """Binary and decimal units are told apart; upper and lower case are not."""
    wanted = number * UNIT_BYTES[unit]

    for spelled in (unit, unit.lower(), unit.upper()):
        assert read("cache.memory_limit", f"{number}{space}{spelled}") == wanted


@given(number=st.integers(0, 2**63 - 1))
def test_a_plain_number_is_bytes_and_the_text_of_a_size_reads_back(number: int) -> None:
    """What a message says of a size can be written into the settings."""
    assert read("cache.memory_limit", number) == read("cache.memory_limit", str(number)) == number
    assert read("cache.memory_limit", size_text(number)) == number


@pytest.mark.parametrize(
    "text", ["", "soon", "-1s", "1 s", "30S", "1e3", "1h30m", ".5s", "5.s", "s", "٣s", "nan", "9" * 400]
)
def test_a_duration_takes_nothing_else(text: str) -> None:
    """No unit is guessed at, and no digits but ASCII ones are."""
    assert problem("cache.ttl", text).startswith("cache.ttl: expected a duration such as 30s or 7d, got ")


@pytest.mark.parametrize(
    "text", ["", "big", "-1", "1.5GiB", "64M", "64m", "1PiB", "MiB", "0x10", "9" * 400, str(2**63), "1\u212aiB"]
)
def test_a_size_takes_nothing_else(text: str) -> None:
    """Neither fractions nor the one-letter units that mean 1000 to some and 1024 to others."""
    assert problem("cache.memory_limit", text).startswith(
        "cache.memory_limit: expected a size such as 512KiB or 1GiB, got "
    )


@pytest.mark.parametrize("key", ["cache.ttl", "cache.memory_limit", "server.port"])
@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), -1, [], {}])
def test_a_number_is_never_made_of_something_else(key: str, value: object) -> None:
    """Python takes True for 1, and asks of infinity no unit."""
    assert f"{key.replace('server.port', '--port')}: expected a " in problem(key, value)


@pytest.mark.parametrize(
    "key",
    [
        "server.keepalive_timeout",
        "server.read_timeout",
        "server.write_timeout",
        "upstream.connect_timeout",
        "upstream.first_byte_timeout",
        "upstream.idle_timeout",
    ],
)
def test_a_timeout_of_nothing_is_refused(key: str) -> None:
    """It would fail every request."""
    assert problem(key, "0s") == f"{key}: expected a duration of more than 0, got '0s'"


@pytest.mark.parametrize("key", ["server.drain_timeout", "cache.ttl", "cache.linger", "cache.memory_limit"])
def test_zero_is_allowed_where_it_means_something(key: str) -> None:
    """For ever, at once, or none, as the contract has it."""
    assert read(key, "0") == 0


@pytest.mark.parametrize("key", ["server.max_body_size", "cache.size_limit", "cache.max_recording_size"])
def test_a_size_of_nothing_is_refused(key: str) -> None:
    """A cache without room is `cache.mode: passthrough`."""
    assert f"{key}: expected a size of more than 0, got '0'" in problem(key, "0")


@pytest.mark.parametrize(
    "text", ["chat/completions", "/chat/completions", "v1/chat/completions", "/v1/chat/completions"]
)
def test_a_route_may_be_written_with_or_without_its_v1(text: str) -> None:
    """There is one spelling behind it, the one that requests are compared with."""
    assert read("cache.routes", text) == ("/v1/chat/completions",)


@pytest.mark.parametrize(
    "text", ["/", "/v1", "/v1/", "chat/", "chat//x", "../admin", "chat/..", "chat?x=1", "*", "a b"]
)
def test_a_route_is_a_plain_path(text: str) -> None:
    """No pattern, no query, no dot segment."""
    assert problem("cache.routes", [text]).startswith("cache.routes: expected a route such as chat/completions")


@given(tokens=st.lists(st.text() | st.text("~/01"), min_size=1))
def test_a_json_pointer_is_read_as_rfc_6901_has_it(tokens: list[str]) -> None:
    """Escaped and joined, any tokens come back as they were."""
    assume(tokens != ["*"])
    pointer = "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)

    assert read("cache.ignore", [pointer]) == (tuple(tokens),)


@pytest.mark.parametrize("text", ["user", "#/user", "/a~b", "/a~", "/~2"])
def test_what_is_no_json_pointer_is_refused(text: str) -> None:
    """A slip would leave a member in the key that was meant to go."""
    wanted = f"expected a JSON pointer such as /user or /metadata/run, got '{text}'"
    assert problem("cache.ignore", [text]) == f"cache.ignore: {wanted}"


@pytest.mark.parametrize("pointer", ["", "/*"])
def test_the_pointer_to_the_whole_body_is_refused(pointer: str) -> None:
    """All requests would share one key."""
    wanted = f"expected a JSON pointer such as /user; this one would leave nothing in the key, got '{pointer}'"
    assert problem("cache.ignore", [pointer]) == f"cache.ignore: {wanted}"


def test_the_stream_flag_stays_in_the_key() -> None:
    """Or an event stream would be replayed to one who asked for JSON."""
    wanted = "/stream can't be left out of the key: an event stream is no answer to who asked for JSON"
    assert problem("cache.ignore", ["/stream"]) == f"cache.ignore: {wanted}"


def test_vary_headers_are_lower_case_and_distinct() -> None:
    """Names are compared without case."""
    assert read("cache.vary", ["OpenAI-Beta", "X-Team", "openai-beta"]) == ("openai-beta", "x-team")


@pytest.mark.parametrize("name", ["Authorization", "cookie", "Proxy-Authorization", "api-key", "X-API-Key"])
def test_a_credential_is_no_vary_header(name: str) -> None:
    """Vary headers are stored with the recording."""
    reason = f"{name.lower()} is a credential, not to be stored; cache.scope: credential keeps callers apart"
    assert problem("cache.vary", name) == f"cache.vary: {reason}"


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("a, b", ("a", "b")),
        ("a", ("a",)),
        ("a,,b,", ("a", "b")),
        ('["a", "b"]', ("a", "b")),
        ("[]", ()),
        (["a", "b", "a"], ("a", "b")),
    ],
)
def test_a_list_may_be_text(value: object, items: tuple[str, ...]) -> None:
    """The environment and the command line know nothing else."""
    assert read("cache.vary", value) == items


@pytest.mark.parametrize("value", ["[a, b]", '["a"', {}, 5])
def test_what_is_no_list_is_refused(value: object) -> None:
    """Text that begins like JSON must be JSON."""
    assert problem("cache.vary", value).startswith("cache.vary: expected a list, got ")


@pytest.mark.parametrize(
    ("value", "pace"),
    [
        ("instant", Pace("instant")),
        ("2x", Pace("recorded", 2.0)),
        ("20ms", Pace("gap", 0.02)),
        (Pace("gap", 1), Pace("gap", 1)),
    ],
)
def test_a_pace_is_read_as_in_a_request(value: object, pace: Pace) -> None:
    """One grammar for the setting and the header."""
    assert read("replay.pace", value) == pace


@pytest.mark.parametrize("value", [5, [], ""])
def test_a_pace_is_text(value: object) -> None:
    """A number could be a speed or a gap."""
    message = "expected instant, recorded, a speed such as 2x or 0.5x, or a gap such as 20ms"
    assert problem("replay.pace", value).startswith(f"replay.pace: {message}, got ")


def test_a_directory_may_be_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell stands between a YAML file and the path."""
    monkeypatch.setenv("HOME", "/home/somebody")

    assert read("cache.directory", "~/recordings") == Path("/home/somebody/recordings")
    assert read("cache.directory", "recordings") == Path("recordings")


@pytest.mark.parametrize("value", ["", "a\0b", [], "~nobody-of-this-name/x"])
def test_a_directory_that_can_be_none_is_refused(value: object) -> None:
    """Before anything is created."""
    assert problem("cache.directory", value).startswith("cache.directory: expected the path of a directory")
