"""Sentences, vectors and choices drawn from a seed: the same seed gives the same, on any machine and any Python."""

import hashlib
import itertools
import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

_DETERMINERS = ("The", "Every", "This", "One", "Another", "Some")
_ADJECTIVES = ("quiet", "patient", "golden", "distant", "old", "gentle", "bright", "wandering", "curious", "small")
_SUBJECTS = ("cello", "river", "lighthouse", "café", "choir", "orchard", "lantern", "clock", "swallow", "piano", "tide")
_ADVERBS = ("always", "softly", "gladly", "slowly", "often", "still")
_VERBS = ("answers", "follows", "remembers", "carries", "greets", "repeats", "gathers", "borrows", "keeps", "awaits")
_OBJECTS = ("melody", "harbour", "morning", "étude", "refrain", "garden", "rain", "echo", "road", "evening", "bell")
_TAILS = (
    ("before", "the", "rain"),
    ("after", "the", "concert"),
    ("in", "late", "summer"),
    ("without", "a", "word"),
    ("across", "the", "valley"),
    ("until", "it", "returns"),
)
_SHORTEST, _LONGEST = 6, 12  # tokens in a sentence, full stop and all
_SENTENCES_A_PARAGRAPH = 4


def seed_of(*said: bytes) -> bytes:
    """A seed of 32 bytes, however much was said: seeds are remembered."""
    return hashlib.sha256(b"\n".join(said)).digest()


class Lots:
    """Choices drawn one after another."""

    def __init__(self, seed: bytes) -> None:
        self._bytes = itertools.cycle(hashlib.shake_256(seed).digest(1024))

    def choose(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]

    def number(self, below: int) -> int:
        return (next(self._bytes) << 8 | next(self._bytes)) % below


@lru_cache(maxsize=256)  # benchmarks ask the same few prompts over and over
def text(seed: bytes, tokens: int) -> tuple[str, ...]:
    """Text of exactly that many tokens, each with the white space before it, in sentences of 6 to 12 tokens."""
    lots, words = Lots(seed), list[str]()
    for number, length in enumerate(_sentence_lengths(lots, tokens)):
        sentence = _sentence(lots, length)
        first_gap = "" if number == 0 else " " if number % _SENTENCES_A_PARAGRAPH else "\n\n"
        words += [first_gap + sentence[0], *(" " + word for word in sentence[1:]), "."]
    return (*words[: tokens - 1], ".")


def _sentence_lengths(lots: Lots, tokens: int) -> list[int]:
    """Lengths that add up to `tokens`, the last one being all that is left when that makes one sentence."""
    lengths, left = list[int](), tokens
    while left > _LONGEST:
        longest = min(_LONGEST, left - _SHORTEST)
        lengths.append(_SHORTEST + lots.number(longest - _SHORTEST + 1))
        left -= lengths[-1]
    return [*lengths, left]


def _sentence(lots: Lots, length: int) -> list[str]:
    """The words of a sentence of `length` tokens: six at least, then as many ornaments as it takes."""
    more = length - _SHORTEST
    with_tail, with_adverb, adjectives = more >= 3, more == 6, more % 3 if more < 6 else 2  # noqa: PLR2004, a tail has 3 words
    return [
        lots.choose(_DETERMINERS),
        *([lots.choose(_ADJECTIVES)] if adjectives > 0 else []),
        lots.choose(_SUBJECTS),
        *([lots.choose(_ADVERBS)] if with_adverb else []),
        lots.choose(_VERBS),
        "the",
        *([lots.choose(_ADJECTIVES)] if adjectives > 1 else []),
        lots.choose(_OBJECTS),
        *(lots.choose(_TAILS) if with_tail else ()),
    ]


@lru_cache(maxsize=256)
def vector(seed: bytes, dimensions: int) -> bytes:
    """A vector of length 1, as little-endian 32-bit floats."""
    raw = struct.unpack(f"<{dimensions}i", hashlib.shake_256(seed).digest(4 * dimensions))
    length = math.hypot(*raw)
    return struct.pack(f"<{dimensions}f", *(each / length for each in raw))


def tokens_in(said: bytes) -> int:
    """About as many tokens as a tokenizer would find: one for four bytes."""
    return max(1, (len(said) + 3) // 4)
