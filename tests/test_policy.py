"""What a mode and a request's own directives allow, what is fresh, and what can't be stored."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import policy
from proxy.errors import BadRequest
from proxy.policy import Directives, Mode, Plan
from proxy.recording import Head, Headers

MODES: list[Mode] = ["cache", "record", "replay", "passthrough"]
FLAGS = [Directives(*flags) for flags in product([False, True], repeat=3)]

NOTHING = Directives()
NO_CACHE = Directives(no_cache=True)
NO_STORE = Directives(no_store=True)
ONLY_IF_CACHED = Directives(only_if_cached=True)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], NOTHING),
        ([""], NOTHING),
        ([" , ,,"], NOTHING),
        (["no-cache"], NO_CACHE),
        (["NO-CACHE"], NO_CACHE),
        (["\tno-store "], NO_STORE),
        (["Only-If-Cached"], ONLY_IF_CACHED),
        (["no-cache,no-store"], Directives(no_cache=True, no_store=True)),
        (["no-cache", "no-store"], Directives(no_cache=True, no_store=True)),
        (["no-cache, no-cache", "no-cache"], NO_CACHE),
        (['no-cache="authorization, cookie"'], NO_CACHE),
        (["max-age=0"], Directives(max_age_s=0)),
        (["Max-Age=60"], Directives(max_age_s=60)),
        (['max-age="60"'], Directives(max_age_s=60)),
        (["max-age=060"], Directives(max_age_s=60)),
        (["max-age=60, max-age=7", "max-age=9"], Directives(max_age_s=7)),
        (["no-store, max-age=60 , no-transform"], Directives(no_store=True, max_age_s=60)),
        (["max-stale, min-fresh=5, s-maxage=9, stale-if-error=x, private, no-transform"], NOTHING),
        (["no-cached, no_store, xonly-if-cached, max-age-s=1"], NOTHING),
        (['ext="no-cache, no-store, max-age=x"'], NOTHING),
        (['ext="a\\", no-cache, \\"b", no-store'], NO_STORE),
        (['ext="unclosed, no-cache', "no-store"], NO_STORE),
        (['"no-cache", "no-store"'], NOTHING),
        (["no-cache\x0b, \xa0no-store"], NOTHING),
    ],
)
def test_directives_are_read_as_rfc_9111_writes_them(lines: list[str], expected: Directives) -> None:
    """Case-insensitive, over several lines, quoted or not, with whatever else there is left aside."""
    assert policy.directives(lines) == expected


@pytest.mark.parametrize("digits", ["9" * 19, "9" * 20, "9" * 5000, "0" * 30_000 + "9" * 40])
def test_more_seconds_than_anyone_counts_are_a_limit_all_the_same(digits: str) -> None:
    """RFC 9111 section 1.2.2: a number too great to be represented stands for a great one."""
    asked = policy.directives([f"max-age={digits}"])

    assert asked.max_age_s is not None
    assert policy.is_fresh(100 * 365 * 86400, 0, policy.plan("cache", asked), asked, is_lasting=False)


@pytest.mark.parametrize(
    "argument", ["", "=", "=-1", "=+1", "=1.5", "=1e3", "=1s", "=\xb2", "=1 2", "==1", '="', '="1', '="1, 2"', "=''"]
)
def test_an_age_that_is_no_number_is_refused(argument: str) -> None:
    """To ignore it would serve an answer that is older than what was asked for."""
    with pytest.raises(BadRequest, match="max-age"):
        policy.directives(["no-store", f"max-age{argument}"])


QUOTED = st.text(st.characters(max_codepoint=255, exclude_characters='"\\')).map('"{}"'.format)


@given(st.from_regex(r"[a-z]{1,4}(-x)?", fullmatch=True), QUOTED | st.just("1"))
def test_an_unknown_directive_changes_nothing(name: str, argument: str) -> None:
    """Whatever its argument holds."""
    line = f"no-store, {name}={argument}, max-age=5"

    assert policy.directives([line]) == Directives(no_store=True, max_age_s=5)


@pytest.mark.parametrize("line", ['"' * 30_000, '"\\' * 15_000, '"\\"' * 10_000, "a" * 30_000, "," * 30_000])
def test_a_long_line_of_nonsense_is_read_in_one_go(line: str) -> None:
    """A client must not be able to stop the proxy with one header."""
    assert policy.directives([line] * 100) == NOTHING


@pytest.mark.parametrize(
    ("mode", "asked", "expected"),
    [
        ("cache", NOTHING, Plan(read=True, forward=True, record=True)),
        ("cache", NO_CACHE, Plan(read=False, forward=True, record=True)),
        ("cache", NO_STORE, Plan(read=True, forward=True, record=False)),
        ("cache", Directives(no_cache=True, no_store=True), Plan(read=False, forward=True, record=False)),
        ("cache", ONLY_IF_CACHED, Plan(read=True, forward=False, record=True)),
        ("cache", Directives(no_cache=True, only_if_cached=True), Plan(read=False, forward=False, record=True)),
        ("cache", Directives(max_age_s=0), Plan(read=True, forward=True, record=True)),
        ("record", NOTHING, Plan(read=False, forward=True, record=True)),
        ("record", NO_STORE, Plan(read=False, forward=True, record=False)),
        ("replay", NOTHING, Plan(read=True, forward=False, record=False, any_age=True)),
        ("replay", NO_CACHE, Plan(read=False, forward=False, record=False, any_age=True)),
        ("passthrough", NOTHING, Plan(read=False, forward=True, record=False)),
        ("passthrough", ONLY_IF_CACHED, Plan(read=False, forward=False, record=False)),
    ],
)
def test_the_mode_and_the_request_make_the_plan(mode: Mode, asked: Directives, expected: Plan) -> None:
    """The table of contract section 4."""
    assert policy.plan(mode, asked) == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asked", FLAGS)
def test_a_directive_only_narrows(mode: Mode, asked: Directives) -> None:
    """No request gets more than the operator's mode allows."""
    allowed, planned = policy.plan(mode, NOTHING), policy.plan(mode, asked)

    assert all(was or not now for was, now in zip(allowed, planned, strict=True))


@pytest.mark.parametrize(
    ("age_s", "ttl_s", "max_age_s", "any_age", "fresh"),
    [
        (0, 10, None, False, True),
        (10, 10, None, False, True),
        (10.5, 10, None, False, False),
        (10**9, 0, None, False, True),
        (10**9, 10, None, True, True),
        (5, 10, 5, False, True),
        (5.1, 10, 5, False, False),
        (0.1, 10, 0, False, False),
        (11, 10, 60, False, False),
        (11, 0, 10, False, False),
        (11, 10, 10, True, False),
        (10, 5, 10, True, True),
        (-60, 10, 0, False, True),
        (-61, 10, None, False, False),
        (-61, 0, 10, False, False),
        (-(10**9), 0, None, False, True),
        (-(10**9), 10, None, True, True),
    ],
)
def test_a_recording_is_fresh_by_both_limits(
    *, age_s: float, ttl_s: float, max_age_s: int | None, any_age: bool, fresh: bool
) -> None:
    """`cache.ttl`, where 0 is for ever, and the request's own max-age, which always counts.

    The mode `replay` looks away from the first, and so does a recording that lasts.
    """
    asked = Directives(max_age_s=max_age_s)
    ways: list[tuple[Mode, bool]] = [("replay", False), ("cache", True)] if any_age else [("cache", False)]

    for mode, is_lasting in ways:
        assert policy.is_fresh(age_s, ttl_s, policy.plan(mode, asked), asked, is_lasting=is_lasting) is fresh


def response(status: int = 200, content_type: bytes | None = b"application/json", *more: tuple[bytes, bytes]) -> Head:
    headers: Headers = more if content_type is None else ((b"Content-Type", content_type), *more)
    return Head(status, "", headers)


@pytest.mark.parametrize(
    ("head", "stream"),
    [
        (response(), False),
        (response(200, b"Application/JSON ; charset=utf-8"), False),
        (response(200, b"text/event-stream"), True),
        (response(200, b"text/event-stream;charset=UTF-8", (b"Cache-Control", b"no-store")), True),
        (response(200, b"application/json", (b"content-encoding", b"Identity"), (b"content-length", b"100")), False),
        (response(200, b"application/json", (b"Content-Encoding", b"")), False),
    ],
)
def test_a_plain_good_answer_may_be_stored(head: Head, *, stream: bool) -> None:
    """The upstream's own Cache-Control is not asked: servers of language models stamp no-store on everything."""
    assert policy.refusal(head, stream=stream, limit_bytes=100) is None


@pytest.mark.parametrize(
    ("head", "stream", "reason"),
    [
        *((response(status), False, "status") for status in (100, 201, 203, 204, 206, 304, 400, 429, 500, 999)),
        (response(200, b"text/event-stream"), False, "content_type"),
        (response(200, b"application/json"), True, "content_type"),
        (response(200, b"text/html"), False, "content_type"),
        (response(200, b"application/jsonl"), False, "content_type"),
        (response(200, b"application/problem+json"), False, "content_type"),
        (response(200, b"text/plain; x=text/event-stream"), True, "content_type"),
        (response(200, None), False, "content_type"),
        (response(200, b""), True, "content_type"),
        (response(200, b"application/json", (b"Content-Encoding", b"GZIP")), False, "content_encoding"),
        (response(200, b"application/json", (b"content-encoding", b"identity, br")), False, "content_encoding"),
        (
            response(200, b"application/json", (b"Content-Encoding", b"identity"), (b"Content-Encoding", b"gzip")),
            False,
            "content_encoding",
        ),
        (response(200, b"application/json", (b"Content-Length", b"101")), False, "too_large"),
    ],
)
def test_any_other_answer_is_refused_with_its_reason(head: Head, *, stream: bool, reason: str) -> None:
    """Errors, partial content, what was not asked for, what not everyone can read, what is too long."""
    assert policy.refusal(head, stream=stream, limit_bytes=100) == reason
