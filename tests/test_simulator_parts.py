"""What the simulated upstream is made of: its text, its examples of schemas, its allowances, its care with requests."""

import contextlib
import json
from enum import Enum
from typing import Any, Literal, Optional

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, create_model

from proxy.simulator import server
from proxy.simulator.account import Allowance, duration
from proxy.simulator.example import example
from proxy.simulator.request import Refused
from proxy.simulator.speech import text

OF_REQUESTS = ["type", "function", "name", "parameters", "schema", "json_schema", "format", "role", "content", "text"]
OF_SCHEMAS = ["properties", "items", "$ref", "enum", "anyOf", "minimum", "maximum", "minItems", "maxLength"]
NAMES = st.sampled_from([*OF_REQUESTS, *OF_SCHEMAS, "include_usage"])
WORDS = st.sampled_from(["", "user", "weather", "json_schema", "json_object", "object", "integer", "array", "#", "é"])
JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from([-1, 0, 3, 2**64, 1e30, 0.5]) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)
ASKED = (
    "model",
    "messages",
    "input",
    "prompt",
    "tools",
    "tool_choice",
    "response_format",
    "text",
    "n",
    "max_tokens",
    "dimensions",
    "encoding_format",
    "stream",
    "stream_options",
    "instructions",
)
GOOD: dict[str, object] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Hi"}],
    "input": "Hi",
    "prompt": "Hi",
    "stream": True,
}


@given(st.integers(2, 400), st.binary(max_size=8))
def test_a_text_has_the_tokens_that_were_asked_for(tokens: int, seed: bytes) -> None:
    """Exactly so many, ending with a full stop, and the same again for the same seed."""
    pieces = text(seed, tokens)

    assert len(pieces) == tokens
    assert pieces[-1] == "."
    assert pieces[0][0].isupper()
    assert text.__wrapped__(seed, tokens) == pieces


@given(st.integers(6, 400), st.binary(max_size=8))
def test_a_text_is_made_of_whole_sentences(tokens: int, seed: bytes) -> None:
    """However many tokens there are, none of its sentences breaks off."""
    sentences = "".join(text(seed, tokens)).removesuffix(".").split(".")

    assert all(5 <= len(sentence.split()) <= 11 for sentence in sentences)


@settings(max_examples=200)
@given(st.sampled_from(sorted(server._BY_A_MODEL)), st.dictionaries(st.sampled_from(ASKED), JSON, max_size=4))
def test_no_request_is_beyond_it(route: str, odd: dict[str, object]) -> None:
    """Whatever a JSON object says, it is answered or refused; nothing makes the simulator stumble."""
    raw = json.dumps(GOOD | odd).encode()

    with contextlib.suppress(Refused):
        assert all(server._answer_of_a_model(route, raw, 8).pieces)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def kinds() -> st.SearchStrategy[Any]:
    """Types that a structured answer may have."""
    bounds = st.tuples(st.integers(-1000, 1000), st.integers(0, 500)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    simple = st.one_of(
        st.sampled_from([bool, str, int, float, Colour, Literal["a", "b"], Literal[7], None]),
        bounds.map(lambda pair: constrained(int, ge=pair[0], le=pair[1])),
        bounds.map(lambda pair: constrained(float, gt=pair[0], lt=pair[1] + 1)),
        bounds.map(lambda pair: constrained(int, gt=pair[0], lt=pair[0] + 2)),
        bounds.map(lambda pair: constrained(float, gt=pair[0], lt=pair[0] + 0.001)),
        bounds.map(lambda pair: constrained(float, le=pair[0])),
        st.tuples(st.integers(0, 20), st.integers(0, 9)).map(
            lambda pair: constrained(str, min_length=pair[0], max_length=pair[0] + pair[1])
        ),
    )
    return st.recursive(simple, nested, max_leaves=6)


def constrained(kind: type, **bounds: float) -> Any:
    return create_model("Held", held=(kind, Field(**bounds)))  # type: ignore[call-overload]  # bounds vary


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda kind: list[kind]),  # type: ignore[valid-type]  # a type all the same
        inner.map(lambda kind: Optional[kind]),  # noqa: UP045, the new form cannot be made of a variable
        st.lists(inner, max_size=3).map(
            lambda kinds: create_model("Record", **{f"field_{n}": (kind, ...) for n, kind in enumerate(kinds)})  # type: ignore[call-overload]  # fields vary
        ),
    )


@settings(max_examples=60, deadline=None)
@given(kinds(), st.binary(max_size=4))
def test_an_example_satisfies_its_schema(kind: Any, seed: bytes) -> None:
    """Pydantic takes back what was made up for the schema that it wrote."""
    adapter = TypeAdapter(kind)

    value = example(adapter.json_schema(), seed)

    adapter.validate_json(orjson.dumps(value), strict=False)


class Node(BaseModel):
    name: str
    parent: "Node | None"
    children: list["Node"]


class Leaf(BaseModel):
    leaf: bool


class Twig(BaseModel):
    twig: bool


class Fork(BaseModel):
    left: "Fork | Leaf"
    right: "Fork | Leaf"


class Trident(BaseModel):
    left: "Trident | Twig | Leaf"
    middle: "Twig | Trident | Leaf"
    right: "Twig | Leaf | Trident"


@pytest.mark.parametrize("tree", [Node, Fork, Trident])
def test_a_schema_that_refers_to_itself_has_an_example(tree: type[BaseModel]) -> None:
    """A tree ends somewhere."""
    tree.model_validate(example(tree.model_json_schema(), b"seed"))


def test_a_schema_that_always_contains_itself_is_given_up() -> None:
    """There is no finite example; the simulator does not look for one for ever."""
    endless = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}

    assert len(orjson.dumps(example(endless, b"seed"))) < 20_000


@pytest.mark.parametrize("schema", [{}, {"$ref": "#/nowhere"}, {"type": []}, {"anyOf": "x"}, {"items": 3}])
def test_a_schema_that_makes_no_sense_does_no_harm(schema: dict[str, object]) -> None:
    """Something is made up, or nothing."""
    orjson.dumps(example(schema, b"seed"))


def test_what_was_spent_comes_back() -> None:
    """An allowance of 10 a minute gains one each 6 seconds, and no more than it had."""
    allowance = Allowance(10, 60.0)

    allowance.spend(3, now_s=1000.0)

    left = [allowance.remaining(now_s) for now_s in (1000.0, 1005.9, 1006.0, 1012.0, 1018.0, 9999.0)]
    assert left == [7, 7, 8, 9, 10, 10]
    assert allowance.reset_s(1000.0) == pytest.approx(18.0)
    assert allowance.reset_s(9999.0) == 0


def test_an_allowance_never_falls_below_nothing() -> None:
    """The simulator turns nobody away, and recovers at its pace from there."""
    allowance = Allowance(10, 60.0)

    allowance.spend(1_000_000, now_s=5.0)

    assert allowance.remaining(5.0) == 0
    assert allowance.remaining(11.0) == 1


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.0061, "6ms"),
        (0.9996, "1s"),
        (8.64, "8.64s"),
        (86.4, "1m26.4s"),
        (360, "6m0s"),
        (3600.5, "1h0m0.5s"),
        (86400, "24h0m0s"),
    ],
)
def test_durations_are_written_as_the_api_writes_them(seconds: float, written: str) -> None:
    """Down to the millisecond, with the larger units in front."""
    assert duration(seconds) == written
