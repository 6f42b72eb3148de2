"""Failure n: how long to wait before the next attempt, or give up.

The rule: never sooner than the upstream asked for, and never so late that the client would rather have heard the error.
"""

import email.utils
import random
import re
from datetime import UTC

from proxy.recording import Head

RETRIED = frozenset((408, 429, 500, 502, 503, 504))
CONNECT_ATTEMPTS = 3

_BASE_S = 0.25
_CAP_S = 8.0
_LONGEST_ASKED_S = 30.0  # beyond it the client would sooner hear 429 now than wait for us

_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]*)?")


def backoff_s(failures: int, asked_s: float | None = None) -> float | None:
    """Seconds to wait after so many failures (1 or more), or None to give up.

    Full jitter, uniform in [0, min(cap, base * 2**failures)], but no less than `asked_s`, which the upstream asked for;
    where it asks for more than 30 s we give up.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015).
    """
    if asked_s is not None and asked_s > _LONGEST_ASKED_S:
        return None
    jittered_s = random.uniform(0, min(_CAP_S, _BASE_S * 2**failures))  # noqa: S311 - spreads load, guards nothing
    return max(jittered_s, asked_s or 0.0)


def wait_before_retry_s(head: Head, failures: int, retries: int, now_s: float) -> float | None:
    """Seconds to wait before an answered request is sent again, or None if the answer is to be passed on."""
    if head.status not in RETRIED or failures > retries or (head.get(b"x-should-retry") or b"").lower() == b"false":
        return None
    return backoff_s(failures, asked_s(head, now_s))


def asked_s(head: Head, now_s: float) -> float | None:
    """What `retry-after-ms` or `Retry-After` (RFC 9110 section 10.2.3) asks for, in seconds; `now_s` is Unix time."""
    milliseconds = _number(head.get(b"retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = head.get(b"retry-after") or b""
    seconds = _number(text)
    if seconds is not None:
        return seconds
    date_s = _date_s(text)
    return None if date_s is None else max(0.0, date_s - now_s)


def _number(text: bytes | None) -> float | None:
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


def _date_s(text: bytes) -> float | None:
    try:
        date = email.utils.parsedate_to_datetime(text.decode("latin-1"))
    except ValueError:
        return None
    # Of the three forms of an HTTP date one names no zone; all are in UTC (RFC 9110 section 5.6.7).
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
