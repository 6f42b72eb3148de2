"""May it be served, may it be forwarded, may it be stored: modes, a request's own directives, freshness.

The rule: a directive can only narrow what the mode allows.
"""

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from proxy import headers
from proxy.by_names import places_of
from proxy.errors import BadRequest
from proxy.recording import Head

Mode = Literal["cache", "record", "replay", "passthrough"]
CacheWord = Literal["HIT", "MISS", "JOINED", "REFRESH", "STALE", "BYPASS"]

_OK = 200
_described = places_of(b"content-type", b"content-encoding", b"content-length")

_LARGEST_SKEW_S = 60.0  # between clocks that are kept in time, and those of two proxies with one store

# One member of a list; commas within quotes do not end it. An unclosed quote runs to the end of its line.
_LISTED = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_SECONDS = re.compile(r'("?)([0-9]+)\1')
_LONGEST_SECONDS = 20  # digits: longer than any recording is old, and int() refuses some thousands of them


class Directives(NamedTuple):
    """A request's own `Cache-Control` (RFC 9111 section 5.2.1)."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_s: int | None = None


_NO_DIRECTIVES = Directives()


class Plan(NamedTuple):
    """What may be done for one request."""

    read: bool
    """A recording may answer it."""
    forward: bool
    """The upstream may be asked."""
    record: bool
    """The upstream's answer may be stored, and shared while it arrives."""
    any_age: bool = False
    """A recording may answer it however old it is by `cache.ttl`."""


def directives(cache_control: Iterable[str]) -> Directives:
    """Read the `Cache-Control` lines of a request; unknown directives are ignored (RFC 9111 section 5.2.3).

    Of several `max-age` the least counts.

    Raises:
        BadRequest: `max-age` is not a number of seconds.
    """
    given = [_directive(item) for line in cache_control for item in _LISTED.findall(line)]
    if not given:
        return _NO_DIRECTIVES
    names = {name for name, _ in given}
    return Directives(
        no_cache="no-cache" in names,
        no_store="no-store" in names,
        only_if_cached="only-if-cached" in names,
        max_age_s=min((_seconds(argument) for name, argument in given if name == "max-age"), default=None),
    )


def plan(mode: Mode, asked: Directives) -> Plan:
    """What `cache.mode` and the request's directives together allow."""
    return Plan(
        read=mode in ("cache", "replay") and not asked.no_cache,
        forward=mode != "replay" and not asked.only_if_cached,
        record=mode in ("cache", "record") and not asked.no_store,
        any_age=mode == "replay",
    )


def is_fresh(age_s: float, ttl_s: float, plan: Plan, asked: Directives, *, is_lasting: bool) -> bool:
    """Whether a recording of that age may answer; a `ttl_s` of 0 means for ever, and what `is_lasting` does not age.

    A negative age is that of a recording made while a clock was wrong: beyond a minute it counts as too old.
    """
    if age_s < -_LARGEST_SKEW_S:
        age_s = math.inf
    if asked.max_age_s is not None and age_s > asked.max_age_s:
        return False
    return plan.any_age or is_lasting or not ttl_s or age_s <= ttl_s


def refusal(head: Head, *, stream: bool, limit_bytes: int) -> str | None:
    """Why the answer that begins with this head can't be stored, or None if that depends on how it goes on."""
    if head.status != _OK:
        return "status"
    fields = head.headers
    types, codings, lengths = _described(fields)
    content_type = fields[types[0]][1] if types else None
    if headers.media_type(content_type) != (b"text/event-stream" if stream else b"application/json"):
        return "content_type"
    if codings and headers.is_encoded(fields):
        return "content_encoding"
    if lengths and int(fields[lengths[0]][1]) > limit_bytes:
        return "too_large"
    return None


def _directive(item: str) -> tuple[str, str]:
    name, _, argument = item.partition("=")
    return name.strip(" \t").lower(), argument.strip(" \t")


def _seconds(argument: str) -> int:
    match = _SECONDS.fullmatch(argument)
    if match is None:
        raise BadRequest("Cache-Control: max-age takes a number of seconds, such as max-age=3600.")
    return int(match[2].lstrip("0")[:_LONGEST_SECONDS] or "0")
