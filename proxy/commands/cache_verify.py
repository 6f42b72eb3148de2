"""`reprise cache verify`: read every recording, to see whether it is whole.

The rule: it only looks. A damaged recording is a miss, and the proxy removes it when it meets it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import click
from rich.progress import track

from proxy.commands.display import console, counted, printable
from proxy.commands.options import config_option, json_option
from proxy.commands.recordings import Recordings, recordings
from proxy.store.codec import Damaged, UnknownVersion
from proxy.store.database import ShelfTrouble


class _Finding(NamedTuple):
    key: str
    reason: str


@click.command("verify")
@config_option
@json_option
def command(*, config: Path | None, as_json: bool) -> int:
    """Read every recording; exit with 1 if one is damaged."""
    with recordings(config) as recorded:
        keys = recorded.keys()
        damaged, foreign = _examine(recorded, keys)
    if as_json:
        found = {"damaged": damaged, "of_another_version": foreign}
        document = {what: [each._asdict() for each in findings] for what, findings in found.items()}
        click.echo(json.dumps({"recordings": len(keys), **document}, indent=2))
    else:
        _report(recorded, len(keys), damaged, foreign)
    return 1 if damaged else 0


def _examine(recorded: Recordings, keys: list[str]) -> tuple[list[_Finding], list[_Finding]]:
    """The damaged ones, and those that another version of this program wrote."""
    damaged, foreign = [], []
    for key in _shown_as_they_go(keys):
        try:
            recorded.read(key)
        except UnknownVersion as version:
            foreign.append(_Finding(key, str(version)))
        except (Damaged, ShelfTrouble) as damage:
            damaged.append(_Finding(key, str(damage)))
    return damaged, foreign


def _shown_as_they_go(keys: list[str]) -> Iterable[str]:
    """The keys, and on a terminal how many of them are left."""
    paper = console(stderr=True)
    return track(keys, "Reading", console=paper, transient=True) if paper.is_terminal else keys


def _report(recorded: Recordings, count: int, damaged: list[_Finding], foreign: list[_Finding]) -> None:
    if not count:
        click.echo(f"Nothing is recorded in {recorded.directory}.")
        return
    for what, findings in (("damaged", damaged), ("of another version", foreign)):
        for finding in findings:
            click.echo(printable(f"{what} {finding.key}: {finding.reason}"))
    sound = count - len(damaged) - len(foreign)
    verdict = f"{sound:,} sound, {len(damaged):,} damaged, {len(foreign):,} of another version"
    click.echo(f"{counted(count, 'recording')}: {verdict}.")
