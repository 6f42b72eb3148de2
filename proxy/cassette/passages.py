"""The texts in a body, each with the pieces in which it lies there.

A text that is streamed lies in many events. Where log probabilities were asked for it is there once more, a token at a
time, each with its bytes as numbers and with what could have stood in its place.

The rule: what is a text for whoever reads the answer is searched as one, however it was cut.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from proxy.sse import read_json

_STRING = re.compile(rb'"([^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*)"')
_NUMBERED = re.compile(rb'"\s*:\s*(\[[0-9,\s]*\])')
_LINE = re.compile(rb"[^\r\n]+")
_DATA = b"data:"
_NUMBERS = ("index", "output_index", "content_index", "item_id")  # which of several texts that are streamed at a time
_NAME = ()

Place = tuple[object, ...]
"""Names and positions as in a JSON pointer; tuples among them are what else tells texts apart, and the last of them
`_NAME` for the name of a member itself."""


class Piece(NamedTuple):
    """Some of the bytes of a text, as JSON spells them."""

    start: int
    raw: bytes
    twins: tuple["Piece", ...] = ()
    """What tells the same in another way, and is to be hidden wherever a part of this is."""
    is_numbers: bool = False
    """Whether it is the bytes of a text as a list of numbers."""


_Found = tuple[Place, Piece]


def passages(body: bytes) -> Iterator[list[Piece]]:
    """The texts of an answer, JSON or an event stream. Those with twins come last."""
    if body.lstrip().startswith((b"{", b"[")):
        tokens, others = _tokens_apart(body, 0, strings(body))
        yield from ([piece] for _, piece in others)
        yield from tokens.values()
        return
    streamed: dict[Place, list[Piece]] = {}
    tokens = {}
    for line in _LINE.finditer(body):
        start = line.start() + len(_DATA) * line[0].startswith(_DATA)
        text = line[0].removeprefix(_DATA)
        found = [(place, piece._replace(start=start + piece.start)) for place, piece in strings(text)]
        listed, others = _tokens_apart(text, start, found)
        for place, piece in others:
            if _is_streamed(place):
                streamed.setdefault(place, []).append(piece)
            else:
                yield [piece]
        if listed:
            # The last event of a text has all of its tokens again.
            kind = next((piece.raw for place, piece in found if place[1:] == ("type",)), b"")
            for place, pieces in listed.items():
                tokens.setdefault((kind, *place), []).extend(pieces)
    yield from streamed.values()
    yield from tokens.values()


def strings(text: bytes) -> Iterator[_Found]:
    """The strings of a JSON document, names of members too, and their places; of anything else all of it."""
    try:
        places = list(_places(read_json(text), ()))
    except (ValueError, RecursionError):
        yield (), Piece(0, text)
        return
    pieces = [Piece(match.start(1), match[1]) for match in _STRING.finditer(text)]
    if len(places) == len(pieces):
        yield from zip(places, pieces, strict=True)
    else:  # a name that is there twice was read once
        yield from (((), piece) for piece in pieces)


def _places(value: Any, place: Place) -> Iterator[Place]:  # noqa: ANN401 - it is JSON: anything can be anywhere
    """The place of each string, in the order in which they stand in the document."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict):
        numbers = tuple((name, value[name]) for name in _NUMBERS if isinstance(value.get(name), int | str))
        for name, inner in value.items():
            yield (*place, numbers, name, _NAME)
            yield from _places(inner, (*place, numbers, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, (*place, number))


def _is_streamed(place: Place) -> bool:
    return ("delta" in place or place[-1:] == ("text",)) and place[-1] != _NAME


# Log probabilities


def _tokens_apart(text: bytes, start: int, found: Iterable[_Found]) -> tuple[dict[Place, list[Piece]], list[_Found]]:
    """The tokens of each list of them, with their twins, and all strings of a document but these."""
    others = list(found)
    if b'"logprobs"' not in text:
        return {}, others
    spelled = _spelled_in_numbers(text, start, others)
    tokens: dict[tuple[Place, int], Piece] = {}
    instead: dict[tuple[Place, int], list[Piece]] = {}
    remaining = []
    for place, plain in others:
        numbers = spelled.get(place[:-1]) if place[-1:] == ("token",) else None
        piece = plain if numbers is None else plain._replace(twins=(numbers,))
        listed, number, is_token = _listed(place)
        if is_token:
            tokens[listed, number] = piece
            continue
        remaining.append((place, piece))  # by itself it may be a secret, where the token is none
        if listed:
            instead.setdefault((listed, number), []).extend((piece, *piece.twins))
    lists: dict[Place, list[Piece]] = {}
    for (listed, number), piece in tokens.items():
        twins = (*piece.twins, *instead.get((listed, number), ()))
        lists.setdefault(listed, []).append(piece._replace(twins=twins))
    return lists, remaining


def _spelled_in_numbers(text: bytes, start: int, found: Iterable[_Found]) -> dict[Place, Piece]:
    """The bytes of tokens, by the places of the objects that have both."""
    spelled = {}
    for place, piece in found:
        if "logprobs" in place and place[-2:] == ("bytes", _NAME):
            numbers = _NUMBERED.match(text, piece.start - start + len(piece.raw))
            if numbers is not None:
                spelled[place[:-2]] = Piece(start + numbers.start(1), numbers[1], is_numbers=True)
    return spelled


def _listed(place: Place) -> tuple[Place, int, bool]:
    """In which list of tokens a string is, at which place in it, and whether it is the token or stands for another one.

    An empty place for what is in none.
    """
    if "logprobs" not in place:
        return (), 0, False
    after = place.index("logprobs") + 1
    head, is_name = place[:after], place[-1] == _NAME
    match [step for step in place[after:] if not isinstance(step, tuple)]:
        case ["tokens", int(number)]:  # of completions, where what could have stood there are the names of members
            return (*head, "tokens"), number, True
        case ["top_logprobs", int(number), str()] if is_name:
            return (*head, "tokens"), number, False
        case [int(number), *inner, "token"] if not is_name:  # of responses
            return head, number, not inner
        case [str(name), int(number), *inner, "token"] if not is_name:  # of chat completions: `content`, `refusal`
            return (*head, name), number, not inner
        case _:
            return (), 0, False
