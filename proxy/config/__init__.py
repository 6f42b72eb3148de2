"""Settings: typed and valid, or one readable error that names every mistake.

The rule: whoever holds a `Settings` need not check it again, and nothing is read from the outside but by `load`.
Durations are seconds and sizes bytes, as in `config/values.py`; a key's meaning for a user is in `config.yaml`, too.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config import exposure, sources
from proxy.config.sections import (
    KEYS,
    CacheSettings,
    LogSettings,
    ReplaySettings,
    ServerSettings,
    Settings,
    UpstreamSettings,
)
from proxy.config.sources import Given

__all__ = [
    "KEYS",
    "CacheSettings",
    "LogSettings",
    "ReplaySettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "UpstreamSettings",
    "load",
]

_API_KEY = "upstream.api_key"
_NOT_GIVEN = Given("", None)
_PRIVATE = re.compile(r"[@?]|sk-|bearer", re.IGNORECASE)  # a URL with a password or token, a key in the wrong place
_LONGEST_QUOTE = 60


class SettingsError(Exception):
    """The settings can't be used. Each of `problems` begins with the place to mend; `str` has one a line."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(map(_printable, problems))
        super().__init__("\n".join(self.problems))


def load(config: Path | None, overrides: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """Settings from `overrides` (by dotted key; None is not given), else `environ`, else the file, else the defaults.

    The file is `config`, else `$REPRISE_CONFIG`, else `./config.yaml` if there is one. A variable set to nothing counts
    as unset, and a key without a value as not given.

    Raises:
        SettingsError: anything is wrong; or `server.host` is not loopback while `cache.scope` is shared or
            `upstream.api_key` is set, which would give strangers paid answers.
    """
    command_line = sources.from_command_line(overrides, KEYS)
    environment = sources.from_environment(environ, KEYS)
    file = sources.from_file(config, environ, KEYS)
    given = file.given | environment.given | command_line.given
    reference = sources.from_reference(_API_KEY, given, environ)
    if reference.problems and given.get("cache.mode", _NOT_GIVEN).value == "replay":
        del given[_API_KEY]  # nobody is asked, so that nobody needs it: tests are to run where there is none
        reference = sources.Source()
    given |= reference.given

    problems = [problem for source in (file, environment, command_line, reference) for problem in source.problems]
    settings = _validated(given, problems)
    if file.readable:
        problems += exposure.of_given(given)
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def _validated(given: Mapping[str, Given], problems: list[str]) -> Settings | None:
    try:
        return Settings.model_validate(sources.by_section(given))
    except ValidationError as error:
        # Not raised from here: a traceback of it would show what is in the settings, keys too.
        problems += [_sentence(detail, given) for detail in error.errors(include_url=False)]
        return None


def _sentence(detail: ErrorDetails, given: Mapping[str, Given]) -> str:
    key = ".".join(map(str, detail["loc"][:2]))
    place = given[key].place if key in given else key
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        reason = "expected " + context["expected"].replace("'", "")
    else:
        reason = str(context.get("error", "expected something else"))
    return f"{place}: {reason}" + (_found(key, detail["input"]) if reason.startswith("expected") else "")


def _found(key: str, value: object) -> str:
    if key == _API_KEY or (isinstance(value, str) and _PRIVATE.search(value)):
        return ""
    match value:
        case None:
            return ", got nothing"
        case list():
            return ", got a list"
        case dict():
            return ", got a mapping"
        case _ if len(str(value)) > _LONGEST_QUOTE:
            return f", got {str(value)[:_LONGEST_QUOTE]!r} and so on"
        case _:
            return f", got {value!r}"


def _printable(problem: str) -> str:
    """A line stays one line, and a terminal does nothing but show it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in problem)
