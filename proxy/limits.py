"""What the head of an answer says of its request, of the caller's account, and of what is left of his limits.

The rule: what is no number, or no reasonable one, is left out.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from proxy.by_names import by_names
from proxy.recording import Head, Headers

_LIMIT = b"x-ratelimit-"

# Numbers are read up to a length: longer ones are no limits, and neither int() nor JSON takes any.
_MOST_DIGITS = 15
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_DURATION = re.compile(rf"({_NUMBER.pattern})(ms|s|m|h|d)")
_LONGEST_TIME = 32
_MOST_TIMES = 1024  # most are the same again and again, and to read one takes longer than anything else in a head
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(slots=True)
class Told:
    """What one head says."""

    request_id: str | None
    organization: str | None
    processing_ms: int | None
    limits: dict[str, float]
    """`limit_requests`, `remaining_tokens`, `reset_requests_s` and so on."""


class _Places(NamedTuple):
    """Where the fields stand that say it."""

    request_id: int | None
    organization: int | None
    processing_ms: int | None
    limits: list[tuple[int, str]]
    """With what each is called."""


def told(head: Head) -> Told:
    """Read a head. A time is written as `6m0s`, or by other servers than OpenAI's as a plain number of seconds."""
    fields = head.headers
    id_at, organization_at, processing_at, limits_at = _places(fields)
    return Told(
        None if id_at is None else fields[id_at][1].decode("latin-1"),
        None if organization_at is None else fields[organization_at][1].decode("latin-1"),
        None if processing_at is None else _whole_number(fields[processing_at][1]),
        _limits(fields, limits_at),
    )


@by_names
def _places(names: tuple[bytes, ...]) -> _Places:
    lowered = [name.lower() for name in names]
    facts = (b"x-request-id", b"openai-organization", b"openai-processing-ms")
    id_at, organization_at, processing_at = [lowered.index(fact) if fact in lowered else None for fact in facts]
    limits = [
        (place, name.removeprefix(_LIMIT).decode("latin-1").replace("-", "_"))
        for place, name in enumerate(lowered)
        if name.startswith(_LIMIT)
    ]
    return _Places(id_at, organization_at, processing_at, limits)


def _limits(fields: Headers, told: Iterable[tuple[int, str]]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for place, fact in told:
        value = fields[place][1]
        if fact.startswith("reset_") and len(value) <= _LONGEST_TIME and (seconds := _seconds(value)) is not None:
            limits[fact + "_s"] = seconds
        elif (number := _whole_number(value)) is not None:
            limits[fact] = number
    return limits


def _whole_number(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else None


@lru_cache(_MOST_TIMES)
def _seconds(value: bytes) -> float | None:
    """OpenAI writes `1s`, `6m0s`, `8.64s`, `120ms`."""
    text = value.decode("latin-1")
    if single := _DURATION.fullmatch(text):
        return round(float(single[1]) * _UNIT_S[single[2]], 3)
    if _NUMBER.fullmatch(text):
        return float(text)
    found = _DURATION.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        return None
    return round(math.fsum(float(number) * _UNIT_S[unit] for number, unit in found), 3)
