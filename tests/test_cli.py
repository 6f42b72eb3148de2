"""The commands that run, check and explain: what they say, and how they end."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy import events
from tests.commands import Running, connect, environment, on_terminal, port_in_use, reprise, running
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    KEPT_SETTINGS,
    LAST_CHUNK,
    NOWHERE,
    PATIENCE_S,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    ScriptedUpstream,
    chunk,
    request_bytes,
    sse_head,
    stream,
)

EXPORT = "export OPENAI_BASE_URL="
JSON = [("Content-Type", "application/json")]


async def started(command: Running) -> str:
    """The base URL that the start line names."""
    line = await command.line()
    assert line.startswith(EXPORT), line
    return line.removeprefix(EXPORT)


# serve


@pytest.mark.parametrize("arguments", [(), ("serve",), ("--mode", "cache"), ("serve", "--host", "127.0.0.1")])
async def test_it_serves_and_says_nothing_on_stdout_but_where(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Also when no command is named; one line, so that a script can take it as it is."""
    async with running(*arguments, at=tmp_path, server__port=0) as command:
        connection = await connect(await started(command))
        connection.send(request_bytes("GET", "/healthz"))
        healthy = await connection.response()
        await connection.close()
        command.send(signal.SIGTERM)
        ended = await command.end()

    assert healthy.status == 200
    assert (ended.code, ended.out) == (0, "")


async def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """Port and upstream would be wrong twice over if it were otherwise."""
    upstream.will_send(*stream())
    settings = tmp_path / "mine.yaml"
    settings.write_text("server: {port: 70000}\nupstream: {base_url: http://127.0.0.1:9/v1}\n")
    arguments = ("serve", "--config", settings, "--port", 0)

    async with running(*arguments, at=tmp_path, upstream__base_url=upstream.base_url) as command:
        connection = await connect(await started(command))
        connection.send(request_bytes("POST", CHAT, JSON, orjson.dumps(STREAMED)))
        body = await (await connection.response()).body()
        await connection.close()

    assert body == STREAM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_streams_finish(tmp_path: Path, upstream: ScriptedUpstream, number: signal.Signals) -> None:
    """Nothing new is let in, what is under way gets to its clean end, is recorded, and the exit code is 0."""
    half_way = Barrier()
    upstream.will_send(sse_head() + chunk(HELLO), half_way, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)

    async with running("--port", 0, at=tmp_path, upstream__base_url=upstream.base_url) as command:
        base_url = await started(command)
        connection = await connect(base_url)
        connection.send(request_bytes("POST", CHAT, JSON, orjson.dumps(STREAMED)))
        response = await connection.response()
        assert await response.next_chunk() == HELLO

        command.send(number)
        await command.logged(events.DRAINING)
        with pytest.raises(ConnectionRefusedError):
            await connect(base_url)
        half_way.release()
        rest = await response.body()
        await connection.close()
        ended = await command.end()

    assert HELLO + rest == STREAM
    assert ended.code == 0
    assert "1 recording," in reprise("cache", "ls", at=tmp_path).out


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_second_signal_ends_it_now(
    tmp_path: Path, upstream: ScriptedUpstream, second: signal.Signals, code: int
) -> None:
    """A stream under way is broken off, not ended, and the exit code is that of a program ended by the signal."""
    never = Barrier()
    upstream.will_send(sse_head() + chunk(HELLO), never)
    settings = {"upstream__base_url": upstream.base_url, "server__drain_timeout": "1h"}

    async with running("--port", 0, at=tmp_path, **settings) as command:
        base_url = await started(command)
        connection = await connect(base_url)
        connection.send(request_bytes("POST", CHAT, JSON, orjson.dumps(STREAMED)))
        response = await connection.response()
        assert await response.next_chunk() == HELLO

        command.send(signal.SIGTERM)
        await command.logged(events.DRAINING)
        command.send(second)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await response.body()
        await connection.close()
        ended = await command.end()

    assert ended.code == code
    assert command.log(events.STOPPED)


WITHOUT = {
    "stdin": "os.close(0)",
    "stdout": "os.close(1)",
    "stderr": "os.close(2)",
    "a reader of stdout": "os.dup2(unread, 1)",
    "a reader of stderr": "os.dup2(unread, 2)",
}


@pytest.mark.parametrize("what", WITHOUT)
async def test_it_serves_on_when_nobody_reads_what_it_says(tmp_path: Path, what: str) -> None:
    """As after `| head -1`: no reason to stop, nor to fail at the end."""
    serve = "os.execv(sys.executable, [sys.executable, '-m', 'proxy', '--port', '0'])"
    script = f"import os, sys; reader, unread = os.pipe(); os.close(reader); {WITHOUT[what]}; {serve}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        cwd=tmp_path,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            said = (await process.stdout.readline()).decode()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", said)
        assert found, said
        connection = await connect(found[0])
        connection.send(request_bytes("GET", "/healthz"))
        healthy = await connection.response()
        await connection.close()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            rest, code = (await process.stdout.read()).decode(), await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert (healthy.status, code) == (200, 0)
    assert "Exception" not in rest


def test_serving_loads_nothing_that_only_other_commands_need() -> None:
    """What a server imports it waits for at each start."""
    script = "import sys, proxy.commands.serve; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, check=True, text=True)
    loaded = set(done.stdout.split())

    assert "proxy.gateway" in loaded
    assert not {"rich.progress", "proxy.simulator", "proxy.demo", "proxy.commands.cache"} & loaded


# Mistakes


def nothing(_: Path) -> None:
    pass


def bad_yaml(at: Path) -> None:
    (at / "config.yaml").write_text("server:\n  port: [\n")


def misspelled_key(at: Path) -> None:
    (at / "config.yaml").write_text("cache:\n  sope: shared\n")


def file_for_a_directory(at: Path) -> None:
    (at / ".reprise").touch()


def closed_directory(at: Path) -> None:
    (at / ".reprise").mkdir(mode=0)


def open_directory(at: Path) -> None:
    (at / ".reprise").mkdir()
    (at / ".reprise").chmod(0o777)


MISTAKES: list[tuple[Callable[[Path], None], tuple[str, ...], dict[str, Any], str]] = [
    (nothing, ("--config", "none.yaml"), {}, "--config: none.yaml: no such file or directory"),
    (nothing, (), {"config": "none.yaml"}, "REPRISE_CONFIG: none.yaml: no such file or directory"),
    (bad_yaml, (), {}, "config.yaml: line 3: not valid YAML"),
    (misspelled_key, (), {}, "config.yaml: cache.sope: unknown key; did you mean 'scope'?"),
    (nothing, (), {"server__port": "x"}, "REPRISE_SERVER__PORT: expected a whole number from 0 to 65535, got 'x'"),
    (nothing, (), {"server__hots": "x"}, "REPRISE_SERVER__HOTS: unknown key; did you mean 'REPRISE_SERVER__HOST'?"),
    (nothing, ("--mode", "cash"), {}, "--mode: expected cache, record, replay or passthrough, got 'cash'"),
    (nothing, ("--port", "70000"), {}, "--port: expected a whole number from 0 to 65535, got '70000'"),
    (nothing, ("--upstream", "api.openai.com"), {}, "--upstream: expected an http or https URL such as "),
    (nothing, ("--host", "192.0.2.1"), {}, "--host: 192.0.2.1 is not a loopback address, "),
    (nothing, ("--host", "no.such.host.invalid"), {"cache__scope": "credential"}, "Error: can't listen on no.such"),
    (nothing, ("serve", "now"), {}, "Usage: reprise serve "),
    (nothing, ("--prot", "1"), {}, "Usage: reprise serve "),
    (nothing, ("sevre",), {}, "Usage: reprise "),
    (file_for_a_directory, (), {}, "Error: cache.directory "),
    (closed_directory, (), {}, "Error: cache.directory "),
    (open_directory, (), {}, "Error: cache.directory "),
]


@pytest.mark.parametrize(("make", "arguments", "settings", "said"), MISTAKES)
def test_a_mistake_is_told_in_a_sentence(
    tmp_path: Path, make: Callable[[Path], None], arguments: tuple[str, ...], settings: dict[str, Any], said: str
) -> None:
    """On stderr, with exit code 2 and nothing on stdout."""
    make(tmp_path)

    ended = reprise(*arguments, at=tmp_path, **settings)

    assert ended.err.startswith(said)
    assert (ended.code, ended.out) == (2, "")


def test_a_port_in_use_is_a_mistake(tmp_path: Path) -> None:
    """Whoever started it twice is told so, and how to have two."""
    with port_in_use() as port:
        ended = reprise("--port", port, at=tmp_path)

    assert ended.err.startswith(f"Error: can't listen on 127.0.0.1 port {port}: ")
    assert "--port" in ended.err
    assert (ended.code, ended.out) == (2, "")


def test_the_proxys_own_address_is_no_upstream(tmp_path: Path) -> None:
    """It is what is left in OPENAI_BASE_URL by whoever used the proxy before, and a request would never end."""
    with port_in_use() as port:
        pass

    ended = reprise("--port", port, "--upstream", f"http://localhost:{port}/v1", at=tmp_path)

    assert "is the proxy's own address" in ended.err
    assert (ended.code, ended.out) == (2, "")


# The terminal


def test_on_a_terminal_the_start_says_what_is_served(tmp_path: Path) -> None:
    """Help for a person, and still something to copy and paste as it is."""
    arguments = ("--mode", "record", "--upstream", NOWHERE, "--port", 0)

    ended = on_terminal(*arguments, at=tmp_path, until="Ctrl-C", upstream__api_key="sk-CANARY", log__level="error")

    assert ended.lines[0].startswith(EXPORT)
    assert ended.lines[1:] == [
        "# mode record, recordings in .reprise",
        f"# upstream {NOWHERE}; Ctrl-C to stop",
    ]
    assert ended.code == 0


# check


def test_check_says_that_settings_are_valid_and_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not looked at, or a forgotten variable, is seen at once."""
    for name in KEPT_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.yaml").write_text("server: {port: 9000}\n")

    with_both = reprise("check", at=tmp_path, server__port=1, cache__mode="replay")
    (tmp_path / "config.yaml").unlink()
    with_none = reprise("check", at=tmp_path)

    assert with_both == (
        0,
        "The settings are valid.\nfile: config.yaml\nenvironment: REPRISE_CACHE__MODE, REPRISE_SERVER__PORT\n",
        "",
    )
    assert with_none == (0, "The settings are valid.\nfile: none\nenvironment: nothing\n", "")


def test_check_tells_of_all_mistakes_at_once(tmp_path: Path) -> None:
    """Of every source, a line each, nothing before it; with exit code 2."""
    misspelled_key(tmp_path)

    ended = reprise("check", at=tmp_path, server__port="x", cache__ttl="soon")

    assert sorted(ended.err.splitlines()) == [
        "REPRISE_CACHE__TTL: expected a duration such as 30s or 7d, got 'soon'",
        "REPRISE_SERVER__PORT: expected a whole number from 0 to 65535, got 'x'",
        "config.yaml: cache.sope: unknown key; did you mean 'scope'?",
    ]
    assert (ended.code, ended.out) == (2, "")


def test_output_that_can_not_be_written_is_no_crash(tmp_path: Path) -> None:
    """A disk that is full, say: the exit code is 1, and the reason is told once."""
    script = 'ulimit -f 0; exec "$0" -m proxy check > out'
    command = ["sh", "-c", script, sys.executable]

    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False, text=True)

    assert done.stderr == "Error: [Errno 27] File too large\n"
    assert done.returncode == 1


def test_check_misses_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It was named, so the defaults will not do in its place."""
    ended = reprise("check", "--config", "none.yaml", at=tmp_path)

    assert ended == (2, "", "--config: none.yaml: no such file or directory\n")


# simulate


async def test_simulate_prints_its_address_and_answers_there(tmp_path: Path) -> None:
    """A test double for any client; it needs no key, and ends without a fuss."""
    at_once = ("--first-byte", "0", "--gap", "0ms", "--tokens", 3)

    async with running("simulate", "--port", 0, *at_once, at=tmp_path) as command:
        connection = await connect(await command.line())
        connection.send(request_bytes("POST", CHAT, JSON, orjson.dumps(PROMPT)))
        answer = await (await connection.response()).json()
        await connection.close()
        command.send(signal.SIGINT)
        ended = await command.end()

    assert answer["usage"] == {**answer["usage"], "completion_tokens": 3}  # type: ignore[dict-item]  # JSON is anything
    assert ended == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--first-byte", "soon"), "expected a duration such as 30s or 7d, got 'soon'"),
        (("--gap", "-1s"), "expected a duration such as 30s or 7d, got '-1s'"),
        (("--tokens", "0"), "0 is not in the range x>=1"),
        (("--port", "x"), "'x' is not a valid integer range"),
        (("--host", "no.such.host.invalid"), "can't listen on no.such.host.invalid port 8081: "),
    ],
)
def test_simulate_tells_of_a_mistake(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """On stderr, with exit code 2."""
    ended = reprise("simulate", *arguments, at=tmp_path)

    assert said in ended.err
    assert (ended.code, ended.out) == (2, "")


def test_simulate_tells_of_a_port_in_use(tmp_path: Path) -> None:
    """And how to choose another."""
    with port_in_use() as port:
        ended = reprise("simulate", "--port", port, at=tmp_path)

    assert ended.err.startswith(f"Error: can't listen on 127.0.0.1 port {port}: ")
    assert ended.code == 2


# Others


def test_help_names_every_command(tmp_path: Path) -> None:
    """Each with a line on what it does."""
    ended = reprise("--help", at=tmp_path)

    described = dict(line.split(maxsplit=1) for line in ended.out.partition("Commands:\n")[2].splitlines())
    assert list(described) == ["serve", "demo", "simulate", "check", "cache", "explain"]
    assert ended.code == 0


def test_version_is_that_of_the_distribution(tmp_path: Path) -> None:
    """The one of `pyproject.toml`; there is none where it was not installed."""
    ended = reprise("--version", at=tmp_path)

    assert ended.out.startswith("reprise ")
    assert ended.code == 0
