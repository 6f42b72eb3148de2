"""When an answered request is sent again, and how long that waits."""

import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import retry
from proxy.recording import Head

NOW_S = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples


def answer(status: int = 429, /, **fields: str) -> Head:
    headers = ((name.replace("_", "-").encode(), text.encode("latin-1")) for name, text in fields.items())
    return Head(status, "", tuple(headers))


@pytest.fixture(params=["UTC", "America/New_York", "Pacific/Kiritimati"])
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"Retry_After": "0"}, 0.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after_ms": "250"}, 0.25),
        ({"retry_after_ms": "12.5", "retry_after": "7"}, 0.0125),
        ({"retry_after": "7", "Retry_After_Ms": "0"}, 0.0),
        ({"retry_after_ms": "soon", "retry_after": "7"}, 7.0),
        ({"retry_after_ms": "-5"}, None),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:47 GMT"}, 10.0),
        ({"retry_after": "Sunday, 06-Nov-94 08:49:47 GMT"}, 10.0),
        ({"retry_after": "Sun Nov  6 08:49:47 1994"}, 10.0),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:47 -0000"}, 10.0),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:27 GMT"}, 0.0),
        *(({"retry_after": text}, None) for text in ["", "soon", "-1", "+5", "1_0", "nan", "inf", "1e1", "0x5", "5 s"]),
        ({"retry_after": "Sun, 32 Nov 1994 08:49:37 GMT"}, None),
        ({"retry_after": "Sun, 06 Nov 99999 08:49:37 GMT"}, None),
    ],
)
@pytest.mark.usefixtures("time_zone")
def test_what_the_upstream_asks_for_is_understood(fields: dict[str, str], seconds: float | None) -> None:
    """Milliseconds before seconds, all three forms of a date, in whatever zone the proxy runs; nonsense is no wish."""
    assert retry.asked_s(answer(**fields), NOW_S) == seconds


@given(st.binary() | st.text(st.characters(max_codepoint=127)).map(str.encode), st.sampled_from([b"-ms", b""]))
def test_any_wish_is_a_time_to_wait_or_none(value: bytes, suffix: bytes) -> None:
    """No header of the upstream's can make the proxy fail, or wait for less than nothing."""
    asked_s = retry.asked_s(Head(429, "", ((b"retry-after" + suffix, value),)), NOW_S)

    assert asked_s is None or asked_s >= 0


DATE_PARTS = st.sampled_from(
    [
        *("Sun,", "06", "Nov", "1994", "08:49:37", "GMT"),
        *("-9999", "+2400", "0", "99999999", "00:00", "24:60:60", ",", "-", ":", "caf\xe9"),
    ]
)


@given(st.lists(DATE_PARTS, max_size=8).map(" ".join))
def test_any_date_is_a_time_to_wait_or_none(text: str) -> None:
    """Dates are where parsers fail in ways of their own."""
    asked_s = retry.asked_s(answer(retry_after=text), NOW_S)

    assert asked_s is None or asked_s >= 0


@given(st.integers(1, 60), st.none() | st.floats(0, 30), st.integers())
def test_the_wait_lies_between_what_was_asked_and_what_jitter_allows(
    failures: int, asked_s: float | None, seed: int
) -> None:
    """Full jitter: anything from nothing up to an exponentially growing bound, which has a cap."""
    random.seed(seed)

    wait_s = retry.backoff_s(failures, asked_s)

    assert wait_s is not None
    assert (asked_s or 0) <= wait_s <= max(min(8, 0.25 * 2**failures), asked_s or 0)


@pytest.mark.parametrize(("failures", "bound_s"), [(1, 0.5), (2, 1), (3, 2), (5, 8), (50, 8)])
def test_jitter_is_full(failures: int, bound_s: float) -> None:
    """Clients that failed together come back apart: spread over the whole range, not around its middle."""
    random.seed(failures)

    waits_s = [wait_s for _ in range(400) if (wait_s := retry.backoff_s(failures)) is not None]

    assert len(waits_s) == 400
    assert min(waits_s) < bound_s * 0.05
    assert bound_s * 0.95 < max(waits_s) <= bound_s
    assert 0.4 * bound_s < sum(waits_s) / 400 < 0.6 * bound_s


@pytest.mark.parametrize("asked_s", [30.001, 60.0, 1e300, float("inf")])
def test_who_is_asked_to_wait_long_gives_up(asked_s: float) -> None:
    """The client would sooner hear 429 now; up to 30 s it is waited for."""
    assert retry.backoff_s(1, asked_s) is None
    assert retry.backoff_s(1, 30.0) == 30.0


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_retried_as_often_as_allowed(status: int) -> None:
    """`upstream.retries` counts the attempts after the first."""
    waits = [retry.wait_before_retry_s(answer(status), failures, 2, NOW_S) for failures in (1, 2, 3)]

    assert [wait is not None for wait in waits] == [True, True, False]


@pytest.mark.parametrize("status", [200, 201, 304, 400, 401, 403, 404, 409, 413, 422, 425, 499, 501, 505, 529])
def test_any_other_answer_is_passed_on(status: int) -> None:
    """Success, the client's mistakes, and what would come out the same again."""
    assert retry.wait_before_retry_s(answer(status), 1, 9, NOW_S) is None


@pytest.mark.parametrize(
    "head",
    [
        answer(x_should_retry="false"),
        answer(X_Should_Retry="False", retry_after="1"),
        answer(retry_after="31"),
        answer(retry_after="9" * 400),
        answer(retry_after_ms="30001", retry_after="1"),
        answer(retry_after="Sun, 06 Nov 1994 08:50:37 GMT"),
    ],
)
def test_an_upstream_that_says_no_is_believed(head: Head) -> None:
    """`x-should-retry: false`, and a wait that is too long, pass the answer on."""
    assert retry.wait_before_retry_s(head, 1, 9, NOW_S) is None


def test_a_retry_waits_as_long_as_was_asked() -> None:
    """And not the less for an `x-should-retry: true`."""
    wait_s = retry.wait_before_retry_s(answer(503, retry_after="20", x_should_retry="true"), 1, 1, NOW_S)

    assert wait_s == 20.0


@pytest.mark.parametrize("head", [answer(), answer(503, x_should_retry="true")])
def test_by_default_nothing_is_retried(head: Head) -> None:
    """SDKs retry by themselves, and retries multiply."""
    assert retry.wait_before_retry_s(head, 1, 0, NOW_S) is None
