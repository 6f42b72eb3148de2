"""What aiohttp says of an upstream that failed, in our own errors.

The rule: whose fault it was is told apart here, and the message says what to do about it.
"""

import errno

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


def unreachable(fault: aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) -> RepriseError:
    """No connection could be made."""
    if _is_ours(fault):
        return Overloaded("The proxy has no file descriptor left for a connection to the upstream. Ask again.")
    match fault:
        case aiohttp.ConnectionTimeoutError():
            what = "no connection, or no address for its name, within upstream.connect_timeout"
        case aiohttp.ClientConnectorDNSError():
            what = "its name can't be resolved"
        case aiohttp.ClientConnectorCertificateError():
            what = "its certificate is expired, for another name, or of an unknown authority (SSL_CERT_FILE names one)"
        case aiohttp.ClientSSLError():
            what = "the TLS handshake failed"
        case aiohttp.ClientConnectorError():
            what = "the connection was refused or failed"
    lasting = isinstance(fault, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError)
    return UpstreamUnreachable(
        f"The upstream can't be reached: {what}. Check upstream.base_url, and that the upstream is up.", lasting=lasting
    )


def before_head(fault: aiohttp.ClientError | OSError) -> RepriseError:
    """There was a connection, and no head came of it."""
    if isinstance(fault.__cause__, RepriseError):  # the client's body broke off while it was passed on
        return fault.__cause__
    match fault:
        case aiohttp.ServerTimeoutError():
            return UpstreamTimeout(
                "The upstream sent no response head within upstream.first_byte_timeout. Ask again, or raise it."
            )
        case aiohttp.ClientResponseError():
            return UpstreamInvalidResponse(
                "The upstream's answer is not valid HTTP. Check that upstream.base_url names an OpenAI-compatible API."
            )
        case _:
            return UpstreamUnreachable(
                "The upstream closed the connection before it answered. The request may have arrived, so it was not "
                "sent again."
            )


def broken(fault: Exception) -> UpstreamBroken:
    """A body did not come to its end."""
    if isinstance(fault, aiohttp.ServerTimeoutError):
        return UpstreamBroken("the upstream fell silent for upstream.idle_timeout")
    return UpstreamBroken(f"the upstream's body broke off ({type(fault).__name__})")


def _is_ours(fault: Exception) -> bool:
    # A name is looked up by way of a file or a socket, too, and that error stands behind aiohttp's.
    errors = (fault, fault.__cause__, fault.__context__, getattr(fault, "os_error", None))
    return any(isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS for error in errors)
