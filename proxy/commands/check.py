"""`reprise check`: are the settings valid, and where do they come from?"""

import os
from pathlib import Path

import click

from proxy.commands.options import config_option, end_with_the_reader, settings_in_force
from proxy.config import KEYS
from proxy.config.sources import CONFIG_VARIABLE, DEFAULT_FILE, from_environment


@click.command("check")
@config_option
def command(config: Path | None) -> None:
    """Validate the settings."""
    end_with_the_reader()
    settings_in_force(config)
    variables = sorted(place for place, _ in from_environment(os.environ, KEYS).given.values())
    click.echo("The settings are valid.")
    click.echo(f"file: {_file(config) or 'none'}")
    click.echo(f"environment: {', '.join(variables) or 'nothing'}")


def _file(config: Path | None) -> Path | None:
    """The file that took part; `load` has read it, so it is there if it was named."""
    named = config or os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None
