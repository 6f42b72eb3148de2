"""What is said of an upstream that failed, whichever way it was asked, in our own errors.

The rule: whose fault it was is told apart here, and the message says what to do about it.
"""

import errno
from typing import NamedTuple

import aiohttp

from proxy.errors import (
    Overloaded,
    RepriseError,
    UpstreamBroken,
    UpstreamInvalidResponse,
    UpstreamTimeout,
    UpstreamUnreachable,
)

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Lack(NamedTuple):
    """Why there is no connection."""

    what: str
    is_lasting: bool = False
    """A fault of the settings: the client need not try again before it is mended."""
    is_hopeless: bool = False
    """Another attempt of ours would fail as well."""


LATE = Lack("no connection, or no address for its name, within upstream.connect_timeout")
NAMELESS = Lack("its name can't be resolved", is_lasting=True)
UNTRUSTED = Lack(
    "its certificate is expired, for another name, or of an unknown authority (SSL_CERT_FILE names one)",
    is_lasting=True,
    is_hopeless=True,
)
NO_TLS = Lack("the TLS handshake failed", is_lasting=True, is_hopeless=True)
REFUSED = Lack("the connection was refused or failed")


class NoConnection(Exception):
    """Nothing has been sent."""

    def __init__(self, error: RepriseError, *, is_hopeless: bool) -> None:
        """`error` is what the client is told in the end."""
        super().__init__(error.message)
        self.error = error
        self.is_hopeless = is_hopeless


def no_connection(why: Lack, fault: Exception) -> NoConnection:
    """No connection could be made."""
    error: RepriseError
    if _is_ours(fault):
        error = Overloaded("The proxy has no file descriptor left for a connection to the upstream. Ask again.")
    else:
        error = UpstreamUnreachable(
            f"The upstream can't be reached: {why.what}. Check upstream.base_url, and that the upstream is up.",
            lasting=why.is_lasting,
        )
    return NoConnection(error, is_hopeless=why.is_hopeless)


def no_connection_of_aiohttp(fault: aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) -> NoConnection:
    """The same, as aiohttp says it."""
    match fault:
        case aiohttp.ConnectionTimeoutError():
            why = LATE
        case aiohttp.ClientConnectorDNSError():
            why = NAMELESS
        case aiohttp.ClientConnectorCertificateError():
            why = UNTRUSTED
        case aiohttp.ClientSSLError():
            why = NO_TLS
        case _:
            why = REFUSED
    return no_connection(why, fault)


def no_head_in_time() -> RepriseError:
    return UpstreamTimeout(
        "The upstream sent no response head within upstream.first_byte_timeout. Ask again, or raise it."
    )


def not_http() -> RepriseError:
    return UpstreamInvalidResponse(
        "The upstream's answer is not valid HTTP. Check that upstream.base_url names an OpenAI-compatible API."
    )


def not_sendable() -> RepriseError:
    return UpstreamInvalidResponse("The upstream's answer has a status line or headers that can't be passed on safely.")


def closed_before_head() -> RepriseError:
    return UpstreamUnreachable(
        "The upstream closed the connection before it answered. The request may have arrived, so it was not sent again."
    )


def before_head(fault: aiohttp.ClientError | OSError) -> RepriseError:
    """There was a connection of aiohttp's, and no head came of it."""
    if isinstance(fault.__cause__, RepriseError):  # the client's body broke off while it was passed on
        return fault.__cause__
    match fault:
        case aiohttp.ServerTimeoutError():
            return no_head_in_time()
        case aiohttp.ClientResponseError():
            return not_http()
        case _:
            return closed_before_head()


def silent() -> UpstreamBroken:
    """A body did not come to its end, and nothing else came either."""
    return UpstreamBroken("the upstream fell silent for upstream.idle_timeout")


def body_broken(how: str) -> UpstreamBroken:
    """A body did not come to its end."""
    return UpstreamBroken(f"the upstream's body broke off ({how})")


def broken(fault: Exception) -> UpstreamBroken:
    """The same, as aiohttp says it."""
    return silent() if isinstance(fault, aiohttp.ServerTimeoutError) else body_broken(type(fault).__name__)


def _is_ours(fault: Exception) -> bool:
    # A name is looked up by way of a file or a socket, too, and that error stands behind the one that is told.
    errors = (fault, fault.__cause__, fault.__context__, getattr(fault, "os_error", None))
    return any(isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS for error in errors)
