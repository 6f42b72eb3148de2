"""Addresses in the settings: where to listen, whom to ask, and which pages may call.

The rule: an address has one spelling, since it is compared, and made part of keys, byte for byte. What is refused is
refused with a sentence as in `config/values.py`.
"""

import re
from ipaddress import ip_address, ip_network
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator

_LOOPBACK = ip_network("127.0.0.0/8")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_WEB_ADDRESS = re.compile(r"(?ai)(https?)://(\[[^\]]+\]|[^/:\[\]]+)(?::([0-9]{1,5}))?(|/[!-\[\]-~]*)")
_DEFAULT_PORT = {"http": 80, "https": 443}
_LARGEST_PORT = 65_535


class _WebAddress(NamedTuple):
    origin: str
    path: str


def is_address(host: str) -> bool:
    """Whether it is an IP address, of either version and without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_host(text: str) -> bool:
    """Whether it is an IP address or could be the name of a host; an empty one would listen on every interface."""
    return is_address(text) or bool(_HOST_NAME.fullmatch(text))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`: 127.0.0.0/8, `::1` or `localhost`."""
    if not is_address(host):
        return host.lower() == "localhost"
    return ip_address(host) in _LOOPBACK or ip_address(host) == ip_address("::1")


def _host(value: object) -> str:
    if not isinstance(value, str) or not is_host(value):
        raise ValueError("expected a host name or an IP address such as 127.0.0.1")
    return value


def _base_url(value: object) -> str:
    text = value.rstrip("/") if isinstance(value, str) else ""
    if "@" in text:
        raise ValueError("expected a URL without a user name or password; a key belongs in upstream.api_key")
    if "?" in text or "#" in text:
        raise ValueError("expected a URL without a query or fragment")
    address = _web_address(text)
    if address is None:
        raise ValueError("expected an http or https URL such as https://api.openai.com/v1")
    return address.origin + address.path


def _origin(value: object) -> str:
    address = _web_address(value) if isinstance(value, str) else None
    if value != "*" and (address is None or address.path):
        raise ValueError("expected an origin such as https://app.example.com, without a path, or *")
    return address.origin if address else "*"


def _web_address(text: str) -> _WebAddress | None:
    """Origin and path as a browser would write the origin: lower case, no default port. None if it is no such URL."""
    match = _WEB_ADDRESS.fullmatch(text)
    if match is None or not _is_url_host(match[2]):
        return None
    scheme, host = match[1].lower(), match[2].lower()
    port = int(match[3] or _DEFAULT_PORT[scheme])
    if not 0 < port <= _LARGEST_PORT:
        return None
    return _WebAddress(f"{scheme}://{host}" + (f":{port}" if port != _DEFAULT_PORT[scheme] else ""), match[4])


def _is_url_host(host: str) -> bool:
    if host.startswith("["):
        return ":" in host and is_address(host[1:-1])
    return bool(_HOST_NAME.fullmatch(host))


Host = Annotated[str, BeforeValidator(_host)]
BaseUrl = Annotated[str, BeforeValidator(_base_url)]
"""An http or https URL without credentials, query, fragment or a slash at its end."""
Origin = Annotated[str, BeforeValidator(_origin)]
"""What a browser sends as `Origin`, or `*`."""
