"""Request bodies that look alike: some say the same in other words, some nearly the same, some nothing at all.

The rule: everything follows from one `Random`, so that a pair that fails can be made again.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeAlias, TypeVar

_T = TypeVar("_T")

Tree: TypeAlias = "bytes | list[Tree] | tuple[tuple[bytes, Tree], ...]"
"""A value before it is written: a spelled leaf, an array, or the members of an object, repeated names and all."""

TEXTS: Sequence[Sequence[bytes]] = [
    [b'"a"', rb'"\u0061"'],
    [b'"A"', rb'"\u0041"'],
    [b'"ab"', rb'"\u0061b"', rb'"a\u0062"'],
    [b'"/"', rb'"\/"', rb'"\u002f"', rb'"\u002F"'],
    ['"\u00e9"'.encode(), rb'"\u00e9"', rb'"\u00E9"'],
    ['"e\u0301"'.encode(), rb'"e\u0301"'],
    ['"\U0001f600"'.encode(), rb'"\ud83d\ude00"', rb'"\uD83D\uDE00"'],
    ['"\ufffd"'.encode(), rb'"\ufffd"'],
    ['"\ufeffa"'.encode(), rb'"\ufeffa"'],
    ['"\u2028"'.encode(), rb'"\u2028"'],
    [b'"\x7f"', rb'"\u007f"'],
    [rb'"\n"', rb'"\u000a"'],
    [rb'"\u0000"'],
    [rb'"a\u0000"'],
    [rb'"\\u0061"', rb'"\u005cu0061"'],
    [b'" a"', rb'"\u0020a"'],
    [b'"a "'],
    [b'""'],
    [b'"1"'],
]
"""Each row is one text, and the ways to write it."""
NO_TEXTS = [
    *(rb'"\ud83d"', rb'"\ude00\ud83d"', rb'"\ud83da"', rb'"a\ude00"', b'"\xed\xa0\xbd\xed\xb8\x80"', b'"\xed\xa0\xbd"'),
    *(b'"\xff"', b'"\xe9"', b'"\xc0\xaf"', b'"\xe0\x80\xaf"', b'"\xf4\x90\x80\x80"', b'"\xc3"', b'"a\x00"', b'"\n"'),
    *(rb'"\x41"', rb'"\u00"', rb'"\u00g0"', rb'"\U0001f600"', rb'"\'"', b"'a'", b'"a', b"a", b'"\x1f"', b'"\x7f\x80"'),
]
NUMBERS = [
    *(
        b"0",
        b"-0",
        b"0.0",
        b"-0.0",
        b"0e0",
        b"0E5",
        b"0e-999",
        b"1",
        b"1.0",
        b"1.00",
        b"1e0",
        b"1E0",
        b"1e+0",
        b"10e-1",
    ),
    *(b"10E-1", b"9007199254740992", b"9007199254740993", b"9007199254740993.0", b"9223372036854775807", b"-1", b"2e2"),
    *(b"9223372036854775808", b"18446744073709551615", b"-9223372036854775808", b"1e20", b"100000000000000000000.0"),
    *(b"0.1", b"0.10", b"0.1000000000000000055511151231257827021181583404541015625", b"5e-324", b"4e-324", b"200"),
    *(b"1.7976931348623157e308", b"0.30000000000000004", b"0.3", b"0." + b"0" * 30 + b"1", b"1" * 40 + b"e-30"),
]
NO_NUMBERS = [
    *(
        b"18446744073709551616",
        b"18446744073709551617",
        b"-9223372036854775809",
        b"1e400",
        b"-1e400",
        b"1e-400",
        b"1e309",
    ),
    *(b"1.8e308", b"2e-324", b"0." + b"0" * 400 + b"1", b"9" * 400, b"9" * 5000, b"01", b"-01", b"+1", b".5", b"1."),
    *(b"NaN", b"-Infinity", b"0x1", b"1_0", b"1e", b"1e+", b"--1", b"- 1", b"1f", "\u0661".encode(), "\uff11".encode()),
]
LITERALS = [b"true", b"false", b"null"]
NO_LITERALS = [b"True", b"NULL", b"nul", b"nulll", b"undefined", b""]
BLANKS = [b"", b"", b"", b" ", b"\t", b"\r\n  "]
NO_BLANKS = [
    b"\x0b",
    b"\x0c",
    b"\xa0",
    "\u00a0".encode(),
    b"\x00",
    b"\xef\xbb\xbf",
    b"//\n",
    b"/**/",
    b",",
    b"}",
    b"{}",
]


def tree(random: Random, depth: int = 3) -> Tree:
    """Some object, its members not always of different names."""
    return tuple((text(random), _value(random, depth - 1)) for _ in range(random.randrange(1, 5)))


def written(tree: Tree, random: Random) -> bytes:
    """One of the ways to write it; now and then one that is wrong."""
    return _blank(random) + _written(tree, random) + _blank(random)


def like(tree: Tree, random: Random) -> Tree:
    """The same, or nearly the same."""
    match tree:
        case bytes():
            return _leaf_like(tree, random)
        case list():
            items: list[Tree] = [like(item, random) for item in tree]
            nested: list[Tree] = [items]
            return _sometimes(random, items, items[:-1], items[::-1], nested)
        case _:
            members = [(_leaf_like(name, random), like(value, random)) for name, value in tree]
            shuffled = random.sample(members, len(members))
            return tuple(
                _sometimes(random, shuffled, shuffled[1:], [*shuffled, random.choice(members)] if members else [])
            )


def text(random: Random) -> bytes:
    if random.random() < 0.01:
        return random.choice(NO_TEXTS)
    return random.choice(random.choice(TEXTS))


def _value(random: Random, depth: int) -> Tree:
    kind = random.random()
    if depth and kind < 0.15:
        return [_value(random, depth - 1) for _ in range(random.randrange(4))]
    if depth and kind < 0.35:
        return tree(random, depth)
    return text(random) if kind < 0.6 else _plain(random)


def _plain(random: Random) -> bytes:
    if random.random() < 0.02:
        return random.choice(NO_NUMBERS + NO_LITERALS)
    return random.choice(NUMBERS + LITERALS * 3)


def _leaf_like(leaf: bytes, random: Random) -> bytes:
    spellings = next((row for row in TEXTS if leaf in row), None)
    if random.random() < 0.06:
        return text(random) if spellings else random.choice([_plain(random), text(random)])
    return random.choice(spellings) if spellings else leaf


def _sometimes(random: Random, mostly: _T, *others: _T) -> _T:
    return random.choice(others) if random.random() < 0.05 else mostly


def _written(tree: Tree, random: Random) -> bytes:
    match tree:
        case bytes():
            return tree
        case list():
            return b"[" + _listed([_written(item, random) for item in tree], random) + b"]"
        case _:
            pairs = [
                _written(name, random) + _blank(random) + b":" + _blank(random) + _written(value, random)
                for name, value in tree
            ]
            return b"{" + _listed(pairs, random) + b"}"


def _listed(parts: list[bytes], random: Random) -> bytes:
    return b",".join(_blank(random) + part + _blank(random) for part in parts)


def _blank(random: Random) -> bytes:
    return random.choice(NO_BLANKS if random.random() < 0.003 else BLANKS)
