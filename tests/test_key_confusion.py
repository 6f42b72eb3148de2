"""No two requests share a key that any upstream could tell apart; what has a key has one reading."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.admission import Controls
from proxy.canonical import Uncacheable, canonical_body
from proxy.question import KeyRules
from proxy.recording import Headers
from tests import settings as config
from tests.lookalikes import Tree, like, tree, written
from tests.reference_json import NotJson, read, told

JSON: Headers = ((b"Content-Type", b"application/json"),)
SEEDS = st.integers(0, 2**32).map(Random)


def canonical(raw: bytes, ignore: Sequence[tuple[str, ...]] = ()) -> bytes | None:
    """The form that goes into the key; None if there is no key."""
    try:
        return canonical_body(raw, ignore).text
    except Uncacheable:
        return None


def said(raw: bytes) -> str | None:
    """What a body says by our own reading of JSON; None if that could be read in two ways, or is no object."""
    try:
        reading = read(raw)
    except NotJson:
        return None
    return None if reading.doubts or not reading.said.startswith("{") else reading.said


@dataclass(frozen=True)
class Number:
    spelling: str


def said_by_library(raw: bytes) -> Any:
    return json.loads(raw, parse_int=Number, parse_float=Number)


def told_again(value: Any) -> str:
    """What the library has read, in the words of our own reading."""
    match value:
        case Number():
            return value.spelling
        case str():
            return told(value)
        case list():
            return "[" + ",".join(map(told_again, value)) + "]"
        case dict():
            return "{" + ",".join(sorted(f"{told(name)}:{told_again(inner)}" for name, inner in value.items())) + "}"
        case _:
            return {None: "null", True: "true", False: "false"}[value]


def verdict(one: bytes, other: bytes) -> Literal["no key", "same", "different"]:
    """What the keys of two bodies say of them, after a check that it is what our own reading says."""
    forms, readings = [canonical(one), canonical(other)], [said(one), said(other)]
    assert [form is None for form in forms] == [reading is None for reading in readings]
    if None in forms:
        return "no key"
    assert (forms[0] == forms[1]) == (readings[0] == readings[1])
    return "same" if forms[0] == forms[1] else "different"


def a_pair(random: Random) -> tuple[bytes, bytes]:
    first: Tree = tree(random)
    return written(first, random), written(like(first, random), random)


@given(SEEDS)
@settings(max_examples=500, deadline=None)
def test_two_bodies_share_a_key_if_and_only_if_they_say_the_same(random: Random) -> None:
    """And one has a key if, and only if, no two readers could differ about it."""
    verdict(*a_pair(random))


def test_the_bodies_that_look_alike_are_of_all_kinds() -> None:
    """The test above would hold of pairs that all differ, too."""
    verdicts = Counter(verdict(*a_pair(Random(seed))) for seed in range(500))  # noqa: S311 - no secret

    assert set(verdicts) == {"no key", "same", "different"}
    assert min(verdicts.values()) > 50


@given(SEEDS, st.binary(max_size=3), st.integers(0, 3))
@settings(max_examples=500, deadline=None)
def test_a_body_that_has_lost_or_won_some_bytes_is_read_no_more_kindly(random: Random, won: bytes, lost: int) -> None:
    """Wherever that is: it has one reading, or no key."""
    whole = written(tree(random), random)
    place = random.randrange(len(whole) + 1)

    verdict(whole, whole[:place] + won + whole[place + lost :])


@given(SEEDS)
@settings(max_examples=300, deadline=None)
def test_what_has_a_key_is_read_alike_by_all_readers(random: Random) -> None:
    """By the standard library, by orjson and by hand, and so is its canonical form."""
    raw, _ = a_pair(random)
    form = canonical(raw)
    if form is None:
        return

    assert {told_again(said_by_library(raw)), told_again(said_by_library(form))} == {read(raw).said}
    assert json.loads(raw) == json.loads(form) == orjson.loads(raw) == canonical_body(raw).members


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":0.' + b"1" * 1_000_000 + b"}",
        b'{"a":0.' + b"0" * 1_000_000 + b"1}",
        b'{"a":' + b"9" * 1_000_000 + b"}",
        b'{"a":1e-' + b"9" * 1_000_000 + b"}",
        b'{"a":1e' + b"0" * 1_000_000 + b"1}",
        b'{"a":"' + rb"\ud83d\ude00" * 30_000 + b'"}',
        b'{"a":"' + b"\\" * 200_000 + b'"}',
        b"{" + b",".join(b'"%d":{}' % number for number in range(20_000)) + b"}",
        b"{" + b'"a":1,' * 30_000 + b'"a":1}',
        b'{"a":[' + b"[]," * 50_000 + b"1]}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":[' + b'{"b":[' * 120 + b"]}" * 120 + b"]}",
        b" " * 1_000_000 + b"{}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_however_large_a_body_is_there_is_an_answer(body: bytes) -> None:
    """No number, text, depth or width takes more than its time."""
    assert (canonical(body) is None) == (said(body) is None)


# What is ignored

POINTERS = [
    "/a",
    "/b/a",
    "/a~1b",
    "/a~01b",
    "/~01",
    "/~0",
    "/",
    "//",
    "/0",
    "/l/0",
    "/l/1/a",
    "/l/0/l/0/b",
    "/l/-",
    "/l/00",
]
POINTED_AT = st.sampled_from(["a", "b", "l", "a/b", "a~1b", "~1", "~0", "~", "", "0", "1", "-"])
LEAVES = st.sampled_from([0, 1])
LISTED = st.lists(st.dictionaries(st.sampled_from("ab"), LEAVES, max_size=2) | LEAVES, max_size=2)
IGNORABLE = st.fixed_dictionaries(
    {}, optional={"l": LISTED, "b": st.dictionaries(POINTED_AT, LEAVES | LISTED, max_size=2), "a": LEAVES}
)


def without(value: Any, pointer: str) -> Any:
    """RFC 6901 read once more: a value without the member of an object that a pointer leads to."""
    token, *rest = pointer[1:].split("/", 1)
    name = token.replace("~1", "/").replace("~0", "~")
    if not rest:
        return {each: inner for each, inner in value.items() if each != name} if isinstance(value, dict) else value
    if isinstance(value, dict):
        return {each: without(inner, "/" + rest[0]) if each == name else inner for each, inner in value.items()}
    if isinstance(value, list):
        return [without(inner, "/" + rest[0]) if str(at) == name else inner for at, inner in enumerate(value)]
    return value


@given(IGNORABLE, st.dictionaries(POINTED_AT, LEAVES, max_size=3), IGNORABLE, st.sampled_from(POINTERS))
@settings(max_examples=150, deadline=None)
def test_bodies_that_differ_only_where_a_pointer_leads_share_a_key(
    one: dict[str, Any], more: dict[str, int], other: dict[str, Any], pointer: str
) -> None:
    """And any other difference is one of the key."""
    ignore = config.read("cache.ignore", [pointer])
    bodies = [one, {**one, **other}, {**one, **more}]

    forms = [canonical(orjson.dumps(body), ignore) for body in bodies]

    left = [without(body, pointer) for body in bodies]
    assert [form == forms[0] for form in forms] == [body == left[0] for body in left]


# All the rest of the key

NAMES = [b"OpenAI-Beta", b"openai-beta", b"openai_beta", b"x-team", b"X-Team", b"Authorization", b"api-key", b"Cookie"]
VALUES = [b"", b"a", b"A", b"b", b"a,b", b"a, b", b"\xe9", b"openai-beta", b"3:a"]
FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)) | st.sampled_from(
    [(b"Connection", b"openai-beta"), (b"connection", b"X-TEAM"), (b"Connection", b"cookie"), (b"User-Agent", b"a")]
)
FIELDS = st.lists(FIELD, max_size=3)
TARGETS = [
    "/v1/chat/completions",
    "/v1/chat/completions?",
    "/v1/chat/completions?a",
    "/v1/completions?a",
    "/v1/completions",
]


@dataclass(frozen=True)
class Sent:
    """A request, and what the settings say of it."""

    target: str
    fields: Headers
    namespace: str
    sample: int
    upstream: str
    per_credential: bool
    body: bytes

    def key(self) -> str:
        rules = KeyRules(self.upstream, self.per_credential, vary=("openai-beta", "x-team"), ignore=())
        controls = Controls(namespace=self.namespace, sample=self.sample)
        return rules.question("POST", self.target, JSON + self.fields, controls, self.body).key

    def identity(self) -> tuple[object, ...]:
        """All that must be in the key, found out in another way."""
        named = [value.lower() for name, value in self.fields if name.lower() == b"connection"]
        fields = [(name.lower(), value) for name, value in self.fields if name.lower() not in named]
        beta = [field for field in fields if field[0] in (b"openai-beta", b"openai_beta")]
        team = [field for field in fields if field[0] == b"x-team"]
        keys = [[value for name, value in fields if name == each] for each in (b"authorization", b"api-key")]
        session = [value for name, value in fields if name == b"cookie" and not any(keys)]
        caller = (keys, session) if self.per_credential else None
        return self.target, beta, team, caller, self.namespace, self.sample, self.upstream, said(self.body)


SENT = st.builds(
    Sent,
    target=st.sampled_from(TARGETS),
    fields=FIELDS.map(tuple),
    namespace=st.sampled_from(["", "a", "0"]),
    sample=st.sampled_from([0, 1, 10]),
    upstream=st.sampled_from(["u", "shared", "a"]),
    per_credential=st.booleans(),
    body=st.sampled_from([b"{}", b'{"a":1}', b'{"a":1.0}', b'{ "\\u0061":1}']),
)


@st.composite
def nearly_the_same(draw: st.DrawFn) -> tuple[Sent, Sent]:
    """Two requests that differ in one part, mostly in a field, or in the order and spelling of all of them."""
    one, other = draw(SENT), draw(SENT)
    part = draw(st.sampled_from([*Sent.__dataclass_fields__, "order", "spelling", *["one more"] * 8]))
    match part:
        case "order":
            return one, replace(one, fields=tuple(draw(st.permutations(one.fields))))
        case "spelling":
            return one, replace(one, fields=tuple((name.upper(), value) for name, value in one.fields))
        case "one more":
            return one, replace(one, fields=(*one.fields, draw(st.sampled_from(one.fields or [(b"", b"")]) | FIELD)))
        case _:
            return one, replace(one, **{part: getattr(other, part)})


@given(nearly_the_same())
@settings(max_examples=300, deadline=None)
def test_requests_share_a_key_if_and_only_if_all_of_it_is_the_same(pair: tuple[Sent, Sent]) -> None:
    """Target, fields, caller, namespace, sample, upstream and body: none runs into the next, none is left out."""
    one, other = pair

    assert (one.key() == other.key()) == (one.identity() == other.identity())


@pytest.mark.parametrize(
    ("per_credential", "expected"),
    [
        (False, "9cd24ac5473ba7fd1b523f55efd8d0db377613fa221a27dfb000a465797a3eee"),
        (True, "556a2ecadb6cfd9d1517a2525b16fb181e8330c7719cc9d921c0b08ce0bdbe50"),
    ],
)
def test_the_key_of_a_whole_request_never_changes(per_credential: bool, expected: str) -> None:  # noqa: FBT001  # a table
    """From the bytes of its body and its header on; whoever changes this has to change the key version."""
    fields = ((b"openai-project", b"p"), (b"OpenAI-Beta", b"b"), (b"AUTHORIZATION", b"Bearer sk-CANARY"))
    body = rb'{"stream":true, "model":"\u006d\/\ud83d\ude00", "n":[1, 1.0, 1e0, -0], "user":"caf' + b'\xc3\xa9"}'

    sent = Sent("/v1/chat/completions?b&a=%2F", fields, "tests", 2, "openai", per_credential, body)

    assert sent.key() == expected
