"""Sockets that listen where the settings say.

The rule: all addresses of one host have the same port, so that there is one URL to tell.
"""

import asyncio
import errno
import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

_BACKLOG = 1024  # connections that wait to be accepted; the kernel may allow fewer
_PORT_ATTEMPTS = 10  # to find a port that is free at every address
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # ::1, where localhost is said to be that and there is no IPv6

_QUESTION: Mapping[str, int] = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}

Place = tuple[int, tuple[Any, ...]]
"""Address family, and address."""


async def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address that a host has on this machine, which doesn't block; `port` 0 picks a free one.

    Raises:
        OSError: an address can't be had, or the name is not known.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, **_QUESTION)
    return _listen_on_one_port(found, port)


def listen_without_a_loop(host: str, port: int) -> list[socket.socket]:
    """The same for who has no event loop, and waits for the look-up of a name."""
    return _listen_on_one_port(socket.getaddrinfo(host, port, **_QUESTION), port)


def _listen_on_one_port(found: Iterable[tuple[Any, ...]], port: int) -> list[socket.socket]:
    places = dict.fromkeys((family, address) for family, _, _, _, address in found)
    attempts = 1
    while True:
        try:
            return _listen_at(places)
        except OSError as error:
            # The port that was free at the first address is taken at another one.
            if port or error.errno != errno.EADDRINUSE or attempts == _PORT_ATTEMPTS:
                raise
            attempts += 1


def _listen_at(places: Iterable[Place]) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    with ExitStack() as opened:
        for family, (number, port, *rest) in places:
            same_port = listeners[0].getsockname()[1] if listeners else port
            try:
                listener = socket.create_server((number, same_port, *rest), family=family, backlog=_BACKLOG)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
                continue
            listener.settimeout(0)
            listeners.append(opened.enter_context(listener))
        if absent is not None and not listeners:
            raise absent
        opened.pop_all()
    return listeners
