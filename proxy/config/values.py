"""What the value of a setting may look like: text from a file, the environment or the command line made into its type.

The rule: what is refused is refused with a sentence that tells a person what was expected. A sentence that begins with
"expected" can be followed by what was found instead; no sentence quotes the value itself where it could be a secret.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import orjson
import regex
from pydantic import AfterValidator, BeforeValidator, PlainValidator, SecretStr

from proxy.key import is_credential
from proxy.normalize import Rule, refuse_unusable
from proxy.pace import Pace
from proxy.pointers import EVERY

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_S = 36_500 * 86_400  # a hundred years: beyond it timers and dates overflow

_SIZE = re.compile(r"(?ai)([0-9]{1,19}) ?((?:[kmgt]i?)?b)?")
_UNIT_BYTES = {"b": 1}
_UNIT_BYTES |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)}
_UNIT_BYTES |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)}
_LARGEST_BYTES = 2**63 - 1  # what SQLite can count

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_ROUTE = re.compile(r"/?(?:v1/)?(?!v1$)([A-Za-z0-9_~-][A-Za-z0-9_.~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*)")
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+")  # RFC 6901 section 3
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_CREDENTIAL_HEADERS = frozenset(("cookie", "proxy-authorization"))  # besides those that the key knows

_LONGEST_QUOTE = 60

_Item = TypeVar("_Item")


def size_text(size_bytes: int) -> str:
    """A size as a person writes it, in the largest binary unit that divides it: `16MiB`, `1000B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _UNIT_BYTES[unit.lower()] == 0:
            return f"{size_bytes // _UNIT_BYTES[unit.lower()]}{unit}"
    return f"{size_bytes}B"


def _seconds(value: object) -> float:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        value = float(match[1]) * _UNIT_MS[match[2] or "s"] / 1000
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError("expected a duration such as 30s or 7d")
    if value > _LONGEST_S:
        raise ValueError("expected a duration of at most 36500d")
    return float(value)


def _some_seconds(value: float) -> float:
    if value == 0:
        raise ValueError("expected a duration of more than 0")
    return value


def _switch(value: object) -> bool:
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    if value is True or value is False:
        return value
    raise ValueError("expected true or false")


def _bytes(value: object) -> int:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        value = int(match[1]) * _UNIT_BYTES[(match[2] or "B").lower()]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_BYTES:
        raise ValueError("expected a size such as 512KiB or 1GiB")
    return value


def _some_bytes(value: int) -> int:
    if value == 0:
        raise ValueError("expected a size of more than 0")
    return value


def _whole_number(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return value

    return parse


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected text")
    return value


def _file_or_directory(value: object) -> Path | None:
    return None if value is None else _directory(value)


def _directory(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("expected the path of a directory such as .reprise")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("expected the path of a directory; this one is in the home of nobody known here") from error


def _pace(value: object) -> Pace:
    return value if isinstance(value, Pace) else Pace.parse(value if isinstance(value, str) else "")


def _api_key(value: object) -> SecretStr | None:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text is None:
        return None
    # A line end, as in a key read from a file, would be refused much later, when the first request is sent.
    if not isinstance(text, str) or not _VISIBLE_ASCII.fullmatch(text) or "${" in text:
        raise ValueError("expected a key of visible ASCII characters, or ${NAME} to read it from the environment")
    return SecretStr(text)


def _route(value: object) -> str:
    match = _ROUTE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a route such as chat/completions")
    return f"/v1/{match[1]}"


def _pointer(value: object) -> object:
    if isinstance(value, tuple):
        return value
    if value in ("", f"/{EVERY}"):
        raise ValueError("expected a JSON pointer such as /user; this one would leave nothing in the key")
    if not isinstance(value, str) or not _POINTER.fullmatch(value):
        raise ValueError("expected a JSON pointer such as /user or /metadata/run")
    if value == "/stream":
        raise ValueError("/stream can't be left out of the key: an event stream is no answer to who asked for JSON")
    return _tokens(value)


def _tokens(pointer: str) -> tuple[str, ...]:
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])


def _rule(value: object) -> Rule:
    if isinstance(value, Rule):
        return value
    if not isinstance(value, Mapping) or not value or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(
            "expected rules of a pointer, a pattern and what replaces it, such as "
            "{pointer: /messages/*/content, pattern: '[0-9]{4}', replace: YEAR}"
        )
    if value.keys() != set(Rule._fields):
        names = ", ".join(map(str, value))
        raise ValueError(f"a rule has pointer, pattern and replace, and this one {names[:_LONGEST_QUOTE]}")
    if not _POINTER.fullmatch(value["pointer"]):
        raise ValueError(f"{value['pointer'][:_LONGEST_QUOTE]!r} is no JSON pointer such as /messages/*/content")
    rule = Rule(_tokens(value["pointer"]), value["pattern"], value["replace"])
    refuse_unusable(rule)
    return rule


def _vary_header(value: object) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ValueError("expected the name of a header such as openai-beta")
    if is_credential(value.lower()) or value.lower() in _CREDENTIAL_HEADERS:
        raise ValueError(
            f"{value.lower()} is a credential, not to be stored; cache.scope: credential keeps callers apart"
        )
    return value.lower()


def _expression(value: object) -> str:
    try:
        regex.compile(value if isinstance(value, str) else "(")
    except (regex.error, ArithmeticError, MemoryError, RecursionError, ValueError) as error:
        raise ValueError("expected a regular expression such as ACME-[0-9]{8}") from error
    return str(value)


def _items(value: object) -> object:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            value = None
    elif isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list")  # noqa: TRY004 - a TypeError would not become a validation error
    return value


def _distinct(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A duration: `250ms`, `30s`, `5m`, `2h`, `7d`, or a plain number of seconds; 0 to a hundred years."""
SomeSeconds = Annotated[Seconds, AfterValidator(_some_seconds)]
"""A duration of more than 0."""
Switch = Annotated[bool, BeforeValidator(_switch)]
Bytes = Annotated[int, BeforeValidator(_bytes)]
"""A size: `512KiB` (1024), `10MB` (1000), or a plain number of bytes."""
SomeBytes = Annotated[Bytes, AfterValidator(_some_bytes)]
"""A size of more than 0."""
Port = Annotated[int, BeforeValidator(_whole_number(0, 65_535))]
Retries = Annotated[int, BeforeValidator(_whole_number(0, 10))]
Workers = Annotated[int, BeforeValidator(_whole_number(0, 256))]
Connections = Annotated[int, BeforeValidator(_whole_number(0, 65_535))]
Text = Annotated[str, BeforeValidator(_text)]
Directory = Annotated[Path, BeforeValidator(_directory)]
FileOrDirectory = Annotated[Path | None, BeforeValidator(_file_or_directory)]
ReplayPace = Annotated[Pace, PlainValidator(_pace)]
ApiKey = Annotated[SecretStr | None, BeforeValidator(_api_key)]
Route = Annotated[str, BeforeValidator(_route)]
"""`/v1/chat/completions`; may be written without the `/v1/`."""
Pointer = Annotated[tuple[str, ...], BeforeValidator(_pointer)]
"""A JSON pointer (RFC 6901) as its reference tokens, unescaped; `*` stands for all of one level."""
NormalizeRule = Annotated[Rule, PlainValidator(_rule)]
"""A mapping of `pointer`, `pattern` and `replace`, each of them text."""
VaryHeader = Annotated[str, BeforeValidator(_vary_header)]
"""The name of a request header in lower case, never one that carries a credential."""
Expression = Annotated[str, BeforeValidator(_expression)]
"""A regular expression, as Python has them."""
Listed = Annotated[tuple[_Item, ...], BeforeValidator(_items), AfterValidator(_distinct)]
"""A list without repetitions: a YAML list, a JSON list as text, or text with commas."""
