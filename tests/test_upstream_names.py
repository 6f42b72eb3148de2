"""The upstream's name: how long it is waited for, and what a look-up that hangs holds up, which is nothing."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from proxy.resolver import Resolver
from tests.commands import Running, connect, environment
from tests.conftest import StartProxy
from tests.harness import ANSWER, PATIENCE_S, STREAM, STREAMED, ScriptedUpstream, plain, request_bytes, stream
from tests.raw import ROUTES, refused

SLOW = "slow.test"

SERVE = f"""
import socket, sys, threading
from proxy.cli import main

real = socket.getaddrinfo

def getaddrinfo(host, *rest, **more):
    if host == {SLOW!r}:
        threading.Event().wait()
    return real(host, *rest, **more)

socket.getaddrinfo = getaddrinfo
sys.argv[1:] = ["serve", "--port", "0"]
main()
"""


class Names:
    """What the system says of the one name that it can't find in time."""

    def __init__(self) -> None:
        self.asked = 0
        self.found = Event()
        self.addresses: list[str] = ["127.0.0.1"]
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if host != SLOW:
            return self._real(host, port, *rest, **more)
        self.asked += 1
        self.found.wait()
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [answer for number in self.addresses for answer in self._real(number, port, type=socket.SOCK_STREAM)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr("socket.getaddrinfo", names.getaddrinfo)
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)  # the jitter that chance has drawn is none
    yield names
    names.found.set()


def named(upstream: ScriptedUpstream) -> str:
    return upstream.base_url.replace("127.0.0.1", SLOW)


@pytest.mark.parametrize("target", ROUTES)
async def test_a_name_that_is_not_found_in_time(
    target: str, start_proxy: StartProxy, upstream: ScriptedUpstream, names: Names
) -> None:
    """502 after `upstream.connect_timeout` a time, and one look-up for all who wait."""
    proxy = await start_proxy(upstream__base_url=named(upstream), upstream__connect_timeout="50ms")

    for response in await asyncio.gather(*(proxy.ask({**STREAMED, "n": n}, target) for n in range(5))):
        assert response.get("x-should-retry") is None
        await refused(response, 502, "upstream_unreachable", SLOW)

    assert (names.asked, upstream.connections_seen) == (1, 0)


async def test_a_name_that_is_found_late_is_found(
    start_proxy: StartProxy, upstream: ScriptedUpstream, names: Names
) -> None:
    """Whoever asks while it is looked up takes part in the same look-up; whoever asks afterwards is served."""
    upstream.will_send(*stream())
    proxy = await start_proxy(upstream__base_url=named(upstream), upstream__connect_timeout="50ms")
    await refused(await proxy.ask(STREAMED), 502, "upstream_unreachable", SLOW)
    names.found.set()

    assert await (await proxy.ask(STREAMED)).body() == STREAM
    assert names.asked <= 2


async def test_a_name_that_means_nothing_is_looked_up_three_times(
    start_proxy: StartProxy, upstream: ScriptedUpstream, names: Names
) -> None:
    """As a connection that can't be made is tried three times; then nobody needs to try again before it is mended."""
    names.addresses = []
    names.found.set()
    proxy = await start_proxy(upstream__base_url=named(upstream))

    response = await proxy.ask()

    assert response.get("x-should-retry") == "false"
    await refused(response, 502, "upstream_unreachable", SLOW)
    assert names.asked == 3


async def test_every_address_of_a_name_is_tried(
    start_proxy: StartProxy, upstream: ScriptedUpstream, names: Names
) -> None:
    """The first one refuses, as a server does that listens on one protocol only."""
    names.addresses = ["127.0.0.2", "127.0.0.1"]
    names.found.set()
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(upstream__base_url=named(upstream))

    assert await (await proxy.ask()).body() == ANSWER
    assert upstream.received[0].header("host") == [named(upstream).removeprefix("http://").removesuffix("/v1")]


async def test_an_address_of_one_interface_keeps_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of a local network may mean such an address, which says nothing by itself."""
    found = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 8080, 0, 7))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [found])

    (address,) = await Resolver(timeout_s=PATIENCE_S).resolve("machine.local", 8080)

    assert (address["host"], address["port"], address["family"]) == ("fe80::1%7", 8080, socket.AF_INET6)


async def test_a_look_up_that_hangs_takes_no_thread_of_others(
    start_proxy: StartProxy, upstream: ScriptedUpstream, names: Names
) -> None:
    """The store reads in those, and long answers are checked in them."""
    with ThreadPoolExecutor(1) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        proxy = await start_proxy(upstream__base_url=named(upstream), upstream__connect_timeout="50ms")
        await refused(await proxy.ask(), 502, "upstream_unreachable", SLOW)

        assert await asyncio.to_thread(lambda: names.asked) == 1
        names.found.set()


@asynccontextmanager
async def serving_a_name_that_hangs(at: Path) -> AsyncIterator[Running]:
    settings = {"upstream__base_url": f"http://{SLOW}/v1", "upstream__connect_timeout": "50ms"}
    out, err = asyncio.subprocess.PIPE, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, cwd=at, env=environment(**settings), stdout=out, stderr=err
    )
    command = Running(process)
    try:
        yield command
    finally:
        await command.kill()


async def test_a_look_up_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    """Told to end, it ends, and nobody waits for the name."""
    async with serving_a_name_that_hangs(tmp_path) as command:
        client = await connect((await command.line()).partition("=")[2])
        client.send(request_bytes("GET", "/v1/models"))
        await refused(await client.response(), 502, "upstream_unreachable", SLOW)
        await client.close()
        command.send(signal.SIGTERM)

        assert (await command.end()).code == 0
