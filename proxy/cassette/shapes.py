"""What secrets look like: texts that nobody would commit, known by their shape.

The rule: one too many hidden costs a word of a test, one too few a key that has to be revoked. What is nobody's is left
alone: addresses in the domains that are reserved for examples (RFC 2606). The texts are anyone's, and some patterns are
the user's: as in `normalize.py` the search lets other threads get on, and gives up when its time is over.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import regex

from proxy.cassette.names import CassetteError

SECRET = "secret"  # noqa: S105 - the name of a group
"""The group of a pattern that is to be hidden, where that is not all of it."""

# Of work, for one recording: the known shapes get through the largest one in a few seconds of it.
_PATIENCE_S = 10.0


class SearchTooLong(CassetteError):
    """A recording that can't be searched for secrets, and so must not be written."""


class Patience:
    """What is left of the work that may go into the search of one recording."""

    def __init__(self, work_s: Callable[[], float]) -> None:
        """`work_s` counts the seconds that the calling thread has worked."""
        self._work_s = work_s
        self._left_s = _PATIENCE_S

    def matches(self, pattern: regex.Pattern[str], text: str) -> Iterator[regex.Match[str]]:
        """Where a pattern matches.

        Raises:
            SearchTooLong: nothing is left, or it takes more memory than there is.
        """
        began_s = self._work_s()
        try:
            if self._left_s <= 0:  # which would mean as long as it takes
                raise TimeoutError  # noqa: TRY301 - as if the last search had found out
            yield from pattern.finditer(text, concurrent=True, timeout=self._left_s)
        except (TimeoutError, MemoryError) as error:
            raise SearchTooLong(
                "to search it for secrets takes too long; try simpler expressions in cache.scrub"
            ) from error
        finally:
            self._left_s -= self._work_s() - began_s


class Shape(NamedTuple):
    """One kind of secret."""

    kind: str
    pattern: regex.Pattern[str]
    signs: tuple[str, ...] = ("",)
    """Of which each such text has one. To look for them takes a hundredth of the time."""

    def spans(self, text: str, patience: Patience) -> Iterator[tuple[int, int]]:
        """Where in a text there is one. Raises as `Patience.matches`."""
        if any(sign in text for sign in self.signs):
            group = SECRET if SECRET in self.pattern.groupindex else 0
            yield from (match.span(group) for match in patience.matches(self.pattern, text))


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
# What an escape is spelled with is no part of a word: arguments of tools are JSON within a string, queries of URLs have
# their equals signs percent-encoded.
_ESCAPE = r"(?:[bfnrt]|u[0-9A-Fa-f]{4})"
_PERCENT_ENCODED = r"[0-9A-Fa-f]{2}"
_START = rf"(?:(?<![A-Za-z0-9])|(?<=\\{_ESCAPE})|(?<=%{_PERCENT_ENCODED}))"
_LABEL = r"[A-Za-z0-9-]{1,63}"
_NOBODYS = (
    rf"(?:{_LABEL}\.){{0,8}}(?:example\.(?:com|net|org)|example|test|invalid|localhost)(?![.-]?[A-Za-z0-9])"  # RFC 2606
)
_PRIVATE_KEY = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"

_KNOWN = (
    Shape(
        "private_key",
        # Also one that is cut off; and no further than to the next one, or many that are would be searched for ever.
        regex.compile(
            rf"-----BEGIN {_PRIVATE_KEY}"
            rf"(?:(?:(?!-----BEGIN).)*?-----END {_PRIVATE_KEY}|(?:(?:\s|\\[nr])*[A-Za-z0-9+/=]{{32,}})*)",
            regex.DOTALL,
        ),
        ("-----BEGIN",),
    ),
    Shape(
        "jwt",
        # RFC 7519: {" twice. Whether there are two dots is looked for once for each run of letters, not at each eyJ in
        # it, of which there may be as many as it is long.
        regex.compile(
            rf"(?<!{_BASE64})(?:(?<=\\){_ESCAPE}|(?<=%){_PERCENT_ENCODED})?"
            rf"(?={_BASE64}++\.eyJ{_BASE64}{{8,}}+\.)(?:{_BASE64}*?[_-])??"
            rf"(?P<{SECRET}>eyJ{_BASE64}{{8,}}+\.eyJ{_BASE64}++\.{_BASE64}*+)"
        ),
        ("eyJ",),
    ),
    Shape(
        "api_key",
        regex.compile(rf"{_START}(?:{'|'.join(_KEYS)})"),
        ("-", "_", "dapi", "AIza", "ya29.", "AKIA", "ASIA", "SG."),
    ),
    Shape(
        "bearer_token",
        # Without a digit in it a shorter one is likely a word.
        regex.compile(
            rf"{_START}(?i:bearer)[ \t]+"
            rf"(?P<{SECRET}>(?:(?=[A-Za-z._~+/-]*[0-9]){_TOKEN}{{16,}}|{_TOKEN}{{32,}})={{0,2}})"
        ),
        (" ", "\t"),
    ),
    Shape(
        "email",
        regex.compile(
            rf"(?<![A-Za-z0-9._%+-])(?:(?<=\\){_ESCAPE})?"
            rf"(?P<{SECRET}>[A-Za-z0-9._%+-]{{1,64}}@(?!{_NOBODYS})(?:{_LABEL}\.){{1,8}}[A-Za-z]{{2,24}})"
        ),
        ("@",),
    ),
)


def shapes(more: Sequence[str]) -> tuple[Shape, ...]:
    """Those that are known, and `more` of the user's: regular expressions, each of which may name a group `secret`."""
    return (*_KNOWN, *(Shape("custom", regex.compile(pattern)) for pattern in more))
