"""Where the proxy listens: every address of a host, on one port."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from proxy.listening import listen
from tests.commands import port_in_use

Resolve = Callable[..., None]

HAS_IPV6 = False
with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
    HAS_IPV6 = True
ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="there is no ::1 on this machine")

IPV4, IPV6 = (socket.AF_INET, ("127.0.0.1",)), (socket.AF_INET6, ("::1",))
ELSEWHERE = (socket.AF_INET, ("192.0.2.1",))  # RFC 5737: nobody has it
ELSEWHERE_IPV6 = (socket.AF_INET6, ("2001:db8::1",))  # RFC 3849


@pytest.fixture
def name_is(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """A function that says what addresses the name has."""

    def resolve(*places: tuple[int, tuple[str]]) -> None:
        def look_up(_host: str, port: int, *_: Any) -> list[Any]:
            return [(family, socket.SOCK_STREAM, 6, "", (*address, port)) for family, address in places]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return resolve


@contextmanager
def closed_at_the_end(listeners: list[socket.socket]) -> Iterator[list[Any]]:
    """The addresses that these sockets have."""
    try:
        yield [listener.getsockname() for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


@ipv6
async def test_all_addresses_of_a_name_have_one_port(name_is: Resolve) -> None:
    """`localhost` is two on most machines, and 0 picks one port for both."""
    name_is(IPV6, IPV4)

    with closed_at_the_end(await listen("localhost", 0)) as addresses:
        hosts, ports = zip(*(address[:2] for address in addresses), strict=True)
        assert hosts == ("::1", "127.0.0.1")
        assert len(set(ports)) == 1
        for address in addresses:
            await asyncio.to_thread(socket.create_connection(address[:2]).close)


@ipv6
async def test_a_port_that_is_free_at_one_address_only_is_given_back(
    name_is: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another is tried; and nothing listens at the first address any more on the port that was no good."""
    name_is(IPV4, IPV6)
    create_server, made = socket.create_server, list[Any]()

    def note(address: tuple[Any, ...], **settings: Any) -> socket.socket:
        made.append(address[:2])
        if len(made) == 2:
            raise OSError(errno.EADDRINUSE, "taken meanwhile")
        return create_server(address, **settings)

    monkeypatch.setattr(socket, "create_server", note)
    with closed_at_the_end(await listen("localhost", 0)) as addresses:
        assert [host for host, _ in made] == ["127.0.0.1", "::1"] * 2
        assert len({address[1] for address in addresses}) == 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", made[1][1]))


@pytest.mark.parametrize("absent", [ELSEWHERE, ELSEWHERE_IPV6])
async def test_an_address_that_this_machine_does_not_have_is_left_out(absent: Any, name_is: Resolve) -> None:
    """`localhost` is said to be `::1` also where there is no IPv6."""
    name_is(absent, IPV4)

    with closed_at_the_end(await listen("localhost", 0)) as addresses:
        assert [host for host, _ in addresses] == ["127.0.0.1"]


async def test_a_name_that_is_all_elsewhere_is_an_error() -> None:
    """There is nothing to listen on."""
    with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)) as caught:
        await listen("192.0.2.1", 0)

    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    """Where it was asked for, no other one will do."""
    in_use = os.strerror(errno.EADDRINUSE)
    with port_in_use() as port, pytest.raises(OSError, match=in_use) as caught:
        await listen("127.0.0.1", port)

    assert caught.value.errno == errno.EADDRINUSE


async def test_a_name_given_twice_is_listened_at_once(name_is: Resolve) -> None:
    """The resolver lists an address for each line of the hosts file."""
    name_is(IPV4, IPV4)

    with closed_at_the_end(await listen("localhost", 0)) as addresses:
        assert len(addresses) == 1


async def test_a_port_can_be_had_again_at_once() -> None:
    """A proxy that is started anew does not wait for connections of the one before to time out (SO_REUSEADDR)."""
    with closed_at_the_end(await listen("127.0.0.1", 0)) as addresses:
        client = socket.create_connection(addresses[0])
        await asyncio.sleep(0)
    with closing(client), closed_at_the_end(await listen(*addresses[0])) as again:
        assert again == addresses
