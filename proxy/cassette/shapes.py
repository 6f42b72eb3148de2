"""What secrets look like: texts that nobody would commit, known by their shape.

The rule: one too many hidden costs a word of a test, one too few a key that has to be revoked. What is nobody's is left
alone: addresses in the domains that are reserved for examples (RFC 2606).
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SECRET = "secret"  # noqa: S105 - the name of a group
"""The group of a pattern that is to be hidden, where that is not all of it."""


class Shape(NamedTuple):
    """One kind of secret."""

    kind: str
    pattern: re.Pattern[str]
    signs: tuple[str, ...] = ("",)
    """Of which each such text has one. To look for them takes a hundredth of the time, which matters for a long text
    that is none: meanwhile no other thread gets on."""

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where in a text there is one."""
        if any(sign in text for sign in self.signs):
            group = SECRET if SECRET in self.pattern.groupindex else 0
            yield from (match.span(group) for match in self.pattern.finditer(text))


# By whoever gives them out; the most of them say so themselves at the beginning.
_KEYS = (
    r"(?:sk|csk|xai|pplx|nvapi|tvly|glpat)-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek, ...
    r"(?:gsk|fw|hf|r8|npm|gh[pousr])_[A-Za-z0-9]{20,}",  # Groq, Fireworks, Hugging Face, Replicate, npm, GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"pypi-AgE[A-Za-z0-9_-]{16,}",
    r"lsv2_[a-z]{2}_[0-9a-f]{16,}(?:_[0-9a-f]+)?",  # LangSmith
    r"dapi[0-9a-f]{32}",  # Databricks
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS
    r"xox[a-z]-[A-Za-z0-9-]{10,}",  # Slack
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
)
_TOKEN = r"[A-Za-z0-9._~+/-]"  # noqa: S105 - RFC 6750 section 2.1
_BASE64 = r"[A-Za-z0-9_-]"
# The letter of an escape is no part of a word: arguments of tools are JSON within a string.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt]))"
_LABEL = r"[A-Za-z0-9-]{1,63}"
_NOBODYS = (
    rf"(?:{_LABEL}\.){{0,8}}(?:example\.(?:com|net|org)|example|test|invalid|localhost)(?![.-]?[A-Za-z0-9])"  # RFC 2606
)
_PRIVATE_KEY = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"

_KNOWN = (
    Shape(
        "private_key",
        # Also one that is cut off; and no further than to the next one, or many that are would be searched for ever.
        re.compile(
            rf"-----BEGIN {_PRIVATE_KEY}"
            rf"(?:(?:(?!-----BEGIN).)*?-----END {_PRIVATE_KEY}|(?:(?:\s|\\[nr])*[A-Za-z0-9+/=]{{32,}})*)",
            re.DOTALL,
        ),
        ("-----BEGIN",),
    ),
    Shape(
        "jwt",
        re.compile(rf"{_START}eyJ{_BASE64}{{8,}}\.eyJ{_BASE64}{{8,}}\.{_BASE64}*"),  # RFC 7519: {" twice
        ("eyJ",),
    ),
    Shape(
        "api_key",
        re.compile(rf"{_START}(?:{'|'.join(_KEYS)})"),
        ("-", "_", "dapi", "AIza", "ya29.", "AKIA", "ASIA", "SG."),
    ),
    Shape(
        "bearer_token",
        # Without a digit in it a shorter one is likely a word.
        re.compile(
            rf"{_START}(?i:bearer)[ \t]+"
            rf"(?P<{SECRET}>(?:(?=[A-Za-z._~+/-]*[0-9]){_TOKEN}{{16,}}|{_TOKEN}{{32,}})={{0,2}})"
        ),
        (" ", "\t"),
    ),
    Shape(
        "email",
        re.compile(
            rf"(?<![A-Za-z0-9._%+-])(?:(?<=\\)[bfnrt])?"
            rf"(?P<{SECRET}>[A-Za-z0-9._%+-]{{1,64}}@(?!{_NOBODYS})(?:{_LABEL}\.){{1,8}}[A-Za-z]{{2,24}})"
        ),
        ("@",),
    ),
)


def shapes(more: Sequence[str]) -> tuple[Shape, ...]:
    """Those that are known, and `more` of the user's: regular expressions, each of which may name a group `secret`."""
    return (*_KNOWN, *(Shape("custom", re.compile(pattern)) for pattern in more))
