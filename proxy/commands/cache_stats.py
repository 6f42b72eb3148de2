"""`reprise cache stats`: what the recordings hold, and what they have saved.

The rule: saved is what was not asked for again. A hit saves the tokens that the recorded answer counted, and the time
that it took the upstream; a joined stream is no hit, and is not counted.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click
from rich.table import Table

from proxy.commands.display import bytes_text, console, counted, duration_text, share_text
from proxy.commands.options import config_option, json_option
from proxy.commands.recordings import Listed, recordings
from proxy.config.values import size_text

_BAR = 40  # columns


@dataclass
class _Sum:
    recordings: int = 0
    hits: int = 0
    tokens_recorded: int = 0
    tokens_saved: int = 0
    upstream_seconds_saved: float = 0.0

    def add(self, each: Listed) -> None:
        tokens = (each.summary.input_tokens or 0) + (each.summary.output_tokens or 0)
        self.recordings += 1
        self.hits += each.hits
        self.tokens_recorded += tokens
        self.tokens_saved += each.hits * tokens
        self.upstream_seconds_saved += each.hits * each.summary.duration_s


@click.command("stats")
@config_option
@json_option
def command(*, config: Path | None, as_json: bool) -> None:
    """Show what is recorded, and what it has saved."""
    with recordings(config) as recorded:
        by_model, used_bytes = _sums(recorded.listed()), recorded.volume_bytes()
    total = _sum(by_model.values())
    if as_json:
        models = [{"model": model, **asdict(each)} for model, each in by_model.items()]
        bounds = {"used_bytes": used_bytes, "size_limit_bytes": recorded.size_limit_bytes}
        click.echo(json.dumps({**asdict(total), **bounds, "models": models}, indent=2))
        return
    if not total.recordings:
        click.echo(f"Nothing is recorded in {recorded.directory}.")
        return
    paper = console()
    paper.print(f"{counted(total.recordings, 'recording')} in {recorded.directory}", style="bold", soft_wrap=True)
    paper.print(_usage(used_bytes, recorded.size_limit_bytes), end="\n\n")
    paper.print(_table(by_model, total))


def _sum(sums: Iterable[_Sum]) -> _Sum:
    total = _Sum()
    for each in sums:
        for field in fields(_Sum):
            setattr(total, field.name, getattr(total, field.name) + getattr(each, field.name))
    return total


def _sums(listed: Iterable[Listed]) -> dict[str | None, _Sum]:
    """By model, the one first that has saved most."""
    sums: defaultdict[str | None, _Sum] = defaultdict(_Sum)
    for each in listed:
        sums[each.summary.model].add(each)
    return dict(sorted(sums.items(), key=lambda item: (-item[1].tokens_saved, -item[1].hits, item[0] or "")))


def _usage(used_bytes: int, limit_bytes: int) -> str:
    full = min(_BAR, round(_BAR * used_bytes / limit_bytes))
    bar = "#" * full + "-" * (_BAR - full)
    return f"[{bar}] {bytes_text(used_bytes)} of {size_text(limit_bytes)}, {share_text(used_bytes, limit_bytes)}"


def _table(by_model: dict[str | None, _Sum], total: _Sum) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", footer_style="bold", show_footer=len(by_model) > 1)
    table.add_column("MODEL", footer="all", no_wrap=True)
    names = ("RECORDINGS", "HITS", "TOKENS", "TOKENS SAVED", "UPSTREAM TIME SAVED")
    for name, amount in zip(names, _cells(total), strict=True):
        table.add_column(name, footer=amount, justify="right", no_wrap=True)
    for model, each in by_model.items():
        table.add_row(model or "-", *_cells(each))
    return table


def _cells(each: _Sum) -> tuple[str, ...]:
    counts = (each.recordings, each.hits, each.tokens_recorded, each.tokens_saved)
    return (*(f"{count:,}" for count in counts), duration_text(each.upstream_seconds_saved) if each.hits else "-")
