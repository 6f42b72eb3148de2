"""JSON pointers (RFC 6901) as settings have them: their reference tokens, unescaped, with `*` for all of one level.

The rule: one that leads nowhere is no error, since a list of them serves requests of every shape.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

Pointer = tuple[str, ...]

EVERY = "*"
"""As a token: every member of an object, every element of an array."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")  # of an array, RFC 6901 section 4


def places(tree: Any, pointer: Sequence[str]) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401  # it is JSON: anything can be anywhere
    """Where the pointer leads to: each object or array, with the name or index in it. The whole tree is no such place.

    What stands at a place may be changed or removed before the next one is asked for.
    """
    if not pointer:
        return
    *way, last = pointer
    holders = [tree]
    for token in way:
        holders = [holder[name] for holder in holders for name in _names(holder, token)]
    for holder in holders:
        for name in _names(holder, last):
            yield holder, name


def written(pointer: Sequence[str]) -> str:
    """The pointer as RFC 6901 spells it."""
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in pointer)


def _names(holder: Any, token: str) -> Sequence[str | int]:  # noqa: ANN401  # it is JSON: anything can be anywhere
    if isinstance(holder, dict):
        return list(holder) if token == EVERY else [token] if token in holder else []
    if not isinstance(holder, list):
        return []
    if token == EVERY:
        return range(len(holder))
    return [int(token)] if _INDEX.fullmatch(token) and int(token) < len(holder) else []
