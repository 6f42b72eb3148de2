"""What a conversation asks for, whichever of the two APIs it came through, and what the simulated model replies."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from proxy.simulator.example import example
from proxy.simulator.request import Json, RequestBody
from proxy.simulator.speech import seed_of, text

MOST_TOKENS = 2**31 - 1  # that a request may allow

_SHORTEST_TELLING_WORD = 4  # letters: "get" in get_weather says nothing about what it is for
_ANY_OBJECT: Json = {"type": "object", "properties": {"answer": {"type": "string"}}}


class Call(NamedTuple):
    """A function that the model wants called; its arguments are JSON, in the pieces that a stream sends."""

    name: str
    pieces: tuple[str, ...]

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class Reply(NamedTuple):
    """Text, in the pieces that a stream sends, or calls."""

    pieces: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    cut: bool = False
    """The limit of tokens was reached before the end."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return len(self.pieces) + sum(len(call.pieces) for call in self.calls)


class Question(NamedTuple):
    model: str
    said: bytes
    """All that was said so far, as JSON."""
    tools: Sequence[Json] = ()
    """The functions to call now; where there are none, the reply is text."""
    schema: Json | None = None
    """What the text must satisfy as JSON."""
    limit: int | None = None
    """Of tokens in the reply."""

    def reply(self, usual_tokens: int, choice: int = 0) -> Reply:
        """Always the same for the same model, conversation and number of the choice."""
        seed = seed_of(b"%d" % choice, self.model.encode(), self.said)
        if self.tools:
            return Reply(calls=tuple(_call(function, seed) for function in self.tools))
        pieces = text(seed, usual_tokens) if self.schema is None else _json_pieces(self.schema, seed)
        return Reply(pieces[: self.limit], cut=self.limit is not None and self.limit < len(pieces))


def _call(function: Json, seed: bytes) -> Call:
    parameters = function.get("parameters")
    return Call(str(function.get("name")), _json_pieces(parameters if isinstance(parameters, dict) else {}, seed))


def _json_pieces(schema: Json, seed: bytes) -> tuple[str, ...]:
    document = orjson.dumps(example({"type": "object"} | schema, seed)).decode()
    return tuple(re.findall(r"\w+|\W+", document))


def schema_in(form: Json, declared: object) -> Json | None:
    """The schema that a `json_object` or `json_schema` answer has to satisfy; None for text."""
    if form.get("type") == "json_object":
        return _ANY_OBJECT
    if form.get("type") != "json_schema" or not isinstance(declared, dict):
        return None
    schema = declared.get("schema")
    return schema if isinstance(schema, dict) else _ANY_OBJECT


def tools_to_call(body: RequestBody, functions: list[Json], last: Json) -> list[Json]:
    """The functions that the model calls.

    The one that the request names, or the first where it requires any; else each whose name shares a word with what
    the user has just said, such as get_weather with "How is the weather?". `last` is the last message.
    """
    choice = body.members.get("tool_choice")
    if isinstance(choice, dict):
        return [function for function in functions if function.get("name") == _name_in(choice)]
    if choice in ("none", "required"):
        return functions[:1] if choice == "required" else []
    words = _telling_words(text_of(last.get("content"))) if last.get("role") == "user" else set()
    return [function for function in functions if words & _telling_words(str(function.get("name")))]


def _name_in(choice: Json) -> object:
    """The two APIs write it differently: `{"function": {"name": …}}` and `{"name": …}`."""
    function = choice.get("function")
    return function.get("name") if isinstance(function, dict) else choice.get("name")


def _telling_words(phrase: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", phrase.lower()) if len(word) >= _SHORTEST_TELLING_WORD}


def text_of(content: object) -> str:
    """The text in a message's content: a string, or an array of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)
