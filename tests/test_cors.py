"""What a page of another origin may do."""

import pytest

from proxy.cors import Cors
from proxy.recording import Head, Headers

PAGE = b"https://app.example.com"
ORIGINS = ["http://localhost:3000", PAGE.decode()]


def preflight(*more: tuple[bytes, bytes], origin: bytes = PAGE) -> Headers:
    return ((b"Origin", origin), (b"Access-Control-Request-Method", b"POST"), *more)


@pytest.mark.parametrize("origin", [PAGE, None, b"null", b"*"])
def test_without_origins_nothing_is_added_and_nothing_answered(origin: bytes | None) -> None:
    """CORS is off unless it is asked for."""
    cors = Cors([])

    assert not cors.enabled
    assert cors.headers_for(origin) == ()
    assert cors.preflight("OPTIONS", preflight(origin=origin or b"")) is None


def test_a_listed_origin_may_read_the_answer() -> None:
    """Every header of it, too; and caches are told that the answer depends on who asks."""
    cors = Cors(ORIGINS)

    assert cors.enabled
    assert cors.headers_for(PAGE) == (
        (b"Access-Control-Allow-Origin", PAGE),
        (b"Access-Control-Expose-Headers", b"*"),
        (b"Vary", b"Origin"),
    )


@pytest.mark.parametrize(
    "origin",
    [
        *(
            None,
            b"",
            b"null",
            b"*",
            b"https://evil.example",
            b"http://app.example.com",
            b"https://app.example.com:8443",
        ),
        *(b"https://app.example.com/", b"https://APP.example.com", b"https://app.example.com.evil.example"),
        *(b"https://app.example.com, https://evil.example", b"https://evil.example/https://app.example.com"),
    ],
)
def test_any_other_origin_is_told_nothing(origin: bytes | None) -> None:
    """Origins are compared whole, byte for byte (WHATWG Fetch, CORS check)."""
    assert Cors(ORIGINS).headers_for(origin) == ((b"Vary", b"Origin"),)


@pytest.mark.parametrize("origin", [PAGE, b"null", None])
def test_a_star_lets_every_page_read(origin: bytes | None) -> None:
    """The answer is the same for all, so there is nothing to vary by."""
    assert Cors(["*", *ORIGINS]).headers_for(origin) == (
        (b"Access-Control-Allow-Origin", b"*"),
        (b"Access-Control-Expose-Headers", b"*"),
    )


@pytest.mark.parametrize("origins", [ORIGINS, ["*"], []])
@pytest.mark.parametrize("origin", [PAGE, b"https://evil.example"])
def test_credentials_are_never_allowed(origins: list[str], origin: bytes) -> None:
    """No cookie is of use here, and with `*` they would be a hole."""
    cors = Cors(origins)
    answer = cors.preflight("OPTIONS", preflight(origin=origin)) or Head(204, "", ())

    for headers in (cors.headers_for(origin), answer.headers):
        assert b"access-control-allow-credentials" not in [name.lower() for name, _ in headers]


def test_a_preflight_is_answered_with_what_it_asks_for() -> None:
    """The headers by name, since `*` does not cover Authorization."""
    wanted = b"authorization,content-type,x-stainless-lang,x-reprise-namespace"

    answer = Cors(ORIGINS).preflight("OPTIONS", preflight((b"access-control-request-headers", wanted)))

    assert answer == Head(
        204,
        "No Content",
        (
            (b"Access-Control-Allow-Origin", PAGE),
            (b"Access-Control-Expose-Headers", b"*"),
            (b"Vary", b"Origin"),
            (b"Access-Control-Allow-Methods", b"POST"),
            (b"Access-Control-Allow-Headers", wanted),
            (b"Access-Control-Max-Age", b"600"),
        ),
    )


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"PATCH"])
def test_every_method_may_be_asked_for(method: bytes) -> None:
    """What the proxy does not serve it refuses when it is asked, where the page can read why."""
    headers = ((b"origin", PAGE), (b"access-control-request-method", method))

    answer = Cors(["*"]).preflight("OPTIONS", headers)

    assert answer is not None
    assert answer.get(b"access-control-allow-origin") == b"*"
    assert answer.get(b"access-control-allow-methods") == method
    assert answer.get(b"access-control-allow-headers") == b"*"


def test_a_page_of_another_origin_gets_no_leave() -> None:
    """Its preflight is answered all the same: the upstream is not to be asked on its behalf."""
    answer = Cors(ORIGINS).preflight("OPTIONS", preflight(origin=b"https://evil.example"))

    assert answer == Head(204, "No Content", ((b"Vary", b"Origin"),))


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", ()),
        ("OPTIONS", ((b"Origin", PAGE),)),
        ("OPTIONS", ((b"Access-Control-Request-Method", b"POST"),)),
        ("OPTIONS", ((b"Origin", PAGE), (b"Access-Control-Request-Headers", b"authorization"))),
        ("POST", preflight()),
        ("GET", preflight()),
        ("options", preflight()),
    ],
)
def test_what_is_no_preflight_goes_its_way(method: str, headers: Headers) -> None:
    """A preflight is an OPTIONS with both an Origin and a method that is asked for (WHATWG Fetch, CORS protocol)."""
    assert Cors(ORIGINS).preflight(method, headers) is None


@pytest.mark.parametrize("fields", [preflight(), ((b"X-A", b"1"), (b"ORIGIN", PAGE)), ()])
@pytest.mark.parametrize("origins", [ORIGINS, ["*"], []])
def test_an_answer_carries_what_its_request_is_due(origins: list[str], fields: Headers) -> None:
    """By the origin among its fields."""
    cors = Cors(origins)

    assert cors.fields_for(fields) == cors.headers_for(PAGE if fields else None)
