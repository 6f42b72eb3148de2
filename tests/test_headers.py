"""Which header fields travel, and which a recording keeps."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import headers
from proxy.recording import Headers

HOP_BY_HOP = [
    *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization"),
    *("Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade"),
]

REQUEST: Headers = (
    (b"host", b"localhost:8080"),
    (b"Accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"AUTHORIZATION", b"Bearer sk-CANARY"),
    (b"X-Dup", b"1"),
    (b"Content-Length", b"17"),
    (b"x-dup", b"2 "),
    (b"Cache-Control", b"no-store"),
    (b"X-Reprise-Namespace", b"n"),
    (b"x-reprise-anything", b"n"),
    (b"Expect", b"100-continue"),
    (b"Content-Type", b"application/json"),
    (b"X-Dup", b""),
    (b"X-Odd", b"caf\xe9\x01"),
)

ANSWER: Headers = (
    (b"Date", b"Tue, 10 Nov 2026 10:00:00 GMT"),
    (b"CONTENT-TYPE", b"Application/JSON; charset=utf-8"),
    (b"Content-Length", b"2"),
    (b"openai-version", b"2020-10-01"),
    (b"openai-organization", b"acme"),
    (b"openai-project", b"proj_1"),
    (b"OpenAI-Processing-MS", b"120"),
    (b"openai-model", b"m-1"),
    (b"x-request-id", b"req_1"),
    (b"X-Request-Id", b"req_2"),
    (b"x-ratelimit-limit-requests", b"10"),
    (b"retry-after", b"1"),
    (b"Set-Cookie", b"a=1"),
    (b"set-cookie", b"b=2"),
    (b"Cache-Status", b"upstream; hit"),
    (b"X-Cache-Status", b"HIT"),
    (b"X-Reprise-Id", b"of-another-one"),
    (b"Access-Control-Allow-Origin", b"*"),
    (b"access-control-expose-headers", b"X-Request-ID"),
    (b"Age", b"7"),
    (b"Connection", b"keep-alive"),
)


def names(fields: Headers) -> list[bytes]:
    return [name.lower() for name, _ in fields]


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"X-A", b"x-a", b"X-B", b"Content-Type", b"Connection", b"TE"]),
        st.sampled_from([b"x-a", b" X-B ,te", b"content-type,x-A", b"close", b"keep-alive"]) | st.binary(max_size=4),
    )
).map(tuple)


@pytest.mark.parametrize("name", HOP_BY_HOP)
@pytest.mark.parametrize("spelling", [str, str.lower, str.upper])
def test_what_is_hop_by_hop_goes_no_further(name: str, spelling: type[str]) -> None:
    """RFC 9110 section 7.6.1, both ways, and into no recording."""
    fields = ((b"X-A", b"1"), (spelling(name).encode(), b"x"), (b"X-B", b"2"))

    assert headers.end_to_end(fields) == ((b"X-A", b"1"), (b"X-B", b"2"))


def test_what_connection_names_goes_no_further() -> None:
    """In any case, in several lines, with empty members."""
    fields = (
        (b"Connection", b"X-One , close,,"),
        (b"X-one", b"1"),
        (b"x-TWO", b"2"),
        (b"X-Three", b"3"),
        (b"connection", b"\tx-two"),
        (b"X-ONE", b"1"),
    )

    assert headers.end_to_end(fields) == ((b"X-Three", b"3"),)


def test_what_a_second_connection_field_names_goes_no_further_either() -> None:
    """Also where the first one says what nearly all of them say."""
    fields = ((b"Connection", b"keep-alive"), (b"X-One", b"1"), (b"Connection", b"x-one"), (b"X-Two", b"2"))

    assert headers.end_to_end(fields) == ((b"X-Two", b"2"),)


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "Cache-Control", "Content-Encoding", "Content-Length", "Content-Type", "Host"),
        *("OpenAI-Organization", "OpenAI-Project"),
    ],
)
def test_connection_cannot_take_away_what_the_message_needs(name: str) -> None:
    """Or a client could have its request read in another way than it was checked and keyed."""
    fields = ((b"Connection", f"{name}, {name.lower()}".encode()), (name.encode(), b"x"))

    assert headers.end_to_end(fields) == ((name.encode(), b"x"),)


@given(FIELDS)
def test_what_is_end_to_end_keeps_its_order_and_spelling(fields: Headers) -> None:
    """Duplicates, too; nothing is merged, trimmed or sorted."""
    kept = headers.end_to_end(fields)

    lists = [value for name, value in fields if name == b"Connection"]
    nominated = {token.strip().lower() for listed in lists for token in listed.split(b",")}
    dropped = (nominated - {b"content-type"}) | {b"connection", b"te"}
    assert kept == tuple(field for field in fields if field[0].lower() not in dropped)
    assert headers.end_to_end(kept) == kept


@given(FIELDS)
def test_what_is_not_end_to_end_is_neither_shown_nor_recorded(fields: Headers) -> None:
    """Whatever else is left out of an answer on its way to a client, or into a recording."""
    fields = (*fields, *ANSWER)
    kept = headers.end_to_end(fields)

    ours = (b"x-cache-status", b"x-reprise-id")
    described = (b"content-type", b"x-request-id", b"openai-version", b"openai-processing-ms", b"openai-model")
    assert headers.for_client(fields, own_cors=False) == tuple(field for field in kept if field[0].lower() not in ours)
    assert headers.for_recording(fields) == tuple(field for field in kept if field[0].lower() in described)


def test_a_passed_through_request_travels_as_it_is() -> None:
    """But for what belongs to this hop, and what is said to the proxy alone."""
    sent = headers.for_upstream(REQUEST, cached_route=False, authorization=None)

    left_here = (b"host", b"expect", b"cache-control", b"x-reprise-namespace", b"x-reprise-anything")
    assert sent == tuple(field for field in REQUEST if field[0].lower() not in left_here)


def test_on_a_cached_route_the_answer_is_asked_for_uncompressed() -> None:
    """It may be replayed to a client that reads nothing else."""
    sent = headers.for_upstream(REQUEST, cached_route=True, authorization=None)

    assert sent == (
        (b"Accept", b"application/json"),
        (b"AUTHORIZATION", b"Bearer sk-CANARY"),
        (b"X-Dup", b"1"),
        (b"x-dup", b"2 "),
        (b"Content-Type", b"application/json"),
        (b"X-Dup", b""),
        (b"X-Odd", b"caf\xe9\x01"),
        (b"Accept-Encoding", b"identity"),
    )


@pytest.mark.parametrize("cached_route", [True, False])
def test_the_operators_key_takes_the_place_of_the_callers(*, cached_route: bool) -> None:
    """However often the caller sent one, the upstream gets exactly one."""
    request = (*REQUEST, (b"authorization", b"Basic x"))

    sent = headers.for_upstream(request, cached_route=cached_route, authorization=b"Bearer sk-OURS")

    assert headers.values(sent, b"authorization") == ["Bearer sk-OURS"]
    assert headers.for_upstream((), cached_route=False, authorization=b"k") == ((b"Authorization", b"k"),)


def test_a_live_answer_reaches_the_client_unchanged() -> None:
    """But for what belongs to this hop, and the names under which the proxy speaks itself."""
    shown = headers.for_client(ANSWER, own_cors=False)

    assert shown == tuple(
        field for field in ANSWER if field[0].lower() not in (b"connection", b"x-cache-status", b"x-reprise-id")
    )


def test_where_the_proxy_answers_for_cors_the_upstream_does_not() -> None:
    """Two Access-Control-Allow-Origin are worse than none."""
    shown = headers.for_client(ANSWER, own_cors=True)

    assert not [name for name in names(shown) if name.startswith(b"access-control-")]
    assert len(shown) == len(headers.for_client(ANSWER, own_cors=False)) - 2


def test_a_recording_keeps_what_describes_the_answer() -> None:
    """Never framing, dates, cookies, rate limits, or the name of who paid for it."""
    assert headers.for_recording(ANSWER) == (
        (b"CONTENT-TYPE", b"Application/JSON; charset=utf-8"),
        (b"openai-version", b"2020-10-01"),
        (b"OpenAI-Processing-MS", b"120"),
        (b"openai-model", b"m-1"),
        (b"x-request-id", b"req_1"),
        (b"X-Request-Id", b"req_2"),
    )


def test_a_recording_keeps_nothing_that_was_meant_for_one_hop() -> None:
    """RFC 9111 section 3.1: what Connection names is not stored either, but the content type is not to be had."""
    fields = ((b"x-request-id", b"req_1"), (b"Content-Type", b"x/y"), (b"Connection", b"X-Request-Id, Content-Type"))

    assert headers.for_recording(fields) == ((b"Content-Type", b"x/y"),)


@pytest.mark.parametrize("value", [b"a\rb", b"a\n", b"\0", b"a\r\n b", b"\r\nSet-Cookie: x=1"])
def test_a_value_that_ends_its_line_is_not_sendable(value: bytes) -> None:
    """Whoever lets one through lets headers be injected."""
    assert not headers.is_sendable(((b"X-A", b"1"), (b"X-B", value)))


@pytest.mark.parametrize(
    "name", [b"Content-Length ", b"X:Y", b"X\tY", b"X\r\nY", b"caf\xe9", b"\x7f", b"Content Length"]
)
def test_a_name_that_is_none_is_not_sendable(name: bytes) -> None:
    """The next reader could see another field in it."""
    assert not headers.is_sendable(((b"X-A", b"1"), (name, b"1")))


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_what_is_sendable_is_one_field_to_every_reader(name: bytes, value: bytes) -> None:
    """Bytes that end a line, and what stands in no name that the parser lets through."""
    one_field = not re.search(rb"[^!-9;-~]", name) and not re.search(rb"[\r\n\0]", value)

    assert headers.is_sendable(((b"X-A", b"1"), (name, value))) is one_field


def test_odd_values_are_sendable() -> None:
    """Other controls and bytes beyond ASCII are ugly, and harmless."""
    assert headers.is_sendable(((b"X-A", b"\t caf\xc3\xa9 \xff\x01\x7f"), (b"x_B!9~", b"")))
    assert headers.is_sendable(())


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (None, b""),
        (b"", b""),
        (b"application/json", b"application/json"),
        (b" Text/Event-Stream ; charset=utf-8", b"text/event-stream"),
        (b";application/json", b""),
        (b"application/json,text/html", b"application/json,text/html"),
    ],
)
def test_the_media_type_is_what_stands_before_the_parameters(content_type: bytes | None, expected: bytes) -> None:
    """In lower case, since it is compared."""
    assert headers.media_type(content_type) == expected


@pytest.mark.parametrize(
    ("values", "encoded"),
    [
        ([], False),
        ([b""], False),
        ([b" Identity\t"], False),
        ([b"identity", b"identity"], False),
        ([b"gzip"], True),
        ([b"identity", b"gzip"], True),
        ([b"identity, gzip"], True),
        ([b"x"], True),
    ],
)
def test_any_content_coding_counts_as_encoded(values: list[bytes], *, encoded: bool) -> None:
    """Also one that hides behind an identity."""
    assert headers.is_encoded(tuple((b"Content-Encoding", value) for value in values)) is encoded


def test_values_are_given_in_order() -> None:
    """Whatever the case of the name, and with every byte a character."""
    fields = ((b"X-A", b"1"), (b"X-B", b"2"), (b"x-a", b"caf\xe9"))

    assert headers.values(fields, b"x-a") == ["1", "caf\xe9"]
