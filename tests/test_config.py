"""Settings: where they come from, and which of them wins."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from proxy.config import KEYS, CacheSettings, ServerSettings, Settings, SettingsError, load
from tests.conftest import WriteConfig

CANARY = "sk-CANARY-4711"
CONFIG_YAML = Path(__file__).parent.parent / "config.yaml"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test starts where there is no `config.yaml`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_config_yaml_shows_every_key_at_its_default_and_says_what_it_does() -> None:
    """The file that is in the repository is valid, complete, and changes nothing."""
    text = CONFIG_YAML.read_text()
    sections = yaml.safe_load(text)

    assert load(CONFIG_YAML, {}, {}) == Settings()
    assert [f"{section}.{key}" for section, keys in sections.items() for key in keys] == list(KEYS)
    assert {key for keys in sections.values() for key in keys if keys[key] is None} == {
        "name",
        "api_key",
        "cassette",
        "record_to",
    }
    assert all(re.search(r" # \S", line) for line in text.splitlines() if line.startswith("  "))


def test_without_any_source_settings_are_the_defaults() -> None:
    """Nothing has to be written to begin."""
    assert load(None, {}, {}) == Settings()


def test_an_environment_is_read_only_where_it_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the process's environment nor a .env file reaches settings behind the caller's back."""
    monkeypatch.setenv("SERVER", '{"port": 1}')
    monkeypatch.setenv("REPRISE_SERVER__PORT", "1")
    Path(".env").write_text('SERVER={"port": 1}\n')

    assert Settings().server.port == load(None, {}, {}).server.port == 8080


def test_command_line_beats_environment_beats_file_beats_default(write: WriteConfig) -> None:
    """And each key for itself: a section in one place hides nothing of it in another."""
    write("server: {port: 1, read_timeout: 1s, write_timeout: 1s}\nlog: {level: debug}\n")
    environ = {"REPRISE_SERVER__PORT": "2", "REPRISE_SERVER__READ_TIMEOUT": "2s"}

    settings = load(None, {"server.port": 3, "server.host": None}, environ)

    assert settings.server == ServerSettings(port=3, read_timeout=2.0, write_timeout=1.0)
    assert settings.log.level == "debug"


@given(given_by=st.lists(st.booleans(), min_size=3, max_size=3))
def test_the_strongest_source_that_gives_a_key_wins(given_by: list[bool]) -> None:
    """For every combination of command line, environment and file."""
    overridden, exported, written = given_by
    Path("config.yaml").write_text("cache: {ttl: 3s}" if written else "")

    settings = load(None, {"cache.ttl": "1s" if overridden else None}, {"REPRISE_CACHE__TTL": "2s"} if exported else {})

    assert settings.cache.ttl == (1 if overridden else 2 if exported else 3 if written else 30 * 86_400)


def test_a_named_file_beats_the_variable_and_the_variable_the_working_directory(
    directory: Path, write: WriteConfig
) -> None:
    """`--config`, else `$REPRISE_CONFIG`, else `./config.yaml`."""
    write("server: {port: 1}")
    (directory / "two.yaml").write_text("server: {port: 2}")
    (directory / "three.yaml").write_text("server: {port: 3}")

    assert load(None, {}, {}).server.port == 1
    assert load(None, {}, {"REPRISE_CONFIG": ""}).server.port == 1
    assert load(None, {}, {"REPRISE_CONFIG": "two.yaml"}).server.port == 2
    assert load(Path("three.yaml"), {}, {"REPRISE_CONFIG": "two.yaml"}).server.port == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "---\n",
        "null",
        "server:\n",
        "server: null\n",
        "server:\n  port:\n",
        "server: {port: ~}",
        "{}",
    ],
)
def test_what_is_left_empty_is_at_its_default(write: WriteConfig, text: str) -> None:
    """A file, a section, a key."""
    write(text)

    assert load(None, {}, {}) == Settings()


def test_a_byte_order_mark_is_no_part_of_the_first_key(directory: Path) -> None:
    """Some editors write one."""
    (directory / "config.yaml").write_bytes(b"\xef\xbb\xbfserver: {port: 1}")

    assert load(None, {}, {}).server.port == 1


def test_a_scalar_is_the_text_that_was_written(write: WriteConfig) -> None:
    """YAML would make 1.1, False and 8 of these."""
    write("upstream: {name: 1.10}\ncache: {directory: no}\nserver: {port: '0010'}")

    settings = load(None, {}, {})

    assert settings.upstream.name == "1.10"
    assert settings.cache.directory == Path("no")
    assert settings.server.port == 10


def test_a_variable_set_to_nothing_counts_as_unset(write: WriteConfig) -> None:
    """Compose files and shells set variables to nothing where they mean none; an empty list is `[]`."""
    write("cache: {vary: [x-team]}")

    assert load(None, {}, {"REPRISE_CACHE__VARY": ""}).cache.vary == ("x-team",)
    assert load(None, {}, {"REPRISE_CACHE__VARY": "[]"}).cache.vary == ()


@pytest.mark.parametrize("text", ["x-a, x-b", "x-a,x-b", '["x-a", "x-b"]'])
def test_a_list_in_the_environment_is_json_or_has_commas(text: str) -> None:
    """Either is what somebody tries first."""
    assert load(None, {}, {"REPRISE_CACHE__VARY": text}).cache.vary == ("x-a", "x-b")


def test_an_api_key_can_stand_in_the_environment_under_its_own_name(write: WriteConfig) -> None:
    """So that a file can be shared and the key is not."""
    write("upstream: {api_key: '${OPENAI_API_KEY}'}")

    settings = load(None, {}, {"OPENAI_API_KEY": CANARY})

    assert settings.upstream.api_key == SecretStr(CANARY)
    assert CANARY not in repr(settings)


def test_only_the_reference_that_wins_is_looked_up(write: WriteConfig) -> None:
    """A key given outright makes the one in the file beside the point."""
    write("upstream: {api_key: '${NOT_SET}'}")

    assert load(None, {}, {"REPRISE_UPSTREAM__API_KEY": CANARY}).upstream.api_key == SecretStr(CANARY)


@pytest.mark.parametrize("mode", ["replay", "cache", "record", "passthrough"])
def test_who_asks_nobody_needs_no_key(mode: str, write: WriteConfig) -> None:
    """Tests run with the same file where there is none; any other mode says that it is missing."""
    write("upstream: {api_key: '${NOT_SET}'}\ncache: {mode: cache}")

    if mode == "replay":
        assert load(None, {"cache.mode": mode}, {}).upstream.api_key is None
        assert load(None, {"cache.mode": mode}, {"NOT_SET": CANARY}).upstream.api_key == SecretStr(CANARY)
    else:
        with pytest.raises(SettingsError, match="the environment variable NOT_SET is not set"):
            load(None, {"cache.mode": mode}, {})


def test_settings_cannot_be_changed() -> None:
    """Whoever holds them may rely on them."""
    settings = Settings()

    with pytest.raises(ValidationError):
        settings.server.port = 1
    assert hash(settings) == hash(load(None, {}, {}))


def test_sections_can_be_made_in_code() -> None:
    """With the types that they have, and checked like the rest."""
    assert Settings(cache=CacheSettings(ignore=(("user",),))) == load(None, {"cache.ignore": "/user"}, {})
    with pytest.raises(ValidationError):
        CacheSettings(size_limit=1)
