"""Settings for the tests of settings: one value read, or what is said of it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.config import SettingsError, load

NO_FILE = Path(os.devnull)
"""A file that says nothing: else the one in the directory that the tests are run in would be read, for each anew."""


def read(key: str, value: object) -> Any:  # the types of the keys differ
    """What a value given for `key` becomes."""
    section, _, name = key.partition(".")
    return getattr(getattr(load(NO_FILE, {key: value}, {}), section), name)


def problems(
    overrides: Mapping[str, object], environ: Mapping[str, str] | None = None, config: Path | None = None
) -> tuple[str, ...]:
    """Everything that is wrong with these settings; nothing if they are accepted."""
    try:
        load(config, overrides, environ or {})
    except SettingsError as refused:
        return refused.problems
    return ()


def problem(key: str, value: object) -> str:
    """The one thing that is wrong with a value."""
    (only,) = problems({key: value}, config=NO_FILE)
    return only
