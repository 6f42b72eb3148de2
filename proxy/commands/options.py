"""What several commands take: the settings in force, durations, and the end of whoever reads the output.

The rule: what is wrong with an argument or a setting is told in words of the user's, and the exit code is 2.
"""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from pydantic import TypeAdapter, ValidationError

from proxy.config import Settings, SettingsError, load
from proxy.config.values import Seconds

_Command = TypeVar("_Command", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The settings; else $REPRISE_CONFIG, else ./config.yaml, else the defaults.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")


class Mistake(click.ClickException):
    """The user's, who can mend it: the message says how."""

    exit_code = 2


class InvalidSettings(Mistake):
    """Each line begins with the place to mend, so nothing stands before it."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=True)


def duration_option(name: str, meaning: str, default: str | None = None) -> Callable[[_Command], _Command]:
    """An option such as `250ms`, `30s` or `7d`, spelled as in the settings; the command gets seconds."""
    return click.option(
        name, metavar="DURATION", default=default, show_default=True, callback=_in_seconds, help=meaning
    )


def settings_in_force(config: Path | None, overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings that a proxy started here and now would have; `overrides` are options by dotted key."""
    try:
        return load(config, overrides or {}, os.environ)
    except SettingsError as error:
        raise InvalidSettings(str(error)) from error


def _in_seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else TypeAdapter(Seconds).validate_python(value)
    except ValidationError as error:
        raise click.BadParameter(f"{error.errors()[0]['ctx']['error']}, got {value!r}") from error


def end_with_the_reader() -> None:
    """End without a word when nobody reads on, as in `reprise cache ls | head -1`.

    Not for a command with sockets, which would end when somebody else does.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
