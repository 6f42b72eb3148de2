"""What `reprise explain` has found out, as a person reads it and as a program does.

The rule: both are told the same.
"""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from proxy import policy
from proxy.commands.display import age_text, bytes_text
from proxy.commands.recordings import Listed
from proxy.config import CacheSettings, Settings
from proxy.inquiry import ASKED_OTHERWISE
from proxy.key import SHORT_KEY
from proxy.nearest import Nearest
from proxy.normalize import Change
from proxy.pointers import written
from proxy.policy import Directives
from proxy.question import Question
from proxy.recording import Recording


class Applied(NamedTuple):
    """What the rules of the settings have done to a request."""

    left_out: list[str]
    """Pointers of `cache.ignore`."""
    changes: list[Change]


class Stored(NamedTuple):
    """What the store has under a key."""

    listed: Listed | None
    damage: str | None = None
    in_cassette: Recording | None = None
    """Under the key in `cache.cassette`."""
    nearest: Nearest | None = None
    """Where there is nothing."""


def _is_fresh(listed: Listed, stored: Stored, cache: CacheSettings) -> bool:
    asked = Directives()
    is_lasting = stored.in_cassette is not None
    return policy.is_fresh(listed.age_s, cache.ttl, policy.plan(cache.mode, asked), asked, is_lasting=is_lasting)


def facts_of(settings: Settings, question: Question, applied: Applied, stored: Stored) -> Iterator[tuple[str, str]]:
    request = question.request
    yield "key", question.key
    yield "request", f"{request.method} {request.path}"
    yield "upstream", settings.upstream.name
    yield "scope", settings.cache.scope
    yield "namespace", request.namespace or "-"
    yield "sample", str(request.sample)
    yield "vary", "; ".join(f"{name}: {value}" for name, value in request.vary) or "-"
    yield "left out", ", ".join(applied.left_out) or "-"
    yield from (("normalized", _change_text(change)) for change in applied.changes)
    yield "model", question.model or "-"
    yield "stream", "yes" if question.stream else "no"
    yield "recorded", _stored_text(settings.cache, stored)
    if stored.nearest is not None:
        yield from _nearest_facts(stored.nearest)


def _nearest_facts(found: Nearest) -> Iterator[tuple[str, str]]:
    yield "nearest", found.key[:SHORT_KEY] + ("" if found.is_made_alike else f", {ASKED_OTHERWISE}")
    yield from (("", str(each)) for each in found.differences.first)
    if found.differences.more:
        yield "", f"and {found.differences.more} more"


def _change_text(change: Change) -> str:
    (pointer, pattern, replace), texts, matches = change
    found = f"{matches} {'match' if matches == 1 else 'matches'} in {texts} {'text' if texts == 1 else 'texts'}"
    return f"{written(pointer)}: {pattern} -> {replace or 'nothing'} ({found})"


def _stored_text(cache: CacheSettings, stored: Stored) -> str:
    if stored.damage:
        return f"damaged: {stored.damage}"
    if stored.listed is None and stored.in_cassette is not None:
        return f"{age_text(time.time() - stored.in_cassette.recorded_at)} ago, in {cache.cassette}"
    if stored.listed is None:
        return "no"
    facts = f"{age_text(stored.listed.age_s)} ago, {bytes_text(stored.listed.stored_bytes)}"
    return facts if _is_fresh(stored.listed, stored, cache) else f"{facts}, stale: older than cache.ttl"


def document(settings: Settings, question: Question, applied: Applied, stored: Stored) -> dict[str, Any]:
    request, listed = question.request, stored.listed
    recording = listed and {
        "recorded_at": listed.summary.recorded_at,
        "age_s": int(listed.age_s),
        "stored_bytes": listed.stored_bytes,
        "model": listed.summary.model,
        "fresh": _is_fresh(listed, stored, settings.cache),
        "damage": stored.damage,
    }
    return {
        "cacheable": True,
        "key": question.key,
        "method": request.method,
        "path": request.path,
        "upstream": settings.upstream.name,
        "scope": settings.cache.scope,
        "namespace": request.namespace,
        "sample": request.sample,
        "vary": request.vary,
        "left_out": applied.left_out,
        "normalized": [
            {**rule._asdict(), "pointer": written(rule.pointer), "texts": texts, "matches": matches}
            for rule, texts, matches in applied.changes
        ],
        "model": question.model,
        "stream": question.stream,
        "canonical": request.body.decode(),
        "recording": recording,
        "in_cassette": stored.in_cassette is not None,
        "nearest": stored.nearest and _nearest_document(stored.nearest),
    }


def _nearest_document(found: Nearest) -> dict[str, Any]:
    return {
        "key": found.key,
        "asked_otherwise": not found.is_made_alike,
        "differences": [each._asdict() for each in found.differences.first],
        "more": found.differences.more,
    }


def pretty(canonical: bytes) -> str:
    """The canonical form over several lines, each number as it is spelled."""
    tree = json.loads(canonical, parse_int=orjson.Fragment, parse_float=orjson.Fragment)
    return orjson.dumps(tree, option=orjson.OPT_INDENT_2).decode()
