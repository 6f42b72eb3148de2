"""Hosts, base URLs and origins: what they become, and which are refused."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import load
from proxy.config.addresses import is_loopback
from tests.settings import problem, read


@pytest.fixture(autouse=True)
def _no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("http://localhost:11434/v1/", "http://localhost:11434/v1"),
        ("HTTPS://API.Example.com:443/Path//", "https://api.example.com/Path"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://my_host", "http://my_host"),
    ],
)
def test_a_base_url_has_one_spelling(written: str, read_as: str) -> None:
    """It is part of every key unless the upstream has a name, and a path is put behind it."""
    settings = load(None, {"upstream.base_url": written}, {})

    assert settings.upstream.base_url == read_as
    assert settings.upstream.name == read_as


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.openai.com/v1",
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http://:80",
        "http://host:0",
        "http://host:65536",
        "http://host:port",
        "http://ho st",
        "http://host/a b",
        "http://host\\v1",
        "http://[::g]",
        "http://[1.2.3.4]",
        "http://a..b",
        f"http://{'a' * 64}.com",
        "http\u017f://host",
        "http://::1",
        "http://-host",
        "http://höst",
        "http://host/v1\n",
    ],
)
def test_a_base_url_that_could_not_be_asked_is_refused(text: str) -> None:
    """At the start rather than at the first request."""
    message = "--upstream: expected an http or https URL such as https://api.openai.com/v1, got "
    assert problem("upstream.base_url", text).startswith(message)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("https://App.example.com", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("*", "*"),
    ],
)
def test_an_origin_is_spelled_as_browsers_send_it(written: str, read_as: str) -> None:
    """It is compared byte for byte."""
    assert read("server.cors_origins", [written]) == (read_as,)


@pytest.mark.parametrize("text", ["app.example.com", "https://a.com/", "https://a.com/x", "https://*.a.com", "null"])
def test_an_origin_that_no_browser_sends_is_refused(text: str) -> None:
    """It would never match."""
    wanted = f"expected an origin such as https://app.example.com, without a path, or *, got '{text}'"
    assert problem("server.cors_origins", text) == f"server.cors_origins: {wanted}"


@given(address=st.ip_addresses().map(str))
def test_loopback_is_what_only_this_machine_can_reach(address: str) -> None:
    """127.0.0.0/8 and ::1 among all addresses."""
    assert is_loopback(address) == (address.startswith("127.") or address == "::1")


@given(last=st.integers(0, 2**24 - 1))
def test_all_of_127_is_loopback(last: int) -> None:
    """Not 127.0.0.1 alone."""
    assert is_loopback(str(IPv4Address("127.0.0.0") + last))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.1", "localhost.example.com", "127.0.0.1.example.com", ""])  # noqa: S104 - none is bound
def test_what_only_looks_like_loopback_is_none(host: str) -> None:
    """In doubt it can be reached from elsewhere."""
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["::1", "localhost", "LocalHost"])
def test_loopback_has_other_names(host: str) -> None:
    """One address of IPv6, and a name in any case."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "localhost"])
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    """An IPv6 address stands without brackets."""
    assert read("server.host", host) == host


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "http://localhost", "[::1]", "local host", "-x", "", 0])
def test_a_host_is_nothing_else(host: object) -> None:
    """The port has a key of its own, and an empty host would listen on every interface."""
    message = "--host: expected a host name or an IP address such as 127.0.0.1, got "
    assert problem("server.host", host).startswith(message)
