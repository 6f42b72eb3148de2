"""Connections to the upstream: its name, TCP to one of its addresses, TLS where it is asked for.

The rule: all of it together takes no longer than `upstream.connect_timeout`.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from aiohappyeyeballs import AddrInfoType, pop_addr_infos_interleave, start_connection
from aiohttp.abc import ResolveResult
from yarl import URL

from proxy import faults
from proxy.config.addresses import is_address
from proxy.resolver import Resolver

_ANOTHER_ADDRESS_S = 0.25  # RFC 8305 section 5: when the next one is tried beside one that does not answer
_NAME_KNOWN_S = 10.0

_P = TypeVar("_P", bound=asyncio.Protocol)


def trust() -> ssl.SSLContext:
    """Whom the proxy believes: the system's authorities, or those that SSL_CERT_FILE names."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Dialler:
    """Makes connections to the one upstream."""

    def __init__(self, url: URL, timeout_s: float, context: ssl.SSLContext | None) -> None:
        """`context` for TLS, None without it."""
        assert url.raw_host is not None  # noqa: S101 - the settings have been looked at
        assert url.port is not None  # noqa: S101 - the settings have been looked at
        self._host, self._port = url.raw_host, url.port
        self._timeout_s = timeout_s
        self._context = context
        self._resolver = Resolver(timeout_s)
        self._addresses: list[AddrInfoType] = [_address(self._host, self._port)] if is_address(self._host) else []
        self._known_until_s = float("inf") if self._addresses else 0.0

    async def dial(self, protocol: Callable[[], _P]) -> _P:
        """A connection on which nothing has been sent.

        Raises:
            NoConnection: there is none, and why.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._connect(await self._look_up(), protocol)
        except TimeoutError as fault:
            raise faults.no_connection(faults.LATE if fault.errno is None else faults.REFUSED, fault) from fault
        except ssl.SSLCertVerificationError as fault:
            raise faults.no_connection(faults.UNTRUSTED, fault) from fault
        except ssl.SSLError as fault:
            raise faults.no_connection(faults.NO_TLS, fault) from fault
        except OSError as fault:
            raise faults.no_connection(faults.REFUSED, fault) from fault

    async def _look_up(self) -> list[AddrInfoType]:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._known_until_s:
            try:
                found = await self._resolver.resolve(self._host, self._port)
            except TimeoutError:
                raise
            except OSError as fault:
                raise faults.no_connection(faults.NAMELESS, fault) from fault
            self._addresses = [_address_found(each) for each in found]
            self._known_until_s = loop.time() + _NAME_KNOWN_S
        return list(self._addresses)

    async def _connect(self, addresses: list[AddrInfoType], protocol: Callable[[], _P]) -> _P:
        while True:
            try:
                return await self._connect_to_any(addresses, protocol)
            except OSError:
                pop_addr_infos_interleave(addresses, 1)
                if not addresses:
                    raise

    async def _connect_to_any(self, addresses: list[AddrInfoType], protocol: Callable[[], _P]) -> _P:
        sock = await start_connection(addresses, happy_eyeballs_delay=_ANOTHER_ADDRESS_S, interleave=1)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # the other side has reset it already
            sock.close()
            raise
        # A certificate names a host without the dot at its end.
        name = self._host.rstrip(".") if self._context is not None else None
        _, made = await asyncio.get_running_loop().create_connection(
            protocol, sock=sock, ssl=self._context, server_hostname=name
        )
        return made


def _address_found(found: ResolveResult) -> AddrInfoType:
    return _address(found["host"], found["port"])


def _address(host: str, port: int) -> AddrInfoType:
    if ":" in host:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))
