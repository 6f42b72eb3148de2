"""`reprise demo`: the ways to an answer side by side, and a proxy to try."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from proxy import events
from tests.commands import connect, on_terminal, port_in_use, reprise, running
from tests.harness import CHAT, request_bytes

ROW = re.compile(r"(.*?)  +(MISS|JOINED|HIT)  +([0-9.]+ m?s)  +([0-9.]+ m?s)  +([0-9,]+)  ([0-9a-f]{12}) *")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the demonstration's recordings are put for as long as it lasts: nothing of it is left behind."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    yield
    assert list(directory.iterdir()) == []


def test_it_shows_a_miss_a_joined_stream_and_hits(tmp_path: Path) -> None:
    """The bytes are the same each time, the upstream saw one request."""
    (tmp_path / "config.yaml").write_text("server: {port: nonsense that the demonstration does not look at}\n")

    ended = reprise("demo", "--once", at=tmp_path)

    rows = [found.groups() for found in map(ROW.fullmatch, ended.lines) if found]
    assert [row[1] for row in rows] == ["MISS", "JOINED", "HIT", "HIT"]
    assert len({row[4:] for row in rows}) == 1
    assert re.fullmatch(
        r"The same bytes each time\. The upstream saw 1 request; saved: [1-9][0-9]* tokens and [0-9.]+ s of the "
        r"upstream's time\.",
        ended.lines[-1],
    )
    assert (ended.code, ended.err) == (0, "")


async def test_it_goes_on_as_a_proxy_to_try(tmp_path: Path) -> None:
    """What it says to try works as it stands; the log begins where the table ends; a signal ends it all."""
    async with running("demo", at=tmp_path) as command:
        lines = await command.lines_until("      print(")
        line = next(line for line in lines if "curl -N" in line)
        body = lines[lines.index(line) + 1].strip().removeprefix("-d '").removesuffix("'")
        base_url = line.split()[2].removesuffix("/chat/completions")
        asked = request_bytes("POST", CHAT, [("Content-Type", "application/json")], body.encode())

        connection = await connect(base_url)
        words = []
        for _ in range(2):
            connection.send(asked)
            response = await connection.response()
            await response.body()
            words.append(response.get("x-cache-status"))
        await connection.close()
        first = await command.logged(events.REQUEST)
        command.send(signal.SIGTERM)
        ended = await command.end()

    assert orjson.loads(body)["stream"] is True
    assert words == ["MISS", "HIT"]
    assert first["cache"] == "MISS"
    assert command.log(events.STARTED) == []
    assert ended.code == 0


def test_an_interrupt_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    """And shows no traceback."""
    ended = on_terminal("demo", at=tmp_path, until="asked four times")

    assert ended.code == 0


def test_a_port_in_use_is_a_mistake(tmp_path: Path) -> None:
    """It is told in a sentence, and what has been started is ended."""
    with port_in_use() as port:
        ended = reprise("demo", "--port", port, at=tmp_path)

    assert ended.err.startswith(f"Error: can't listen on 127.0.0.1 port {port}: ")
    assert (ended.code, ended.out) == (2, "")
