"""What lies in the store: nobody's secrets, and nothing that is sent once it is damaged."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store.reading import RECORDING_DAMAGED, RECORDING_UNREADABLE
from tests.conftest import Company, Log, StartProxy
from tests.exchanges import REPLAYED, RICH_HEAD, key_of, recording_of, store_of, until, word
from tests.harness import (
    ANSWER,
    CHAT,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    sse_head,
    stream,
)


def spoil(directory: Path, position: int) -> None:
    """Flip the bits of one byte of the only entry."""
    with closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as connection:
        ((entry,),) = connection.execute("SELECT value FROM Cache").fetchall()
        spoiled = bytearray(entry)
        spoiled[position] ^= 0xFF
        connection.execute("UPDATE Cache SET value = ?", [bytes(spoiled)])


@pytest.mark.parametrize(
    ("position", "event"),
    [
        pytest.param(0, RECORDING_DAMAGED, id="magic"),
        pytest.param(9, RECORDING_UNREADABLE, id="version"),
        pytest.param(20, RECORDING_DAMAGED, id="length"),
        pytest.param(60, RECORDING_DAMAGED, id="checksum"),
        pytest.param(100, RECORDING_DAMAGED, id="metadata"),
        pytest.param(-1, RECORDING_DAMAGED, id="payload"),
    ],
)
async def test_a_damaged_recording_is_a_miss_and_is_recorded_anew(
    position: int, event: str, *, start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path, log: Log
) -> None:
    """No byte of it is sent; the log names it; the next proxy finds the new one."""
    upstream.will_send(*stream())
    first = await start_proxy(cache__memory_limit=0)
    miss = await first.ask(STREAMED)
    await miss.body()
    await first.app.stop()
    spoil(tmp_path / "store", position)

    second = await start_proxy(cache__memory_limit=0)
    answers = [await second.ask(STREAMED) for _ in range(2)]
    assert [await answer.body() for answer in answers] == [STREAM, STREAM]
    assert [answer.get("x-cache-status") for answer in answers] == ["MISS", "HIT"]
    await second.app.stop()

    third = await start_proxy(cache__memory_limit=0)
    assert await word(third.ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 2
    assert [line["key"] for line in log.lines(event)] == [key_of(miss)]


async def test_a_damaged_recording_is_removed_even_if_it_cannot_be_recorded_anew(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path, log: Log
) -> None:
    """In replay mode it is a miss like any other, and is complained about once."""
    upstream.will_send(*stream())
    first = await start_proxy()
    await word(first.ask(STREAMED))
    await first.app.stop()
    spoil(tmp_path / "store", -1)

    second = await start_proxy(cache__mode="replay")
    answers = [await second.ask(STREAMED) for _ in range(2)]

    assert [answer.status for answer in answers] == [504, 504]
    assert len(log.lines(RECORDING_DAMAGED)) == 1
    with closing(sqlite3.connect(tmp_path / "store" / "cache.db")) as connection:
        assert connection.execute("SELECT count(*) FROM Cache").fetchall() == [(0,)]


async def test_a_store_that_fails_costs_no_answer(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path, log: Log, company: Company
) -> None:
    """What can be neither read nor written is a miss, and the log says so."""
    proxy = await start_proxy(cache__memory_limit=0)
    company(proxy)
    upstream.will_send(*stream())
    with closing(sqlite3.connect(tmp_path / "store" / "cache.db", isolation_level=None)) as connection:
        connection.execute("ALTER TABLE Cache RENAME TO Gone")

        first = await proxy.ask(STREAMED)
        assert (first.status, await first.body()) == (200, STREAM)
        assert (await log.line(0, "store_failed"))["what"] == "reading"
        assert (await log.line(1, "store_failed"))["what"] == "writing"
        second = await proxy.ask(STREAMED)
        assert (second.get("x-cache-status"), await second.body()) == ("MISS", STREAM)

        connection.execute("ALTER TABLE Gone RENAME TO Cache")
    await word(proxy.ask(STREAMED))
    assert await word(proxy.ask(STREAMED)) == "HIT"


SECRETS = {
    "Authorization": "Bearer sk-CANARY",
    "Proxy-Authorization": "Basic sk-CANARY",
    "Api-Key": "sk-CANARY",
    "X-Api-Key": "sk-CANARY",
    "Cookie": "session=sk-CANARY",
    "OpenAI-Organization": "org-sk-CANARY",
    "OpenAI-Project": "proj-sk-CANARY",
    "X-Anything": "sk-CANARY",
    "OpenAI-Beta": "assistants=v2",
}
CANARY = b"sk-CANARY"


@pytest.mark.parametrize("scope", ["shared", "credential"])
async def test_no_secret_is_at_rest_or_in_the_log(
    scope: str, start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path, log: Log
) -> None:
    """Not in any file, not in a recording as it is read back, which is compressed on disk, and not in a log line."""
    proxy = await start_proxy(cache__scope=scope)
    target = f"{CHAT}?key=sk-CANARY"
    upstream.will_send(plain(ANSWER, *RICH_HEAD))
    upstream.will_send(sse_head(*RICH_HEAD) + chunk(STREAM) + LAST_CHUNK)
    upstream.will_send(plain(b'{"error":{"message":"Incorrect API key: sk-CANARY"}}', status=b"401 Unauthorized"))
    miss, streamed = await proxy.ask(PROMPT, target, SECRETS), await proxy.ask(STREAMED, target, SECRETS)
    for response in (miss, streamed):
        await response.body()
        assert CANARY.decode() not in repr(await recording_of(proxy, response))
    refused = await proxy.ask({**PROMPT, "seed": 1}, target, SECRETS)
    assert CANARY in await refused.body()
    malformed = await proxy.ask(PROMPT, target, {**SECRETS, "X-Reprise-Sample": "sk-CANARY"})
    assert (malformed.status, CANARY in await malformed.body()) == (400, False)
    missed = await proxy.ask({**PROMPT, "seed": 2}, target, {**SECRETS, "Cache-Control": "only-if-cached"})
    assert (missed.status, CANARY in await missed.body()) == (504, False)
    hit = await proxy.ask(PROMPT, target, SECRETS)
    assert (hit.get("x-cache-status"), CANARY.decode() in repr(hit.headers)) == ("HIT", False)
    await log.line(5)

    await proxy.app.stop()

    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert files
    assert not [path.name for path in files if CANARY in path.read_bytes()]
    assert CANARY.decode() not in log.getvalue()


async def test_a_recording_holds_the_request_it_answers(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Method, path without its query, canonical body and the headers of `cache.vary`; of the answer the listed ones."""
    upstream.will_send(plain(ANSWER, *RICH_HEAD))

    response = await proxy.ask(b'{ "model": "m", "messages": [] }', f"{CHAT}?a=1", SECRETS)

    recording = await recording_of(proxy, response)
    assert (recording.request.method, recording.request.path) == ("POST", CHAT)
    assert recording.request.body == b'{"messages":[],"model":"m"}'
    assert recording.request.vary == (("openai-beta", "assistants=v2"),)
    assert sorted(name.lower().decode() for name, _ in recording.head.headers) == REPLAYED
    assert (recording.body, recording.check, recording.stream) == (ANSWER, "json", False)


async def test_the_directory_is_for_its_owner_alone(proxy: Proxy, tmp_path: Path) -> None:
    """Prompts and answers are nobody else's business."""
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store" / ".gitignore").read_text() == "*\n"


async def test_two_proxies_share_a_directory(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """What one has recorded the other one replays, while both are running."""
    one, other = await start_proxy(), await start_proxy()
    upstream.will_send(*stream())
    assert await word(one.ask(STREAMED)) == "MISS"
    await until(lambda: not store_of(one)._waiting)

    hit = await other.ask(STREAMED)

    assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", STREAM)
    assert upstream.requests_seen == 1
