"""An upstream whose answer is a function of the request, so that every byte that a proxy sends can be checked.

The rule: it never answers the same question differently.
"""

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from hashlib import shake_128
from pathlib import Path
from typing import Self

import orjson

from tests.commands import Running, connect, environment
from tests.harness import CHAT, DONE, LAST_CHUNK, PATIENCE_S, chunk, end_serving, event, plain, request_bytes, sse_head
from tests.warm import AS_AN_ORDINARY_USER

EXPORT = "export OPENAI_BASE_URL="
_SIZES = (1_000, 5_000, 30_000, 200_000, 1_000_000)


def question(number: int) -> dict[str, object]:
    """The n-th one; every other asks for a stream."""
    return {"model": "m", "messages": [{"role": "user", "content": f"{number}"}], "stream": number % 2 == 1}


def answer(number: int, size_bytes: int | None = None) -> bytes:
    """The body of the answer to the n-th question: noise, so that it takes about as much on disk."""
    size = size_bytes or random.Random(number).choice(_SIZES)  # noqa: S311 - it must be the same each time
    text = shake_128(b"%d" % number).hexdigest(size // 2)
    if number % 2:
        return b"".join((event(text[: size // 3]), event(text[size // 3 :], "stop"), DONE))
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return orjson.dumps({"object": "chat.completion", "choices": [choice]})


class Oracle:
    """The upstream on a socket."""

    def __init__(self, size_bytes: int | None = None) -> None:
        """`size_bytes`: of every answer; about 1 kB to 1 MB if it is not given."""
        self.size_bytes = size_bytes
        self.requests_seen = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_serving(self._server, self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._answer(reader, writer)
        except asyncio.CancelledError:
            return  # the end of the test
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        asked = orjson.loads(await reader.readexactly(length))
        self.requests_seen += 1
        body = answer(int(asked["messages"][0]["content"]), self.size_bytes)
        if asked["stream"]:
            half = len(body) // 2
            writer.write(sse_head() + chunk(body[:half]))
            await writer.drain()
            writer.write(chunk(body[half:]) + LAST_CHUNK)
        else:
            writer.write(plain(body))
        await writer.drain()


class Served:
    """A proxy process in front of an oracle."""

    def __init__(self, command: Running, base_url: str, oracle: Oracle) -> None:
        self.command = command
        self.base_url = base_url
        self._oracle = oracle

    @property
    def pid(self) -> int:
        return self.command._process.pid

    async def ask(self, number: int) -> str:
        """Ask the n-th question; what `X-Cache-Status` says of an answer that is the oracle's, byte for byte."""
        connection = await connect(self.base_url)
        try:
            fields = [("Content-Type", "application/json")]
            connection.send(request_bytes("POST", CHAT, fields, orjson.dumps(question(number))))
            response = await connection.response()
            body = await response.body()
        finally:
            await connection.close()
        assert response.status == 200
        assert body == answer(number, self._oracle.size_bytes), f"a wrong answer to {number}"
        word = response.get("x-cache-status")
        assert word is not None
        return word

    async def words(self, *numbers: int) -> list[str]:
        """The same for several, all at once."""
        return await asyncio.gather(*(self.ask(number) for number in numbers))

    async def ready(self) -> int:
        """The status of `/readyz`."""
        connection = await connect(self.base_url)
        connection.send(request_bytes("GET", "/readyz"))
        response = await connection.response()
        await connection.close()
        return response.status

    def failures(self) -> list[str]:
        """What the log says has failed, line by line."""
        return [line["what"] for line in self.command.log("store_failed")]

    def recoveries(self) -> list[str]:
        return [line["what"] for line in self.command.log("store_recovered")]


@asynccontextmanager
async def serving(oracle: Oracle, at: Path, **settings: object) -> AsyncIterator[Served]:
    """A proxy process with the rights of an ordinary user; its store is the directory `store` there."""
    given = {"server__port": 0, "upstream__base_url": oracle.base_url, "cache__directory": at / "store", **settings}
    process = await asyncio.create_subprocess_exec(
        *AS_AN_ORDINARY_USER,
        "proxy",
        cwd=at,
        env=environment(**given),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    command = Running(process)
    try:
        line = await command.line()
        assert line.startswith(EXPORT), (line, await command.end())
        yield Served(command, line.removeprefix(EXPORT), oracle)
    finally:
        await command.kill()


def keys_on_disk(at: Path) -> set[str]:
    """The keys of what has been written to the store there, as another process sees it."""
    uri = f"{(at / 'store' / 'cache.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_S)) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM Cache")}


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until another process has brought something about."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
