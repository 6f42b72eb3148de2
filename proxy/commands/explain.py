"""`reprise explain`: what a request's key is made of, and whether there is a recording under it.

The rule: the key is made by the code that makes it in the proxy, with the settings that a proxy started here would
have. A credential takes part in it and is never shown.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click
import orjson

from proxy import admission, policy
from proxy.canonical import Uncacheable
from proxy.commands.display import age_text, bytes_text, printable
from proxy.commands.options import Mistake, config_option, end_with_the_reader, json_option, settings_in_force
from proxy.commands.recordings import Listed, opened
from proxy.config import CacheSettings, Settings
from proxy.difference import Incomparable
from proxy.errors import RepriseError
from proxy.key import SHORT_KEY, credential_scope
from proxy.lookup import key_rules
from proxy.missed import ASKED_OTHERWISE, key_here
from proxy.nearest import Nearest, Recorded, nearest
from proxy.normalize import Change, Normalizer
from proxy.pointers import Pointer, places, written
from proxy.policy import Directives
from proxy.question import Question
from proxy.recording import Headers
from proxy.store.codec import Damaged


class _WhyNot(NamedTuple):
    """Why a request has no key."""

    reason: str
    message: str


class _Applied(NamedTuple):
    """What the rules of the settings have done to a request."""

    left_out: list[str]
    """Pointers of `cache.ignore`."""
    changes: list[Change]


class _Stored(NamedTuple):
    """What the store has under a key."""

    listed: Listed | None
    damage: str | None = None
    nearest: Nearest | None = None
    """Where there is nothing."""


@click.command("explain")
@config_option
@click.argument("file", metavar="FILE", type=click.File("rb"))
@click.option("--path", default="/v1/chat/completions", show_default=True, help="Where it is sent.")
@click.option("--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="A header that it is sent with.")
@click.option("--namespace", metavar="NAME", help="As X-Reprise-Namespace.")
@click.option("--sample", metavar="N", help="As X-Reprise-Sample.")
@click.option("--upstream", metavar="URL", help="As `reprise serve --upstream`; it is part of the key.")
@json_option
def command(  # noqa: PLR0913 - click gives each option as an argument
    *,
    config: Path | None,
    file: BinaryIO,
    path: str,
    headers: tuple[str, ...],
    namespace: str | None,
    sample: str | None,
    upstream: str | None,
    as_json: bool,
) -> None:
    """Show the key of a request, and its recording.

    FILE has the body of the request; - is standard input.
    """
    end_with_the_reader()
    settings, body = settings_in_force(config, {"upstream.base_url": upstream}), file.read()
    asked = _question(settings, path, _fields(headers, namespace, sample), body)
    if isinstance(asked, _WhyNot):
        facts = {"cacheable": False, **asked._asdict()}
        click.echo(json.dumps(facts, indent=2) if as_json else f"not cacheable ({asked.reason}): {asked.message}")
        return
    question, applied = asked
    stored = _stored(settings, question, path)
    if as_json:
        click.echo(json.dumps(_document(settings, question, applied, stored), indent=2))
        return
    for name, fact in _facts(settings, question, applied, stored):
        click.echo(f"{name:<10} {printable(fact)}")
    click.echo(f"\n{printable(_pretty(question.request.body))}")


def _fields(given: tuple[str, ...], namespace: str | None, sample: str | None) -> Headers:
    pairs = [_pair(text) for text in given]
    if namespace is not None:
        pairs.append(("X-Reprise-Namespace", namespace))
    if sample is not None:
        pairs.append(("X-Reprise-Sample", sample))
    if not any(name.lower() == "content-type" for name, _ in pairs):
        pairs.append(("Content-Type", "application/json"))
    return tuple((name.encode(), value.encode()) for name, value in pairs)


def _pair(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not name.strip() or not colon:
        # Not quoted, since it may be a credential.
        raise Mistake("--header: expected a name, a colon and a value, such as 'openai-beta: assistants=v2'")
    return name.strip(), value.strip()


def _question(settings: Settings, path: str, fields: Headers, body: bytes) -> tuple[Question, _Applied] | _WhyNot:
    normalizer = Normalizer(settings.cache.normalize, time.thread_time)
    changes: list[Change] = []
    try:
        if admission.route("POST", path, settings.cache.routes) != "cached":
            return _WhyNot("route", f"POST {path} is none of cache.routes, so it is passed through and never recorded")
        controls = admission.controls(fields)
        rules = replace(key_rules(settings), normalize=lambda tree: changes.extend(normalizer.apply(tree)))
        question = rules.question("POST", path, fields, controls, body)
    except RepriseError as error:
        raise Mistake(error.message) from error
    except Uncacheable as uncacheable:
        return _WhyNot(uncacheable.reason, str(uncacheable))
    if settings.cache.scope == "credential" and _is_anonymous(fields):
        raise Mistake(
            "cache.scope is credential, so the key depends on who asks; give the caller's credential with "
            "--header 'authorization: Bearer ...'"
        )
    return question, _Applied(_left_out(body, settings.cache.ignore), [each for each in changes if each.matches])


def _is_anonymous(fields: Headers) -> bool:
    texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    return credential_scope(texts) == credential_scope([])


def _left_out(body: bytes, ignore: Sequence[Pointer]) -> list[str]:
    """The pointers of `cache.ignore` that lead to a member in this body."""
    members = orjson.loads(body)
    found = [pointer for pointer in ignore if any(isinstance(holder, dict) for holder, _ in places(members, pointer))]
    return [written(pointer) for pointer in found]


def _stored(settings: Settings, question: Question, path: str) -> _Stored:
    with opened(settings.cache) as recorded:
        listed = recorded.of_key(question.key)
        try:
            recorded.read(question.key)
        except Damaged as damage:
            return _Stored(listed, str(damage))
        if listed is None and settings.cache.scope == "shared":  # a recording does not say whose it is
            return _Stored(None, nearest=recorded.survey(partial(_nearest, settings, question, path)))
    return _Stored(listed)


def _nearest(settings: Settings, question: Question, path: str, recorded: Recorded) -> Nearest | None:
    try:
        return nearest(question, recorded, key_here(settings.upstream.name, path))
    except Incomparable:
        return None


def _is_fresh(listed: Listed, cache: CacheSettings) -> bool:
    return policy.is_fresh(listed.age_s, cache.ttl, Directives(), any_age=cache.mode == "replay")


def _facts(settings: Settings, question: Question, applied: _Applied, stored: _Stored) -> Iterator[tuple[str, str]]:
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


def _stored_text(cache: CacheSettings, stored: _Stored) -> str:
    if stored.damage:
        return f"damaged: {stored.damage}"
    if stored.listed is None:
        return "no"
    facts = f"{age_text(stored.listed.age_s)} ago, {bytes_text(stored.listed.stored_bytes)}"
    return facts if _is_fresh(stored.listed, cache) else f"{facts}, stale: older than cache.ttl"


def _document(settings: Settings, question: Question, applied: _Applied, stored: _Stored) -> dict[str, Any]:
    request, listed = question.request, stored.listed
    recording = listed and {
        "recorded_at": listed.summary.recorded_at,
        "age_s": int(listed.age_s),
        "stored_bytes": listed.stored_bytes,
        "model": listed.summary.model,
        "fresh": _is_fresh(listed, settings.cache),
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
        "nearest": stored.nearest and _nearest_document(stored.nearest),
    }


def _nearest_document(found: Nearest) -> dict[str, Any]:
    return {
        "key": found.key,
        "asked_otherwise": not found.is_made_alike,
        "differences": [each._asdict() for each in found.differences.first],
        "more": found.differences.more,
    }


def _pretty(canonical: bytes) -> str:
    """The canonical form over several lines, each number as it is spelled."""
    tree = json.loads(canonical, parse_int=orjson.Fragment, parse_float=orjson.Fragment)
    return orjson.dumps(tree, option=orjson.OPT_INDENT_2).decode()
