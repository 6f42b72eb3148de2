"""A request body in the one form that every spelling of it shares.

The rule: whatever two JSON readers could tell apart stays apart, and what they could read differently has no form.
"""

import json
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from proxy.pointers import Pointer, places

# Twice what the largest requests hold, batches of tokens. Reading this many takes some 0.1 s in which no other thread
# gets on, and 50 MB.
_MOST_VALUES = 500_000

_BACKSLASH = ord("\\")  # to look for a number is much faster than to look for one byte

Normalize = Callable[[dict[str, Any]], object]
"""Changes texts in a body, see `normalize.py`; raises `Uncacheable`."""

Reason = Literal[
    "content_type",
    "content_encoding",
    "override",
    "not_json",
    "ambiguous_json",
    "not_an_object",
    "too_deep",
    "too_many_values",
    "normalize",
    "stateful",
    "stream_flag",
]


class Uncacheable(Exception):
    """The request is forwarded as it came, and neither looked up nor recorded.

    `reason` is for the log and for `Cache-Status`. The message tells a person more, and quotes nothing of the body.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CanonicalBody(NamedTuple):
    """A request body in the one form that every spelling of it shares."""

    text: bytes
    """JSON without the ignored members: names sorted by code point, no white space, numbers as they came."""
    members: dict[str, Any]
    """The whole body as Python values: as it came, ignored members included."""


def canonical_body(raw: bytes, ignore: Sequence[Pointer] = (), normalize: Normalize | None = None) -> CanonicalBody:
    """Bring a request body into canonical form, leaving out the members that `ignore` points to.

    A pointer may pass through arrays, but removes only members of objects; one that points nowhere is no error. What
    is left, `normalize` may change. Without it, the canonical form is its own canonical form.

    Raises:
        Uncacheable: `not_json`, also for what RFC 8259 permits and readers disagree about (a lone surrogate, a number
            beyond a double); `not_an_object`; `ambiguous_json` for names in one object that are one name to some
            reader, an integer outside [-2^63, 2^64) or a number too small for a double; `too_deep` for more than 254
            arrays and objects within each other; `too_many_values`; `normalize`, if that gives up.
    """
    members = _read_strictly(raw)
    try:
        if _is_spelled_plainly(raw, members):
            _refuse_names_alike_within(members)
            tree = orjson.loads(raw) if ignore or normalize else members
        else:
            tree = json.loads(raw.decode(), object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction)
        for pointer in ignore:
            _remove(tree, pointer)
        if normalize:
            normalize(tree)
        # A copy, since it is kept: what orjson gives lies in a buffer of several times its length, which it never cuts.
        return CanonicalBody(b"%b" % orjson.dumps(tree, option=orjson.OPT_SORT_KEYS), members)
    except (RecursionError, orjson.JSONEncodeError) as error:
        raise Uncacheable("too_deep", "its arrays and objects are nested too deeply") from error


def _read_strictly(raw: bytes) -> dict[str, Any]:
    # No fewer than there are: some may stand within texts.
    if len(raw) > _MOST_VALUES and sum(map(raw.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise Uncacheable("too_many_values", "it holds more values than are read for a key")
    # orjson is the judge of what is JSON, since it refuses NaN, byte order marks, UTF-16, invalid UTF-8 and lone
    # surrogates, all of which the standard library accepts.
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Uncacheable("not_json", str(error)) from error
    if not isinstance(value, dict):
        raise Uncacheable("not_an_object", "it is JSON, but no object")
    return value


def _is_spelled_plainly(raw: bytes, members: dict[str, Any]) -> bool:
    # Where orjson, asked to write what it has read, writes the same but for white space and texts, as many tokens came
    # out as went in, so no name was there twice; and each number came out as it had been spelled, so none was rounded.
    # Then what orjson has read is what the slow and careful reading would have found.
    try:
        again = orjson.dumps(members)
    except orjson.JSONEncodeError:  # nested too deeply, which is to be said only if it still is without what is ignored
        return False
    return again == raw or _outside_texts(again) == _outside_texts(raw)


def _outside_texts(text: bytes) -> bytes:
    if _BACKSLASH in text:
        text = text.replace(rb"\\", b"").replace(rb"\"", b"")  # now each quote begins or ends a text
    return b'"'.join(text.split(b'"')[::2]).translate(None, b" \t\r\n")


def _refuse_names_alike_within(members: dict[str, Any]) -> None:
    values: list[Any] = [members]
    names: list[str] = []
    for value in values:  # of which there are more and more on the way
        if type(value) is dict:
            names += value
            values += value.values()
        elif type(value) is list:
            values += value
    if not _are_what_they_seem("".join(names)):
        for value in values:
            if type(value) is dict:
                _refuse_names_alike(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two members of one name some readers take the first, some the last.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Uncacheable("ambiguous_json", "a name appears twice in one object")
    _refuse_names_alike(members)
    return members


def _refuse_names_alike(members: dict[str, Any]) -> None:
    if not _are_what_they_seem("".join(members)) and len(set(map(_as_loosely_read, members))) != len(members):
        raise Uncacheable("ambiguous_json", "two names in one object are one to some readers")


def _are_what_they_seem(names: str) -> bool:
    return names.isascii() and names.islower() and "\0" not in names  # as nearly all are


def _as_loosely_read(name: str) -> str:
    # Go's and .NET's readers match the names of members whatever their case, Swift compares texts whatever their normal
    # form, and a reader in C may end them at NUL. Such a reader takes one of two, and the key knows no order.
    return unicodedata.normalize("NFC", name.partition("\0")[0].casefold())


def _integer(text: str) -> orjson.Fragment:
    # Beyond 64 bits readers round, wrap or refuse. One beyond a double, too long for int(), orjson has refused.
    if not -(2**63) <= int(text) < 2**64:
        raise Uncacheable("ambiguous_json", "an integer does not fit into 64 bits")
    return orjson.Fragment(text)


def _fraction(text: str) -> orjson.Fragment:
    # One too large has been refused by orjson; one too small becomes 0 for some readers, an error for others.
    if float(text) == 0 and text.lower().partition("e")[0].strip("-0."):
        raise Uncacheable("ambiguous_json", "a number is too small for a double")
    return orjson.Fragment(text)


def _remove(tree: dict[str, Any], pointer: Pointer) -> None:
    for holder, name in places(tree, pointer):
        if isinstance(holder, dict):
            del holder[name]
