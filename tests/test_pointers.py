"""JSON pointers with `*`: where they lead, and what is left out of the key by them."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.canonical import canonical_body
from proxy.pointers import Pointer, places, written
from tests import settings as config

NAMES = ["a", "b", "0", "1", "01", "-", "*", "", "a/b", "~1"]
TREES = st.recursive(
    st.none() | st.integers(0, 9) | st.text("ab*", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=12,
)
POINTERS = st.lists(st.sampled_from(NAMES), max_size=3).map(tuple)


def led_to(value: Any, pointer: Pointer, way: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The ways through a value that a pointer stands for, found one by one."""
    if not pointer:
        return [way] if way else []
    token, rest = pointer[0], pointer[1:]
    steps: list[tuple[object, Any]] = []
    if isinstance(value, dict):
        steps = [(name, inner) for name, inner in value.items() if token in ("*", name)]
    elif isinstance(value, list):
        steps = [(at, inner) for at, inner in enumerate(value) if token in ("*", str(at))]
    return [found for step, inner in steps for found in led_to(inner, rest, (*way, step))]


def at(value: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        value = value[step]
    return value


@given(TREES, POINTERS)
def test_a_pointer_leads_to_all_that_it_stands_for_and_to_nothing_else(tree: Any, pointer: Pointer) -> None:
    """`*` is every member or element of one level; all other tokens are names, or indices as RFC 6901 spells them."""
    found = [(id(holder), name) for holder, name in places(tree, pointer)]

    assert found == [(id(at(tree, way[:-1])), way[-1]) for way in led_to(tree, pointer)]


@given(st.dictionaries(st.sampled_from(NAMES), TREES, max_size=3), POINTERS.filter(bool))
def test_members_of_objects_are_left_out_wherever_a_pointer_leads(tree: dict[str, Any], pointer: Pointer) -> None:
    """No element is ever taken out of an array, since that would move those behind it."""
    left = orjson.loads(orjson.dumps(tree))
    for way in led_to(tree, pointer):
        if isinstance(holder := at(left, way[:-1]), dict):
            del holder[way[-1]]

    assert canonical_body(orjson.dumps(tree), [pointer]).text == canonical_body(orjson.dumps(left)).text


@given(POINTERS.filter(bool).filter(lambda pointer: pointer != ("*",)))
def test_a_pointer_is_written_as_it_was_read(pointer: Pointer) -> None:
    """Whatever of it has to be escaped."""
    assert config.read("cache.ignore", [written(pointer)]) == (pointer,)


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/messages/*/name", b'{"messages":[{"content":"a"},{"content":"b"}],"metadata":{"run":1,"user":2}}'),
        ("/metadata/*", b'{"messages":[{"content":"a","name":"x"},{"content":"b"}],"metadata":{}}'),
        ("/messages/0/*", b'{"messages":[{},{"content":"b"}],"metadata":{"run":1,"user":2}}'),
        ("/*/*/name", b'{"messages":[{"content":"a"},{"content":"b"}],"metadata":{"run":1,"user":2}}'),
    ],
)
def test_a_list_of_what_to_ignore_may_say_all_of_a_level(pointer: str, expected: bytes) -> None:
    """Such as the name in each message, however many there are."""
    body = {"messages": [{"content": "a", "name": "x"}, {"content": "b"}], "metadata": {"run": 1, "user": 2}}

    assert canonical_body(orjson.dumps(body), config.read("cache.ignore", [pointer])).text == expected


def test_an_index_has_no_zeros_before_it() -> None:
    """RFC 6901 section 4; the name of a member may have some."""
    assert list(places({"a": [1, 2]}, ("a", "01"))) == []
    assert list(places({"a": {"01": 1}}, ("a", "01"))) == [({"01": 1}, "01")]
