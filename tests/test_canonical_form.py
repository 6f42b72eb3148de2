"""The canonical form of a body that is spelled plainly is found quickly, and is the one found carefully."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy import canonical
from proxy.canonical import Uncacheable, canonical_body
from tests.lookalikes import NO_NUMBERS, NUMBERS, tree, written

Pointers = Sequence[tuple[str, ...]]

TOKENS = st.sampled_from(["a", "A", "b", "ab", "0", "1", "-", "", "\u00e9", "model", "nothing"])
IGNORED = st.lists(st.lists(TOKENS, max_size=3).map(tuple), max_size=2)

TEXTS = st.text() | st.text('aA1 /"\\\x00\x08\n\x1f\x7f\u00e9\u0301\u2028\ufeff\U0001f600:,{}[]', max_size=6)
NAMES = TEXTS | st.sampled_from(["model", "Model", "stra\u00dfe", "strasse", "k", "\u212a", "e\u0301", "\u00e9"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**65), 2**65) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=15,
)
SPELLINGS: Sequence[Callable[[Any], str]] = [
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),  # as httpx writes it
    json.dumps,  # as requests does
    lambda value: json.dumps(value, indent=2),
    lambda value: json.dumps(value, ensure_ascii=False).replace("/", r"\/"),
]


def outcome(raw: bytes, ignore: Pointers) -> tuple[bytes | str, object]:
    try:
        return canonical_body(raw, ignore)
    except Uncacheable as refused:
        return refused.reason, str(refused)


def carefully(raw: bytes, ignore: Pointers) -> tuple[bytes | str, object]:
    """What comes out where no body is taken for plainly spelled."""
    with patch.object(canonical, "_is_spelled_plainly", return_value=False):
        return outcome(raw, ignore)


def is_plain(raw: bytes) -> bool:
    return canonical._is_spelled_plainly(raw, orjson.loads(raw))


@given(st.integers(0, 2**32).map(Random), IGNORED)
@settings(max_examples=300, deadline=None)
def test_bodies_that_look_alike_have_the_form_that_they_had(random: Random, ignore: Pointers) -> None:
    """As they were written, and as orjson would write them: every escape, border of a number and repeated name."""
    raw = written(tree(random), random)
    try:
        spellings = [raw, orjson.dumps(orjson.loads(raw))]
    except orjson.JSONDecodeError:
        spellings = [raw]

    assert [outcome(body, ignore) for body in spellings] == [carefully(body, ignore) for body in spellings]


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from(SPELLINGS), IGNORED)
@settings(max_examples=100, deadline=None)
@example({"x": 2.0**64}, SPELLINGS[0], [])
@example({"x": -(2.0**63)}, SPELLINGS[0], [])
def test_bodies_as_clients_write_them_have_the_form_that_they_had(
    value: dict[str, Any], spelling: Callable[[Any], str], ignore: Pointers
) -> None:
    """Any text, any number, any names, in the spellings of the libraries that send most."""
    raw = spelling(value).encode(errors="surrogatepass")

    assert outcome(raw, ignore) == carefully(raw, ignore)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**64), 2**65).map(float))
@settings(max_examples=200)
def test_a_plain_number_is_never_one_that_readers_would_round(number: float) -> None:
    """A double is never written like an integer: else one beyond 64 bits would be taken for plain."""
    written = orjson.dumps(number)

    assert not written.lstrip(b"-").isdigit()
    assert orjson.dumps(orjson.loads(written)) == written


@pytest.mark.parametrize("number", [*NUMBERS, *NO_NUMBERS], ids=lambda number: repr(number[:30]))
def test_numbers_at_every_border_have_the_form_that_they_had(number: bytes) -> None:
    """Alone, among others, and where they are ignored."""
    for body in (b'{"a":%b}', b'{"a":[%b,0]}', b'{ "b" : {"a": %b} }'):
        for ignore in ([], [("a",)], [("b", "a")]):
            assert outcome(body % number, ignore) == carefully(body % number, ignore)


@pytest.mark.parametrize("leaf", ["1", "1.5", '"x"', "{}", "[]", '{"a":1}', '{"a":[]}', '{"A":1,"a":1}'])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('{"a" : [', "]}")])
def test_bodies_at_the_border_of_depth_have_the_form_that_they_had(leaf: str, opening: str, closing: str) -> None:
    """Also where what is ignored is all that was too deep."""
    for depth in [*range(124, 129), *range(252, 256)]:
        body = f'{{"x":{opening * depth}{leaf}{closing * depth},"y":1}}'.encode()
        for ignore in ([], [("x",)], [("x", "0")]):
            assert outcome(body, ignore) == carefully(body, ignore)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0.7,"stream":true,"stop":null}',
        b'{ "n" : [1, -1, 0, 18446744073709551615, -9223372036854775808],\r\n\t"x":{} , "y":[ ] }',
        rb'{"a\/b":"\u0041\"\\","b":"\\\"\ud83d\ude00:\\\\","c":"\\"}',
        '{"Stra\u00dfe":"\u00e9 e\u0301","additionalProperties":false,"":1.5}'.encode(),
        b'{"x":[0.0,-0.0,0.1,5e-324,123456.75]}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_as_it_is_mostly_sent_is_plain(body: bytes) -> None:
    """Whatever its white space, its escapes and the order of its members: that is what makes it quick."""
    assert is_plain(body)


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"a":1,"a":1}', rb'{"a":1,"\u0061":2}', b'{"x":[{"a":1,"b":2,"a":3}]}', b'{"a":"b","a":"b"}'),
        *(b'{"x":-0}', b'{"x":1e5}', b'{"x":1.50}', b'{"x":1E5}', b'{"x":18446744073709551616}'),
        *(b'{"x":2e-324}', b'{"x":1e-400}', b'{"x":0.1000000000000000055}', b'{"x":' + b"[" * 255 + b"]" * 255 + b"}"),
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_of_which_a_reader_would_lose_something_is_not_plain(body: bytes) -> None:
    """A name given twice, or a number in a spelling of its own."""
    assert not is_plain(body)


def test_what_is_ignored_stays_a_member() -> None:
    """However the body was read, and although the key does not know it."""
    raw = b'{"user":"u","metadata":{"run":[1],"x":[{"id":1}]}}'
    ignore = [("user",), ("metadata", "run"), ("metadata", "x", "0", "id")]

    text, members = canonical_body(raw, ignore)

    assert is_plain(raw)
    assert text == b'{"metadata":{"x":[{}]}}'
    assert members == orjson.loads(raw)
