"""What a person is told about mistakes in the settings: all of them, each with its place and its remedy."""

import re
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import KEYS, SettingsError, load
from tests.conftest import WriteConfig
from tests.settings import problem, problems

YAML_MARKS = "server:{}[]&*!|>'\"%@#-?,\t\n 1ab~"
CANARY = "sk-CANARY-4711"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound
NOT_YAML = (
    "not valid YAML; look there and just above for a tab, uneven indentation, a missing colon or text that needs quotes"
)
WAYS_OUT = (
    "strangers would get paid answers; listen on 127.0.0.1, or set cache.scope: credential and no upstream.api_key, "
    "so that every caller is known by a credential of its own"
)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test starts where there is no `config.yaml`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cache: {ttl: soon}", "cache.ttl: expected a duration such as 30s or 7d, got 'soon'"),
        ("cache: {ttl: 99999d}", "cache.ttl: expected a duration of at most 36500d, got '99999d'"),
        ("cache: {ttl: [30d]}", "cache.ttl: expected a duration such as 30s or 7d, got a list"),
        ("cache: {ttl: {days: 3}}", "cache.ttl: expected a duration such as 30s or 7d, got a mapping"),
        ("cache: {size_limit: lots}", "cache.size_limit: expected a size such as 512KiB or 1GiB, got 'lots'"),
        ("cache: {mode: off}", "cache.mode: expected cache, record, replay or passthrough, got 'off'"),
        ("cache: {scope: mine}", "cache.scope: expected shared or credential, got 'mine'"),
        ("cache: {vary: [x-a, null]}", "cache.vary: expected the name of a header such as openai-beta, got nothing"),
        ("cache: {vary: [[x-a]]}", "cache.vary: expected the name of a header such as openai-beta, got a list"),
        ("cache: {ignore: {a: b}}", "cache.ignore: expected a list, got a mapping"),
        (
            "cache: {max_recording_size: 2GiB}",
            "cache.max_recording_size: 2GiB is more than cache.size_limit, which is 1GiB",
        ),
        ("server: {port: 65536}", "server.port: expected a whole number from 0 to 65535, got '65536'"),
        ("server: {port: http}", "server.port: expected a whole number from 0 to 65535, got 'http'"),
        ("upstream: {retries: 11}", "upstream.retries: expected a whole number from 0 to 10, got '11'"),
        ("upstream: {name: ' '}", "upstream.name: expected text, got ' '"),
        ("upstream: {name: [a]}", "upstream.name: expected text, got a list"),
        ("upstream: {api_key: '${NOT_SET}'}", "upstream.api_key: the environment variable NOT_SET is not set"),
        ("log: {level: loud}", "log.level: expected debug, info, warning or error, got 'loud'"),
        ("log: {format: xml}", "log.format: expected auto, console or json, got 'xml'"),
        ("log: quiet", "log: expected keys with their values below it"),
        ("cache: {sope: shared}", "cache.sope: unknown key; did you mean 'scope'?"),
        ("cahce: {scope: shared}", "cahce: unknown key; did you mean 'cache'?"),
        ("port: 80", "port: unknown key; did you mean 'server.port'?"),
        ("cache: {base_url: x}", "cache.base_url: unknown key; did you mean 'upstream.base_url'?"),
        ("cache.ttl: 7d", "cache.ttl: unknown key; write 'ttl' below 'cache'"),
        ("colour: red", "colour: unknown key"),
        ("server: {1: 2}", "server.1: unknown key"),
        ("server: {[a]: 2}", "server.?: unknown key"),
        ("cache:\n  ttl: 1s\n  mode: cache\n  ttl: 2s", "cache.ttl: given twice, on lines 2 and 4"),
        ("cache:\n  ttl: 1s\nlog:\ncache:\n", "cache: given twice, on lines 1 and 4"),
        ("- server", "expected the sections server, upstream, cache, replay, log"),
        ("server", "expected the sections server, upstream, cache, replay, log"),
        ("server: {}\n  port: 1", f"line 2: {NOT_YAML}"),
        ("server:\n\tport: 1", f"line 2: {NOT_YAML}"),
        ("server:\n  cors_origins: [*]", f"line 2: {NOT_YAML}"),
        ("a: 1\n---\nb: 2", f"line 2: {NOT_YAML}"),
        ("upstream: {api_key: *sk-CANARY}", f"line 1: {NOT_YAML}"),
        ("server: {}\n# \x07", "line 2: a control character, which YAML does not allow"),
        ("[" * 5_000, "lists and mappings within each other, too many of them"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place_and_its_remedy(write: WriteConfig, text: str, told: str) -> None:
    """One line, which somebody who never saw the code can act on."""
    write(text)

    assert problems({}) == (f"config.yaml: {told}",)


def test_the_error_says_one_problem_a_line(write: WriteConfig) -> None:
    """Printed as it is, it can be read and searched."""
    write("cache: {ttl: soon, mode: off}")

    with pytest.raises(SettingsError) as refused:
        load(None, {}, {})

    assert str(refused.value).splitlines() == list(refused.value.problems) == list(problems({}))


def test_a_limit_that_the_default_of_another_key_exceeds_is_refused(write: WriteConfig) -> None:
    """There is no place to name but the key that stands nowhere."""
    write("cache: {size_limit: 15MiB}")

    assert problems({}) == ("cache.max_recording_size: 16MiB is more than cache.size_limit, which is 15MiB",)
    assert problems({"cache.size_limit": "16MiB"}) == ()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("REPRISE_CACHE__TTL", "soon", "expected a duration such as 30s or 7d, got 'soon'"),
        ("REPRISE_CACHE__VARY", '["x-a"', "expected a list, got '[\"x-a\"'"),
        ("REPRISE_CACHE__SOPE", "shared", "unknown key; did you mean 'REPRISE_CACHE__SCOPE'?"),
        ("REPRISE_CACHE__SOPE", "", "unknown key; did you mean 'REPRISE_CACHE__SCOPE'?"),
        ("REPRISE_SERVR__PORT", "1", "unknown key; did you mean 'REPRISE_SERVER__PORT'?"),
        ("REPRISE_SERVER_PORT", "1", "unknown key; did you mean 'REPRISE_SERVER__PORT'?"),
        ("REPRISE_PORT", "1", "unknown key; did you mean 'REPRISE_SERVER__PORT'?"),
        ("REPRISE_server__port", "1", "unknown key; did you mean 'REPRISE_SERVER__PORT'?"),
        ("REPRISE_CONFIGS", "x", "unknown key; did you mean 'REPRISE_CONFIG'?"),
        ("REPRISE_CACHE", "{}", "unknown key"),
        ("REPRISE_FOO", "1", "unknown key"),
        ("REPRISE_CONFIG", "no.yaml", "no.yaml: no such file or directory"),
    ],
)
def test_a_mistake_in_the_environment_is_named_by_its_variable(name: str, value: str, told: str) -> None:
    """Which is what its author has written."""
    assert problems({}, {name: value}) == (f"{name}: {told}",)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("server.port", 70_000, "--port: expected a whole number from 0 to 65535, got 70000"),
        ("server.host", "a b", "--host: expected a host name or an IP address such as 127.0.0.1, got 'a b'"),
        (
            "upstream.base_url",
            "x",
            "--upstream: expected an http or https URL such as https://api.openai.com/v1, got 'x'",
        ),
        ("cache.mode", "off", "--mode: expected cache, record, replay or passthrough, got 'off'"),
        ("cache.sope", None, "cache.sope: unknown key; did you mean 'scope'?"),
    ],
)
def test_a_mistake_on_the_command_line_is_named_by_its_option(key: str, value: object, told: str) -> None:
    """Which is what its author has typed."""
    assert problem(key, value) == told


def test_a_reference_to_a_variable_without_a_value_is_a_mistake() -> None:
    """Requests without a key would fail one by one."""
    told = ("REPRISE_UPSTREAM__API_KEY: the environment variable NAMED is not set",)
    environ = {"REPRISE_UPSTREAM__API_KEY": "${NAMED}"}

    assert problems({}, environ) == problems({}, environ | {"NAMED": ""}) == told


def test_a_mistake_is_looked_for_where_it_stands(write: WriteConfig) -> None:
    """A wrong value that another one overrides does no harm; the one that wins is the one that is named."""
    write("server: {port: x}\ncache: {ttl: x}")

    assert problems({"cache.ttl": "7d"}, {"REPRISE_SERVER__PORT": "y"}) == (
        "REPRISE_SERVER__PORT: expected a whole number from 0 to 65535, got 'y'",
    )


def test_all_mistakes_are_reported_at_once(write: WriteConfig) -> None:
    """Of every kind and from every place, so that nobody has to come back for the next."""
    both = "cache.scope is shared and upstream.api_key is set"
    write("cache: {sope: x, ttl: soon}\nserver: {host: 0.0.0.0, port: 1, port: 2}\nupstream: {api_key: '${NOT_SET}'}")

    assert problems({"cache.mode": "off"}, {"REPRISE_FOO": "1", "REPRISE_LOG__LEVEL": "loud"}) == (
        "config.yaml: cache.sope: unknown key; did you mean 'scope'?",
        "config.yaml: server.port: given twice, on lines 2 and 2",
        "REPRISE_FOO: unknown key",
        "config.yaml: upstream.api_key: the environment variable NOT_SET is not set",
        "config.yaml: cache.ttl: expected a duration such as 30s or 7d, got 'soon'",
        "--mode: expected cache, record, replay or passthrough, got 'off'",
        "REPRISE_LOG__LEVEL: expected debug, info, warning or error, got 'loud'",
        f"config.yaml: server.host: 0.0.0.0 is not a loopback address, and {both}: {WAYS_OUT}",
    )


def test_a_file_that_cannot_be_read_hides_no_other_mistake(write: WriteConfig) -> None:
    """But what depends on what it would have said is not guessed at."""
    write("cache: [scope: credential")

    first, second = problems({"server.host": EVERYWHERE}, {"REPRISE_CACHE__TTL": "soon"})

    assert first == f"config.yaml: line 1: {NOT_YAML}"
    assert second == "REPRISE_CACHE__TTL: expected a duration such as 30s or 7d, got 'soon'"


def test_a_file_that_was_named_must_be_there(directory: Path) -> None:
    """The defaults in its stead would be a surprise."""
    (directory / "latin.yaml").write_bytes(b"upstream: {name: caf\xe9}")

    assert problems({}, config=Path("no.yaml")) == ("--config: no.yaml: no such file or directory",)
    assert problems({}, config=directory) == (f"--config: {directory}: is a directory",)
    assert problems({}, config=Path("config.yaml")) == ("--config: config.yaml: no such file or directory",)
    assert problems({}, config=Path("latin.yaml")) == ("latin.yaml: not UTF-8 text",)


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.1.7", "proxy.internal"])
@pytest.mark.parametrize(
    ("scope", "key", "reasons"),
    [
        ("shared", None, "cache.scope is shared"),
        (None, None, "cache.scope is shared"),
        ("credential", CANARY, "upstream.api_key is set"),
        (None, CANARY, "cache.scope is shared and upstream.api_key is set"),
    ],
)
def test_strangers_get_no_paid_answers(host: str, scope: str | None, key: str | None, reasons: str) -> None:
    """Whoever can reach the proxy would be served from the common store, or on the operator's key."""
    assert problems({"server.host": host, "cache.scope": scope, "upstream.api_key": key}) == (
        f"--host: {host} is not a loopback address, and {reasons}: {WAYS_OUT}",
    )


@pytest.mark.parametrize(
    ("host", "scope", "key"),
    [
        (EVERYWHERE, "credential", None),
        ("127.8.8.8", "shared", CANARY),
        ("::1", "shared", CANARY),
        ("localhost", "shared", CANARY),
    ],
)
def test_the_ways_out_are_ways_out(host: str, scope: str, key: str | None) -> None:
    """Loopback, or callers known by credentials of their own."""
    settings = load(None, {"server.host": host, "cache.scope": scope, "upstream.api_key": key}, {})

    assert settings.server.host == host


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("upstream.api_key", f"{CANARY}\n"),
        ("upstream.api_key", f"Bearer {CANARY}"),
        ("upstream.api_key", f"{CANARY}${{X}}"),
        ("upstream.api_key", [CANARY]),
        ("upstream.api_key", "CANARY of another kind"),
        ("upstream.base_url", f"https://user:{CANARY}@host/v1"),
        ("upstream.base_url", f"https://host/v1?key={CANARY}"),
        ("upstream.base_url", f"https://host/v1#{CANARY}"),
        ("upstream.base_url", f"https:/user:{CANARY}@host"),
        ("upstream.base_url", CANARY),
        ("server.cors_origins", f"https://user:{CANARY}@host"),
        ("cache.vary", "Authorization: Bearer CANARY"),
        ("log.level", CANARY),
    ],
)
def test_no_message_tells_a_secret(key: str, value: object) -> None:
    """Neither the message nor the traceback, whatever has been pasted where."""
    with pytest.raises(SettingsError) as refused:
        load(None, {key: value}, {})

    assert "CANARY" not in "".join(traceback.format_exception(refused.value))
    assert refused.value.__cause__ is refused.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"https://u:{CANARY}@h/v1", "a URL without a user name or password; a key belongs in upstream.api_key"),
        (f"https://h/v1?key={CANARY}", "a URL without a query or fragment"),
        (f"https://h/v1#{CANARY}", "a URL without a query or fragment"),
    ],
)
def test_a_url_with_too_much_in_it_is_told_what_is_too_much(url: str, told: str) -> None:
    """Without quoting it."""
    assert problem("upstream.base_url", url) == f"--upstream: expected {told}"


def test_a_message_is_one_printable_line() -> None:
    """A terminal must do nothing but show it, and a value of any length must leave it readable."""
    assert problems({}, {"REPRISE_\x1b[2J\n\udcff": "1"}) == ("REPRISE_\\x1b[2J\\n\\udcff: unknown key",)
    long = f"cache.ttl: expected a duration such as 30s or 7d, got '{'x' * 60}' and so on"
    assert problem("cache.ttl", "x" * 1000) == long


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [{}, [[]], [{}], [None], b"x", 1.5, -1, True, "\0", "${", "x" * 1000])
def test_every_message_is_written_for_a_person(key: str, value: object) -> None:
    """Whatever is wrong with whatever key, nothing of the libraries' own words comes through."""
    for told in problems({key: value}):
        place, _, reason = told.partition(": ")
        assert place in (key, "--host", "--port", "--upstream", "--mode", "--cassette", "--record-to")
        assert reason.startswith("expected ")
        assert not re.search("[Ii]nput|[Vv]alue error|something else|[Nn]one", reason)


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text(YAML_MARKS, max_size=40))
def test_any_file_is_settings_or_a_settings_error(text: str) -> None:
    """No file makes a traceback, and every line names it."""
    path = Path("any.yaml")
    path.write_bytes(text.encode())

    assert all(told.startswith(("any.yaml: ", "--config: any.yaml: ")) for told in problems({}, config=path))
