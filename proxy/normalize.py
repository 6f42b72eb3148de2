"""Texts in a request that differ from run to run, brought to one form for its key: dates, temporary paths, run ids.

The patterns are the operator's and the texts are anyone's. Python's own `re` can be held up for ever by the wrong text
for a pattern, with all other threads of the process; `regex` reads the same patterns, lets go of the others while it
searches, and gives up when its time is over.

The rule: what is changed is a copy, never what the upstream gets.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import regex

from proxy import pointers
from proxy.canonical import Uncacheable
from proxy.pointers import Pointer

# Of work, for one request: a pattern without traps gets through megabytes in a few hundredths of it. In a long text it
# is looked at so seldom that a trap can take 4 s more, and 300 MB; models take no longer ones.
_PATIENCE_S = 1.0
_LONGEST_TEXT = 4 * 1024 * 1024

# In one request, so that what replaces them does not take more memory than what was sent: 25 MB at most.
_MOST_MATCHES = 100_000
LONGEST_REPLACEMENT = 256
_LONGEST_SHOWN = 60

# Nothing that could make half of a character, and leave the request without a form.
_REPLACEMENT = regex.compile(r"(?:[^\\]|\\\\|\\n|\\t|\\(?P<group>[1-9][0-9]?)|\\g<(?P<group>[A-Za-z0-9_]{1,100})>)*")


class Rule(NamedTuple):
    """What to look for in the texts that a pointer leads to, and what to put in its place."""

    pointer: Pointer
    pattern: str
    """A Python regular expression."""
    replace: str
    r"""In which `\1` or `\g<name>` stands for a group, and `\\` for a backslash."""


class Change(NamedTuple):
    """What a rule has done to a request."""

    rule: Rule
    texts: int
    """Those that it has found something in."""
    matches: int


def refuse_unusable(rule: Rule) -> None:
    """See to it that a rule can be applied to any text.

    Raises:
        ValueError: its pattern is no regular expression, or its replacement does not fit it; the message says why.
    """
    try:
        pattern = regex.compile(rule.pattern)
    except (regex.error, ArithmeticError, MemoryError, RecursionError, ValueError) as error:
        raise ValueError(f"{_shown(rule.pattern)} is no regular expression: {error}") from error
    replacement = _REPLACEMENT.fullmatch(rule.replace)
    if replacement is None or len(rule.replace) > LONGEST_REPLACEMENT or not _is_text(rule.replace):
        raise ValueError(
            rf"{_shown(rule.replace)} is no replacement: at most {LONGEST_REPLACEMENT} characters, in which \1 or "
            r"\g<name> stands for a group of the pattern, and \\ for a backslash"
        )
    known = {*map(str, range(pattern.groups + 1)), *pattern.groupindex}
    for name in replacement.captures("group"):
        if name not in known:
            raise ValueError(f"{_shown(rule.replace)} names the group {name}, which {_shown(rule.pattern)} has not")


class Normalizer:
    """Applies rules, in their order, to requests. May be used by several threads at a time."""

    def __init__(self, rules: Sequence[Rule], work_s: Callable[[], float]) -> None:
        """`work_s` counts the seconds that the calling thread has worked."""
        self._rules = [(rule, regex.compile(rule.pattern)) for rule in rules]
        self._work_s = work_s

    def apply(self, tree: dict[str, Any]) -> list[Change]:
        """Change the texts of a request's body; what each rule did.

        Raises:
            Uncacheable: `normalize`, there is a text of more than four million characters to search, that takes longer
                than a second, or more than 100,000 matches are found.
        """
        end_s = self._work_s() + _PATIENCE_S
        changes: list[Change] = []
        left = _MOST_MATCHES
        for rule, pattern in self._rules:
            texts = matches = 0
            for holder, name in pointers.places(tree, rule.pointer):
                if type(holder[name]) is str:
                    holder[name], found = self._replaced(pattern, rule.replace, holder[name], left - matches, end_s)
                    texts += bool(found)
                    matches += found
            left -= matches
            changes.append(Change(rule, texts, matches))
        return changes

    def _replaced(
        self, pattern: regex.Pattern[str], replacement: str, text: str, most: int, end_s: float
    ) -> tuple[str, int]:
        if len(text) > _LONGEST_TEXT:
            raise Uncacheable("normalize", "it has a text that is too long for cache.normalize to search")
        left_s = end_s - self._work_s()
        try:
            if left_s <= 0:  # which would mean as long as it takes
                raise TimeoutError  # noqa: TRY301 - as if the last search had found out
            text, found = pattern.subn(replacement, text, most + 1, concurrent=True, timeout=left_s)
        except (TimeoutError, MemoryError) as error:
            raise Uncacheable("normalize", "cache.normalize takes too long to search it") from error
        if found > most:
            raise Uncacheable("normalize", "cache.normalize finds too much in it to replace")
        return text, found


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r} and so on"
