"""`reprise explain`: what a request's key is made of, and whether there is a recording under it.

The rule: the key is made by the code that makes it in the proxy, with the settings that a proxy started here would
have. A credential takes part in it and is never shown.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click
import orjson

from proxy import admission
from proxy.canonical import Uncacheable
from proxy.commands.display import printable
from proxy.commands.explained import Applied, Stored, document, facts_of, pretty
from proxy.commands.options import Mistake, config_option, end_with_the_reader, json_option, settings_in_force
from proxy.commands.recordings import cassette_of, opened
from proxy.config import Settings
from proxy.difference import Incomparable
from proxy.errors import RepriseError
from proxy.inquiry import key_here
from proxy.key import credential_scope
from proxy.lookup import key_rules
from proxy.nearest import Nearest, Recorded, nearest
from proxy.normalize import Change, Normalizer
from proxy.pointers import Pointer, places, written
from proxy.question import Question
from proxy.recording import Headers
from proxy.store.codec import Damaged


class _WhyNot(NamedTuple):
    """Why a request has no key."""

    reason: str
    message: str


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
        click.echo(json.dumps(document(settings, question, applied, stored), indent=2))
        return
    for name, fact in facts_of(settings, question, applied, stored):
        click.echo(f"{name:<10} {printable(fact)}")
    click.echo(f"\n{printable(pretty(question.request.body))}")


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


def _question(settings: Settings, path: str, fields: Headers, body: bytes) -> tuple[Question, Applied] | _WhyNot:
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
    return question, Applied(_left_out(body, settings.cache.ignore), [each for each in changes if each.matches])


def _is_anonymous(fields: Headers) -> bool:
    texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    return credential_scope(texts) == credential_scope([])


def _left_out(body: bytes, ignore: Sequence[Pointer]) -> list[str]:
    """The pointers of `cache.ignore` that lead to a member in this body."""
    members = orjson.loads(body)
    found = [pointer for pointer in ignore if any(isinstance(holder, dict) for holder, _ in places(members, pointer))]
    return [written(pointer) for pointer in found]


def _stored(settings: Settings, question: Question, path: str) -> Stored:
    beneath = cassette_of(settings.cache)
    in_cassette = None if beneath is None else beneath.get(question.key)
    with opened(settings.cache) as recorded:
        listed = recorded.of_key(question.key)
        try:
            recorded.read(question.key)
        except Damaged as damage:
            return Stored(listed, str(damage), in_cassette)
        # A recording does not say whose it is.
        if listed is None and in_cassette is None and settings.cache.scope == "shared":
            return Stored(None, nearest=_nearest(settings, question, path, recorded.to_look_through(beneath)))
    return Stored(listed, in_cassette=in_cassette)


def _nearest(settings: Settings, question: Question, path: str, recorded: Recorded) -> Nearest | None:
    try:
        return nearest(question, recorded, key_here(settings.upstream.name, path))
    except Incomparable:
        return None
