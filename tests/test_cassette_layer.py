"""A cassette beneath the store, and one that is recorded to, as a client of the proxy meets them."""

import fcntl
import os
import shutil
import time
from pathlib import Path

import orjson
import pytest

from proxy import events
from proxy.app import StartFailed
from proxy.canonical import canonical_body
from proxy.cassette import read_cassette, write_cassette
from proxy.cassette.copying import CASSETTE_SCRUBBED
from proxy.key import SHORT_KEY
from proxy.recording import Recording
from proxy.store.health import STORE_FAILED
from tests.conftest import Company, Log, StartProxy
from tests.exchanges import key_of, recording_of, store_of, until, word, words
from tests.harness import ANSWER, PROMPT, STREAM, STREAMED, ScriptedUpstream, plain, settings, stream
from tests.shelves import MIB

DAY_S = 86400.0


def numbered(number: int) -> dict[str, object]:
    return {**PROMPT, "seed": number}


@pytest.fixture
def cassette(tmp_path: Path) -> Path:
    return tmp_path / "chat"


@pytest.fixture
async def recorded(start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path, tmp_path: Path) -> Path:
    """A cassette of a year ago with two recordings, in a directory that no store knows of."""
    upstream.will_send(*stream())
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__directory=str(tmp_path / "first"), upstream__name="ours")
    responses = [await proxy.ask(STREAMED), await proxy.ask()]
    for response in responses:
        await response.body()
    kept = [await recording_of(proxy, response) for response in responses]
    write_cassette(cassette, sorted((a_year_ago(one) for one in kept), key=lambda one: one.key))
    return cassette


def a_year_ago(one: Recording) -> Recording:
    return one._replace(recorded_at=time.time() - 365 * DAY_S)


# Played


@pytest.mark.parametrize("name", ["chat", "chat.tar.gz"])
@pytest.mark.parametrize("memory_limit", [0, MIB])
async def test_what_the_store_does_not_have_is_answered_from_the_cassette(
    start_proxy: StartProxy, upstream: ScriptedUpstream, recorded: Path, name: str, memory_limit: int
) -> None:
    """The same bytes as a hit of any other recording, however old it is, and again and again."""
    cassette = recorded.with_name(name)
    write_cassette(cassette, read_cassette(recorded))
    seen = upstream.requests_seen
    proxy = await start_proxy(cache__cassette=str(cassette), upstream__name="ours", cache__memory_limit=memory_limit)

    for _ in range(3):
        response = await proxy.ask(STREAMED)
        assert (await response.body(), response.get("x-cache-status")) == (STREAM, "HIT")
        assert 365 * DAY_S <= int(response.get("age") or 0) < 366 * DAY_S
        assert await words(proxy.ask()) == ["HIT"]

    assert upstream.requests_seen == seen


async def test_in_replay_mode_a_cassette_is_all_that_is_needed(start_proxy: StartProxy, recorded: Path) -> None:
    """What it does not have is a loud miss, and nobody is asked."""
    proxy = await start_proxy(
        cache__cassette=str(recorded),
        cache__mode="replay",
        upstream__name="ours",
        upstream__base_url="http://127.0.0.1:9",
    )

    assert await words(proxy.ask(), proxy.ask(STREAMED)) == ["HIT", "HIT"]
    assert (await proxy.ask(numbered(1))).status == 504


async def test_what_a_request_asks_for_holds_for_a_cassette_too(
    start_proxy: StartProxy, upstream: ScriptedUpstream, recorded: Path
) -> None:
    """`cache.ttl` does not count, `max-age` does; and what is recorded anew comes first from then on."""
    upstream.will_send(plain(b'{"choices":[]}'))
    proxy = await start_proxy(cache__cassette=str(recorded), upstream__name="ours", cache__ttl=1)

    assert await words(proxy.ask(headers={"Cache-Control": "max-age=60"})) == ["STALE"]
    response = await proxy.ask()

    assert (await response.body(), response.get("x-cache-status")) == (b'{"choices":[]}', "HIT")


async def test_what_the_store_has_as_well_does_not_age_either(
    start_proxy: StartProxy, upstream: ScriptedUpstream, recorded: Path
) -> None:
    """It was recorded into both at a time; without the cassette it is too old."""
    proxy = await start_proxy(cache__cassette=str(recorded), upstream__name="ours")
    for one in read_cassette(recorded):
        assert store_of(proxy).keep(one)
    assert await words(proxy.ask(), proxy.ask(STREAMED)) == ["HIT", "HIT"]
    await proxy.app.stop()

    proxy = await start_proxy(upstream__name="ours")
    upstream.will_send(plain(ANSWER))
    assert await words(proxy.ask()) == ["STALE"]


async def test_a_cassette_is_asked_while_others_write_to_the_store(
    start_proxy: StartProxy, company: Company, recorded: Path
) -> None:
    """Then it is looked for on the disk first."""
    proxy = await start_proxy(cache__cassette=str(recorded), upstream__name="ours")
    company(proxy)

    assert await words(proxy.ask(), proxy.ask(STREAMED)) == ["HIT", "HIT"]


async def test_a_cassette_is_read_at_the_start_and_never_written(start_proxy: StartProxy, recorded: Path) -> None:
    """What becomes of the files meanwhile is for the next start."""
    proxy = await start_proxy(cache__cassette=str(recorded), upstream__name="ours")
    shutil.rmtree(recorded)

    assert await words(proxy.ask(), proxy.ask(STREAMED)) == ["HIT", "HIT"]
    assert recorded.name not in os.listdir(recorded.parent)  # noqa: PTH208 - no loop waits for it


async def test_a_miss_names_the_nearest_recording_of_a_cassette(start_proxy: StartProxy, recorded: Path) -> None:
    """Also where the store has nothing at all, and says how it differs; of both, the nearer one."""
    proxy = await start_proxy(cache__cassette=str(recorded), cache__mode="replay", upstream__name="ours")
    (plain_key,) = [one.key for one in read_cassette(recorded) if not one.stream]

    response = await proxy.ask(numbered(7))

    message = str(error["message"]) if isinstance(error := (await response.json())["error"], dict) else ""
    assert f"The nearest recording is {plain_key[:SHORT_KEY]}" in message
    assert "/seed" in message


async def test_the_nearest_is_looked_for_in_the_store_and_beneath_it(
    start_proxy: StartProxy, upstream: ScriptedUpstream, recorded: Path
) -> None:
    """Whichever of them has it."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(upstream__name="ours")
    await word(proxy.ask(numbered(70)))
    await proxy.app.stop()
    proxy = await start_proxy(cache__cassette=str(recorded), cache__mode="replay", upstream__name="ours")

    for asked, told in ((numbered(71), "recorded `70`, asked `71`"), ({**STREAMED, "user": "a"}, "/user")):
        response = await proxy.ask(asked)
        assert told in str((await response.json())["error"])


@pytest.mark.parametrize(
    ("key", "said"),
    [("cache__cassette", "cache.cassette: .*no-such.*it can't be read"), ("cache__record_to", "there is a file")],
)
async def test_a_cassette_that_can_not_be_used_is_no_start(
    start_proxy: StartProxy, tmp_path: Path, key: str, said: str
) -> None:
    """It is a mistake that is better noticed now."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StartFailed, match=said):
        await start_proxy(**{key: str(tmp_path / ("no-such" if key == "cache__cassette" else "file"))})


async def test_a_damaged_cassette_is_no_start(start_proxy: StartProxy, recorded: Path) -> None:
    """The file is named."""
    one = next(read_cassette(recorded))
    (recorded / f"{one.key}.body").write_bytes(one.body[:-1])

    with pytest.raises(StartFailed, match=f"{one.key}.json: its .body file does not hold"):
        await start_proxy(cache__cassette=str(recorded))


async def test_another_cassette_waits_for_a_restart(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path, log: Log
) -> None:
    """As another store does, and the log says so."""
    proxy = await start_proxy()
    elsewhere = str(tmp_path / "elsewhere")

    await proxy.app.reload(
        settings(upstream.base_url, tmp_path / "store", cache__cassette=elsewhere, cache__record_to=elsewhere)
    )

    line = await log.line(0, events.RELOADED)
    assert line["waiting_for_restart"] == ["cache.cassette", "cache.record_to"]
    assert not (tmp_path / "elsewhere").exists()


# Recorded to


async def test_new_recordings_are_written_to_a_cassette_as_they_are_made(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path
) -> None:
    """And nothing else is: no hit, no error, nothing that may not be stored."""
    upstream.will_send(*stream())
    upstream.will_send(plain(b"{}", status=b"500 Internal Server Error"))
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__record_to=str(cassette))
    response = await proxy.ask(STREAMED)
    await response.body()
    assert await words(proxy.ask(STREAMED), proxy.ask(numbered(1))) == ["HIT", "MISS"]
    await word(proxy.ask(headers={"Cache-Control": "no-store"}))
    kept = await recording_of(proxy, response)

    await proxy.app.stop()

    assert list(read_cassette(cassette)) == [kept]


async def test_all_that_was_recorded_is_in_the_cassette_when_the_proxy_has_ended(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path
) -> None:
    """However much of it there was at the end."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__record_to=str(cassette))
    responses = [await proxy.ask(numbered(number)) for number in range(20)]

    await proxy.app.stop()

    assert {one.key for one in read_cassette(cassette)} == {key_of(response) for response in responses}


async def test_one_directory_is_played_and_recorded_to(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path, tmp_path: Path
) -> None:
    """It need not be there at first; what was added to it is played after the next start, by a store that is empty."""
    upstream.will_send(plain(ANSWER))
    upstream.will_send(*stream())
    both = {"cache__cassette": str(cassette), "cache__record_to": str(cassette)}
    for number, expected in enumerate((["MISS", "HIT"], ["HIT", "MISS"], ["HIT", "HIT"])):
        proxy = await start_proxy(**both, cache__directory=str(tmp_path / f"store {number}"))
        asked = PROMPT if number == 0 else STREAMED
        assert await words(proxy.ask(), proxy.ask(asked)) == expected
        await proxy.app.stop()

    assert len(list(read_cassette(cassette))) == 2


async def test_secrets_stay_out_of_a_cassette_and_the_request_is_answered_by_it(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path, tmp_path: Path, log: Log
) -> None:
    """The log says that there were some, and not which."""
    asked = {**PROMPT, "user": "ann@acme.com", "code": "ACME-12345678"}
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__record_to=str(cassette), cache__scrub="ACME-[0-9]{8}")
    assert await word(proxy.ask(asked)) == "MISS"
    await proxy.app.stop()

    proxy = await start_proxy(cache__cassette=str(cassette), cache__directory=str(tmp_path / "other"))

    assert await word(proxy.ask(asked)) == "HIT"
    (one,) = read_cassette(cassette)
    body = orjson.loads(one.request.body)
    assert (body["user"], body["code"]) == ("xxx@xxxx.xxx", "xxxx-00000000")
    assert (await log.line(0, CASSETTE_SCRUBBED))["found"] == {"email": 1, "custom": 1}
    assert "acme" not in log.getvalue()


async def test_what_can_not_be_searched_for_secrets_is_not_written(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told in the log, costs no answer, and what comes after it is written."""
    monkeypatch.setattr("proxy.cassette.shapes._PATIENCE_S", 0.05)
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__record_to=str(cassette), cache__scrub="(z+)+y")
    asked = {**PROMPT, "user": "z" * 5000}

    assert await words(proxy.ask(asked), proxy.ask(asked), proxy.ask()) == ["MISS", "HIT", "MISS"]
    await proxy.app.stop()

    assert [one.request.body for one in read_cassette(cassette)] == [canonical_body(orjson.dumps(PROMPT)).text]
    assert "is not written: to search it for secrets takes too long" in log.lines(STORE_FAILED)[0]["reason"]


async def test_a_cassette_that_can_not_be_written_costs_no_answer(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path, log: Log
) -> None:
    """The log says so, once, and the store has what the cassette lacks."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__record_to=str(cassette))
    shutil.rmtree(cassette)

    for number in range(3):
        assert await words(proxy.ask(numbered(number)), proxy.ask(numbered(number))) == ["MISS", "HIT"]
    await proxy.app.stop()

    line = await log.line(0, STORE_FAILED)
    assert (line["what"], len(log.lines(STORE_FAILED))) == ("copying to the cassette", 1)
    assert f"{cassette}: it can't be written (No such file or directory)" in line["reason"]


async def test_one_that_is_held_by_another_is_given_up(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path, log: Log
) -> None:
    """A process that has stopped while it wrote holds nobody up for ever."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__record_to=str(cassette))
    held = os.open(cassette, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    assert await word(proxy.ask()) == "MISS"
    await until(lambda: bool(log.lines(STORE_FAILED)))
    os.close(held)
    assert await word(proxy.ask(STREAMED)) in ("MISS", None)

    assert "held by a process that has stopped" in log.lines(STORE_FAILED)[0]["reason"]


async def test_what_is_written_waits_no_more(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is copied, as long as it is not all at once."""
    monkeypatch.setattr("proxy.cassette.copying.WAITING_LIMIT_BYTES", 8 * 1024)
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__record_to=str(cassette))

    for number in range(20):
        answer = await proxy.ask(numbered(number))
        await until((cassette / f"{key_of(answer)}.json").exists)


async def test_what_waits_to_be_written_is_bounded(
    start_proxy: StartProxy, upstream: ScriptedUpstream, cassette: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is slow does not make the proxy grow."""
    monkeypatch.setattr("proxy.cassette.copying.WAITING_LIMIT_BYTES", 1)
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__record_to=str(cassette))
    held = os.open(cassette, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    assert await words(*(proxy.ask(numbered(number)) for number in range(3))) == ["MISS"] * 3

    assert "it takes too long" in (await log.line(0, STORE_FAILED))["reason"]
    os.close(held)
    await proxy.app.stop()
    assert len(list(read_cassette(cassette))) == 1
