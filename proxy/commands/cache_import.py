"""`reprise cache import`: the recordings of a cassette into the store, also of a proxy that runs.

The rule: all of them or none. What is wrong with a cassette is found before anything is stored.
"""

import json
from collections import Counter
from pathlib import Path

import click

from proxy.cassette import CassetteError, read_cassette
from proxy.commands.display import counted, printable
from proxy.commands.options import Mistake, config_option, json_option, settings_in_force
from proxy.commands.recordings import Recordings, opened
from proxy.config.values import size_text


@click.command("import")
@config_option
@click.argument("cassette", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def command(*, config: Path | None, cassette: Path, as_json: bool) -> None:
    """Store the recordings of a cassette, each in place of one of its key.

    FILE is a directory or a .tar.gz of it.
    """
    cache = settings_in_force(config).cache
    try:
        _look_through(cassette)
        with opened(cache, make=True) as recorded:
            found = _store(cassette, recorded)
    except CassetteError as error:
        raise Mistake(f"{printable(str(error))}. Nothing was imported.") from error
    if as_json:
        click.echo(json.dumps({"directory": str(cache.directory), **found}, indent=2))
        return
    of_them = f", {found['replaced']:,} of them in place of others" if found["replaced"] else ""
    click.echo(f"Imported {counted(found['imported'], 'recording')} into {cache.directory}{of_them}.")
    if found["gave_way"]:
        what = f"{counted(found['gave_way'], 'recording')}, those stored longest ago, had to give way"
        click.echo(f"{what}, since cache.size_limit is {size_text(cache.size_limit)}.")


def _look_through(cassette: Path) -> None:
    if not sum(1 for _ in read_cassette(cassette)):
        raise CassetteError(f"{cassette}: no recording is in it; name the directory that has its .json files")


def _store(cassette: Path, recorded: Recordings) -> Counter[str]:
    before = set(recorded.keys())
    found = Counter({"imported": 0, "replaced": 0, "gave_way": 0})
    for recording in read_cassette(cassette):
        recorded.put(recording)
        found["imported"] += 1
        found["replaced"] += recording.key in before
    left = len(recorded.keys())
    found["gave_way"] = max(0, len(before) + found["imported"] - found["replaced"] - left)
    return found
