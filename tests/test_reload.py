"""SIGHUP: the settings are read anew. What can change while the proxy runs changes; what is wrong changes nothing."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from proxy import events
from proxy.app import StartFailed
from proxy.config import SettingsError
from tests.commands import Running, connect, environment, running
from tests.conftest import Log, StartProxy
from tests.exchanges import store_of, take, until, word, words
from tests.harness import (
    ANSWER,
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    NOWHERE,
    PATIENCE_S,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Connection,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    settings,
    sse_head,
    stream,
)

JSON = [("Content-Type", "application/json")]

ON_A_TERMINAL_OF_ITS_OWN = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.{})
os.execv(sys.executable, [sys.executable, "-m", "proxy", "--port", "0"])
"""


async def reload(proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path, **overrides: object) -> None:
    """Let a proxy that `start_proxy` has started serve by other settings."""
    base_url = str(overrides.pop("upstream__base_url", upstream.base_url))
    await proxy.app.reload(settings(base_url, tmp_path / "store", **overrides))


# What changes


async def test_the_next_request_is_answered_by_the_new_settings(
    proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path, log: Log
) -> None:
    """Mode, key, limits and pace: whatever a request meets; the log names what has changed."""
    upstream.will_send(plain(ANSWER))
    assert await words(proxy.ask(), proxy.ask()) == ["MISS", "HIT"]

    await reload(proxy, upstream, tmp_path, cache__mode="passthrough", server__max_body_size="1KiB")

    assert await word(proxy.ask()) == "BYPASS"
    assert (await proxy.ask(b" " * 1025)).status == 413
    line = await log.line(0, events.RELOADED)
    assert (line["level"], line["changed"]) == ("info", ["server.max_body_size", "cache.mode"])
    assert line["waiting_for_restart"] == []


async def test_a_new_upstream_is_asked_with_its_own_key(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Never with the key of the one before."""
    proxy = await start_proxy(upstream__api_key="sk-first")
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask())
    async with ScriptedUpstream() as second:
        second.will_send(plain(ANSWER))
        await reload(proxy, upstream, tmp_path, upstream__base_url=second.base_url, upstream__api_key="sk-second")

        assert await word(proxy.ask()) == "MISS"

        assert second.received[0].header("authorization") == ["Bearer sk-second"]
        assert upstream.received[0].header("authorization") == ["Bearer sk-first"]
        await proxy.app.stop(drain_s=0)


async def test_recordings_stay_where_the_name_of_the_upstream_stays(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The store is the same one, in memory and on disk."""
    proxy = await start_proxy(upstream__name="mine")
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask())

    await reload(
        proxy,
        upstream,
        tmp_path,
        upstream__base_url=NOWHERE,
        upstream__name="mine",
        cache__memory_limit=0,
    )

    assert await word(proxy.ask()) == "HIT"


async def under_way(proxy: Proxy, upstream: ScriptedUpstream) -> tuple[Response, Barrier]:
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD), chunk(DONE) + LAST_CHUNK)
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    return response, barrier


async def test_connections_that_are_open_go_by_the_new_settings_too(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """From their next request on."""
    proxy = await start_proxy()
    connection = await proxy.connect()
    connection.send(request_bytes("GET", "/healthz"))
    await (await connection.response()).body()

    await reload(proxy, upstream, tmp_path, server__read_timeout="50ms")
    connection.send(b"GET /healthz HTTP/1.1\r\nHo")

    assert (await connection.response()).status == 408


async def test_a_stream_under_way_goes_on_untouched(proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """By the settings that it was asked under, also when the upstream is another one now; and it can be joined."""
    response, barrier = await under_way(proxy, upstream)

    await reload(
        proxy,
        upstream,
        tmp_path,
        upstream__base_url=NOWHERE,
        upstream__name=upstream.base_url,
        cache__max_recording_size=1,
    )
    joined = await proxy.ask(STREAMED)
    barrier.release()

    assert [await response.body(), await joined.body()] == [WORLD + DONE, STREAM]
    assert joined.get("x-cache-status") == "JOINED"
    assert await word(proxy.ask(STREAMED)) == "HIT"


async def test_a_shorter_linger_is_for_what_is_asked_from_now_on(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A stream that was left is read on for as long as it was promised."""
    proxy = await start_proxy(cache__linger="10m")
    response, barrier = await under_way(proxy, upstream)
    await reload(proxy, upstream, tmp_path, cache__linger=0)
    await response.leave()
    await until(lambda: proxy.app._traffic.active == 0)
    barrier.release()
    await proxy.app._flights.settle()

    assert await word(proxy.ask(STREAMED)) == "HIT"


async def test_a_smaller_store_gives_way_at_once(proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """In memory right away, on disk with the next recording."""
    upstream.will_send(plain(ANSWER))
    await words(*(proxy.ask({**PROMPT, "seed": number}) for number in range(3)))
    await until(lambda: not store_of(proxy)._waiting)

    await reload(proxy, upstream, tmp_path, cache__memory_limit=0, cache__size_limit=1, cache__max_recording_size=1)

    assert await words(proxy.ask({**PROMPT, "seed": 2})) == ["HIT"]
    await word(proxy.ask({**PROMPT, "seed": 3}))


async def test_what_needs_a_restart_waits_for_one(
    proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path, log: Log
) -> None:
    """And is named in the log; the rest of the same file is in force."""
    elsewhere = tmp_path / "elsewhere"
    await proxy.app.reload(settings(upstream.base_url, elsewhere, server__port=1, cache__mode="replay"))

    assert (await proxy.ask()).status == 504
    assert not elsewhere.exists()
    line = await log.line(0, events.RELOADED)
    assert line["waiting_for_restart"] == ["server.port", "cache.directory"]
    assert line["changed"] == ["cache.mode"]


async def test_the_proxys_own_address_is_no_upstream(proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """It would ask itself for ever."""
    with pytest.raises(StartFailed):
        await reload(proxy, upstream, tmp_path, upstream__base_url=proxy.base_url, cache__mode="replay")

    upstream.will_send(plain(ANSWER))
    assert await word(proxy.ask()) == "MISS"


async def test_what_would_be_refused_at_the_start_is_refused_now(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The address stays until a restart, so a file that goes with another one would give strangers paid answers."""
    proxy = await start_proxy(server__host="0.0.0.0", cache__scope="credential")  # noqa: S104 - that is the point

    for overrides in ({"cache__scope": "shared"}, {"cache__scope": "credential", "upstream__api_key": "sk-mine"}):
        with pytest.raises(SettingsError, match="strangers"):
            await reload(proxy, upstream, tmp_path, **overrides)

    assert proxy.app._settings.cache.scope == "credential"


# The signal


@asynccontextmanager
async def serving(at: Path, text: str) -> AsyncIterator[tuple[Running, Connection]]:
    """A proxy with that `config.yaml`, and a connection to it."""
    (at / "config.yaml").write_text(text)
    async with running("--port", 0, at=at) as command:
        connection = await connect((await command.line()).removeprefix("export OPENAI_BASE_URL="))
        yield command, connection
        await connection.close()


async def ask(connection: Connection, asked: object = STREAMED) -> Response:
    connection.send(request_bytes("POST", CHAT, JSON, orjson.dumps(asked)))
    return await connection.response()


def config(upstream: ScriptedUpstream, mode: str, more: str = "") -> str:
    return f"upstream: {{base_url: {upstream.base_url}}}\ncache: {{mode: {mode}}}\n{more}"


async def test_a_hangup_reads_the_settings_anew(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Without a connection being closed; the log goes by them, too."""
    upstream.will_send(*stream())
    async with serving(tmp_path, config(upstream, "replay")) as (command, connection):
        assert (await (await ask(connection)).json())["error"]["code"] == "replay_miss"  # type: ignore[index]

        (tmp_path / "config.yaml").write_text(config(upstream, "cache", "log: {level: debug}\n"))
        command.send(signal.SIGHUP)
        reloaded = await command.logged(events.RELOADED)

        assert reloaded["changed"] == ["cache.mode", "log.level"]
        assert await (await ask(connection)).body() == STREAM
        connection.send(request_bytes("GET", "/healthz"))
        await (await connection.response()).body()
        assert (await command.logged(events.REQUEST, 2))["level"] == "debug"
        command.send(signal.SIGTERM)
        assert (await command.end()).code == 0


BAD = {
    "nothing": "",
    "an unknown key": "cache: {mdoe: cache}\n",
    "a wrong value": "cache: {mode: cache, ttl: soon}\n",
    "no YAML": "cache: [\n",
    "no file": None,
    "an exposure": "server: {host: 0.0.0.0}\ncache: {mode: cache}\n",
}


@pytest.mark.parametrize("what", BAD)
async def test_settings_that_are_wrong_change_nothing(what: str, tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """They are told in the log as `reprise check` tells them, and serving goes on; the next good ones are taken."""
    settings_file, text = tmp_path / "mine.yaml", BAD[what]
    settings_file.write_text(config(upstream, "replay"))
    upstream.will_send(*stream())
    async with running("--port", 0, "--config", settings_file, at=tmp_path) as command:
        connection = await connect((await command.line()).removeprefix("export OPENAI_BASE_URL="))
        if text is None:
            settings_file.unlink()
        else:
            settings_file.write_text(text)

        command.send(signal.SIGHUP)
        failed = await command.logged(events.RELOAD_FAILED)

        assert failed["level"] == "error"
        assert "mine.yaml" in failed["reason"]
        assert (await ask(connection)).status == 504
        assert upstream.requests_seen == 0
        settings_file.write_text(config(upstream, "cache"))
        command.send(signal.SIGHUP)
        await command.logged(events.RELOADED)
        again = await connect(f"http://127.0.0.1:{connection.writer.get_extra_info('peername')[1]}/v1")
        assert await (await ask(again)).body() == STREAM
        await again.close()
        await connection.close()


async def test_a_file_that_is_gone_is_not_one_that_says_nothing(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Also where nobody has named it: prompts that are meant for one upstream would go to another."""
    upstream.will_send(*stream())
    async with serving(tmp_path, config(upstream, "cache")) as (command, connection):
        (tmp_path / "config.yaml").unlink()
        command.send(signal.SIGHUP)
        failed = await command.logged(events.RELOAD_FAILED)

        assert "config.yaml" in failed["reason"]
        assert await (await ask(connection)).body() == STREAM


async def test_hangups_in_a_row_do_no_harm(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Also while a stream is under way, and during the drain, where they are no second signal to stop."""
    barrier = Barrier()
    upstream.will_send(sse_head() + chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    async with serving(tmp_path, config(upstream, "cache")) as (command, connection):
        response = await ask(connection)
        for _ in range(20):
            command.send(signal.SIGHUP)
        await command.logged(events.RELOADED)
        command.send(signal.SIGTERM)
        await command.logged(events.DRAINING)
        command.send(signal.SIGHUP)
        barrier.release()

        assert await response.body() == STREAM
        assert (await command.end()).code == 0


@asynccontextmanager
async def on_a_terminal(at: Path, script: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A proxy that a terminal controls, which is closed when it has said where it serves; and what it has said."""
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        cwd=at,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        async with asyncio.timeout(PATIENCE_S):
            shown = b""
            while b"to stop" not in shown:
                shown += await asyncio.to_thread(os.read, ours, 4096)
            os.close(ours)
            yield process, shown.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_terminal_that_is_closed_ends_the_proxy(tmp_path: Path, workers: int) -> None:
    """That is a SIGHUP, too, and nobody wants a server that he can't see any more."""
    (tmp_path / "config.yaml").write_text(f"server: {{workers: {workers}}}\n")
    async with on_a_terminal(tmp_path, ON_A_TERMINAL_OF_ITS_OWN.format("SIG_DFL")) as (process, _):
        assert await process.wait() == 0


async def test_a_proxy_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    """And takes a SIGHUP that somebody sends it for what it is."""
    async with on_a_terminal(tmp_path, ON_A_TERMINAL_OF_ITS_OWN.format("SIG_IGN")) as (process, shown):
        base_url = shown.partition("OPENAI_BASE_URL=")[2].split()[0]
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            connection = await connect(base_url)
            connection.send(request_bytes("GET", "/healthz"))
            assert (await connection.response()).status == 200
            await connection.close()
