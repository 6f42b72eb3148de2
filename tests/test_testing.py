"""A proxy in the background of a program: recorded, replayed without an upstream, and nothing around it touched."""

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import openai
import orjson
import pytest
import structlog

from proxy import testing
from proxy.cassette import write_cassette
from proxy.config import SettingsError
from tests.recordings import recording


def said(gateway: testing.Gateway, content: str, *, stream: bool = False) -> bytes:
    asked = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": content}]}
    fields = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{gateway.base_url}/chat/completions", orjson.dumps(asked), fields)  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - of ours
        body: bytes = answer.read()
        return body


def test_what_was_recorded_is_replayed_without_an_upstream_and_a_key(tmp_path: Path, simulator: str) -> None:
    """Plain and streamed, from the files alone; with what was used, new and missed."""
    with testing.record(tmp_path / "chat", upstream=simulator) as gateway:
        recorded = [said(gateway, "Hello?"), said(gateway, "Hello?", stream=True)]
    new = gateway.recorded

    with testing.replay(tmp_path / "chat") as gateway:
        replayed = [said(gateway, "Hello?"), said(gateway, "Hello?", stream=True)]
        with pytest.raises(urllib.error.HTTPError, match="504"):
            said(gateway, "What else?")

    assert replayed == recorded
    assert len(new) == 2
    assert (gateway.used, gateway.recorded, gateway.missed) == (new, set(), 1)


def test_a_recording_goes_on_where_it_was_left(tmp_path: Path, simulator: str) -> None:
    """What is there is played, what is not is asked for; anew, all of it is."""
    with testing.record(tmp_path / "chat", upstream=simulator) as first:
        said(first, "one")
    with testing.record(tmp_path / "chat", upstream=simulator) as second:
        said(second, "one")
        said(second, "two")
    with testing.record(tmp_path / "chat", upstream=simulator, anew=True) as third:
        said(third, "one")

    assert (len(first.recorded), len(second.recorded), second.used) == (1, 1, first.recorded)
    assert (third.recorded, third.used) == (first.recorded, set())


async def test_sync_and_async_clients_may_ask_from_wherever_they_run(tmp_path: Path, simulator: str) -> None:
    """The proxy has a thread and a loop of its own: a client that blocks this one blocks nothing of it."""
    asked = openai.types.chat.ChatCompletionUserMessageParam(role="user", content="Hello?")
    with testing.record(tmp_path / "chat", upstream=simulator) as gateway:
        sync = openai.OpenAI(base_url=gateway.base_url, api_key="sk-real")
        one = sync.chat.completions.create(model="m", messages=[asked])
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="sk-other") as client:
            other = await client.chat.completions.create(model="m", messages=[asked])
        sync.close()

    assert one == other


def test_nothing_around_it_is_touched(tmp_path: Path, simulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, directory, threads, and a log that the program has set up for itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRISE_CACHE__MODE", "passthrough")  # which is for `reprise`
    (tmp_path / "config.yaml").write_text("cache: {mode: passthrough}")
    before = dict(os.environ), structlog.get_config(), threading.active_count()

    with testing.record("chat", upstream=simulator) as gateway:
        said(gateway, "Hello?")

    assert (dict(os.environ), structlog.get_config(), threading.active_count()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat", "config.yaml"]
    assert gateway.recorded


def test_options_are_those_of_the_settings(tmp_path: Path, simulator: str) -> None:
    """By their last name; a mistake says which, and no proxy is started."""
    with testing.record(tmp_path / "chat", upstream=simulator, ignore=["/messages"]) as gateway:
        said(gateway, "one")
        said(gateway, "two")
    assert len(gateway.recorded) == 1

    with pytest.raises(SettingsError, match=r"replay\.pace"), testing.replay(tmp_path / "chat", pace="soon"):
        pytest.fail("it has started")
    with pytest.raises(SettingsError, match="pase"), testing.replay(tmp_path / "chat", pase="1x"):  # type: ignore[call-arg]
        pytest.fail("it has started")


def test_there_has_to_be_a_cassette(tmp_path: Path) -> None:
    """Or each request would be a miss; the directory around it is none."""
    write_cassette(tmp_path / "cassettes" / "chat", [recording()])

    for name in ("none", "cassettes"):
        with pytest.raises(FileNotFoundError, match=r"proxy\.testing\.record"), testing.replay(tmp_path / name):
            pytest.fail("it has started")


def test_a_program_that_goes_elsewhere_loses_nothing(
    tmp_path: Path, simulator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cassette is where it was named."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    with testing.record("chat", upstream=simulator) as gateway:
        monkeypatch.chdir(tmp_path / "elsewhere")
        said(gateway, "Hello?")

    assert [path.suffix for path in sorted((tmp_path / "chat").iterdir())] == [".body", ".json"]


def test_what_was_asked_is_known_as_soon_as_it_is_answered(tmp_path: Path, simulator: str) -> None:
    """Whoever has his answer may ask what became of it."""
    with testing.record(tmp_path / "chat", upstream=simulator) as gateway:
        for number in range(20):
            said(gateway, f"{number}")
            assert len(gateway.recorded) == number + 1


def test_what_was_counted_is_handed_over_once(tmp_path: Path, simulator: str) -> None:
    """Each request is in one count and in no other."""
    with testing.record(tmp_path / "chat", upstream=simulator) as gateway:
        said(gateway, "one")
        first = gateway.forget()
        said(gateway, "one")
        second = gateway.forget()

    assert (len(first), len(first.recorded), first.used) == (1, 1, set())
    assert (len(second), second.recorded, second.used) == (1, set(), first.recorded)
    assert gateway.requests == []
