"""`reprise cache export`: recordings into a cassette, which can be committed, reviewed, and imported elsewhere.

The rule: what can't be read, or searched for secrets, is named and left out, and the exit code says so.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import click

from proxy.cassette import CassetteError, write_cassette
from proxy.cassette.scrubbing import Finding, Scrubber
from proxy.cassette.shapes import SearchTooLong
from proxy.commands.display import counted, printable
from proxy.commands.options import Mistake, config_option, json_option, settings_in_force
from proxy.commands.recordings import Recordings, opened
from proxy.commands.wanted import Wanted, wanted_options
from proxy.key import SHORT_KEY
from proxy.recording import Recording
from proxy.store.codec import Damaged

_WARNING = (
    "Warning: the request of {} was scrubbed. Its key stays that of what was asked, so that this is still answered. It "
    "can't be made from what is left of the request, and it tells whoever guesses what was scrubbed that he is right."
)


class _Export:
    """What goes into a cassette, and what is to be said of it."""

    def __init__(self, scrubber: Scrubber | None) -> None:
        self.exported = 0
        self.left_out: dict[str, str] = {}
        """Keys, and why."""
        self.scrubbed: list[Finding] = []
        self.asked_otherwise: list[str] = []
        """The keys of those whose requests were scrubbed."""
        self._scrubber = scrubber

    def of(self, recorded: Recordings, keys: list[str]) -> Iterator[Recording]:
        """The recordings, as they are to be written."""
        for key in keys:
            try:
                recording = recorded.read(key)
                shown = recording and self._scrub(recording)
            except (Damaged, SearchTooLong) as fault:
                self.left_out[key] = str(fault)
                continue
            if shown is not None:  # it was removed a moment ago
                self.exported += 1
                yield shown

    def _scrub(self, recording: Recording) -> Recording:
        if self._scrubber is None:
            return recording
        scrubbed = self._scrubber.scrub(recording)
        self.scrubbed += scrubbed.findings
        if scrubbed.is_asked_otherwise:
            self.asked_otherwise.append(recording.key)
        return scrubbed.recording


@click.command("export")
@config_option
@click.argument("cassette", metavar="FILE", type=click.Path(path_type=Path))
@wanted_options
@click.option("--no-scrub", is_flag=True, help="Leave secrets in: the very bytes, for a store of your own.")
@json_option
def command(*, config: Path | None, cassette: Path, wanted: Wanted, no_scrub: bool, as_json: bool) -> int:
    """Write recordings to a cassette, without the secrets in them.

    FILE is packed if its name ends with .tar.gz; else it is a directory, and what is in that already stays.
    """
    cache = settings_in_force(config).cache
    export = _Export(None if no_scrub else Scrubber(cache.scrub, time.thread_time))
    with opened(cache) as recorded:
        keys = sorted(each.summary.key for each in wanted.of(recorded))
        if keys:
            try:
                write_cassette(cassette, export.of(recorded, keys))
            except CassetteError as error:
                raise Mistake(printable(str(error))) from error
    if as_json:
        click.echo(json.dumps(_document(cassette, export), indent=2))
    else:
        _report(cassette, export)
    return 1 if export.left_out else 0


def _document(cassette: Path, export: _Export) -> dict[str, object]:
    left_out = [{"key": key, "reason": reason} for key, reason in export.left_out.items()]
    return {
        "cassette": str(cassette),
        "exported": export.exported,
        "left_out": left_out,
        "scrubbed": [finding._asdict() for finding in export.scrubbed],
        "asked_otherwise": export.asked_otherwise,
    }


def _report(cassette: Path, export: _Export) -> None:
    for key, reason in export.left_out.items():
        click.echo(printable(f"left out {key}: {reason}"))
    if not export.exported:
        click.echo("There is nothing to export.")
        return
    click.echo(f"Exported {counted(export.exported, 'recording')} to {printable(str(cassette))}.")
    if export.scrubbed:
        click.echo(f"Scrubbed {counted(sum(finding.times for finding in export.scrubbed), 'secret')}:")
    for key, where, kind, times in export.scrubbed:
        click.echo(printable(f"  {key[:SHORT_KEY]}  {times:,} {kind}  {where}"))
    if export.asked_otherwise:
        click.echo(_WARNING.format(counted(len(export.asked_otherwise), "recording")))
