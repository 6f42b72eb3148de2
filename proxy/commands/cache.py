"""`reprise cache`: look after the recordings, also while a proxy uses them.

The rule: what is removed was named in full view; where a name is not the name of exactly one recording, nothing is.
"""

import sys
from pathlib import Path

import click

from proxy.commands import cache_export, cache_import, cache_ls, cache_show, cache_stats, cache_verify
from proxy.commands.display import counted
from proxy.commands.options import Mistake, config_option, end_with_the_reader
from proxy.commands.recordings import recordings


@click.group("cache")
def command() -> None:
    """Look after the recordings."""
    end_with_the_reader()


@click.command("rm")
@config_option
@click.argument("prefixes", metavar="KEY...", nargs=-1, required=True)
def _remove(config: Path | None, prefixes: tuple[str, ...]) -> None:
    """Remove recordings. The beginning of a key will do if no other key begins so."""
    with recordings(config) as recorded:
        keys = recorded.find(prefixes)
        for key in keys:
            recorded.remove(key)
    click.echo(f"Removed {counted(len(keys), 'recording')}.")


@click.command("clear")
@config_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def _clear(*, config: Path | None, yes: bool) -> None:
    """Remove all recordings."""
    asking = not yes
    if asking and not sys.stdin.isatty():
        raise Mistake("there is nobody to ask here; say --yes to remove all recordings")
    with recordings(config) as recorded:
        count = len(recorded.keys())
        if count and asking and not click.confirm(f"Remove {counted(count, 'recording')} from {recorded.directory}?"):
            click.echo("Nothing was removed.")
            return
        click.echo(f"Removed {counted(recorded.clear(), 'recording')}.")


for _command in (
    *(cache_ls.command, cache_show.command, _remove, _clear, cache_stats.command, cache_verify.command),
    *(cache_export.command, cache_import.command),
):
    command.add_command(_command)
