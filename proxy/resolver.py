"""The upstream's name: looked up in a thread of its own, and waited for as long as for a connection.

The rule: a look-up that hangs holds nothing else up, neither other threads' work nor the end of the process.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

Addresses = Sequence[tuple[int, int, int, str, tuple[Any, ...]]]


class Resolver(AbstractResolver):
    """Asks the system: hosts file, DNS, and whatever else is set up there.

    aiohttp's own waits without a bound; and the threads that it takes, of asyncio or of libuv, are few, are there for
    others too, and are waited for when the process ends.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lookup: Future[Addresses] | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of the one upstream.

        Raises:
            TimeoutError: there is no answer yet; who asks again waits for the same one.
            OSError: there is no such name.
        """
        if self._lookup is None or self._lookup.done():
            self._lookup = _look_up(host, port, family)
        async with asyncio.timeout(self._timeout_s):
            addresses = await asyncio.wrap_future(self._lookup)
        return [_result(host, socket.AddressFamily(found), address) for found, _, _, _, address in addresses]

    async def close(self) -> None:
        """Nothing: nobody waits for the thread."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> Future[Addresses]:
    lookup: Future[Addresses] = Future()
    lookup.set_running_or_notify_cancel()  # one who has given up must not cancel it for the others

    def run() -> None:
        try:
            kind, flags = socket.SOCK_STREAM, socket.AI_ADDRCONFIG
            lookup.set_result(socket.getaddrinfo(host, port, family=family, type=kind, flags=flags))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for those who wait
            lookup.set_exception(error)

    Thread(target=run, name="resolver", daemon=True).start()
    return lookup


def _result(host: str, family: socket.AddressFamily, address: tuple[Any, ...]) -> ResolveResult:
    number, port, *rest = address
    if rest and rest[1]:  # the interface that a link-local address belongs to
        number = f"{number}%{rest[1]}"
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=number, port=port, family=family, proto=0, flags=flags)
