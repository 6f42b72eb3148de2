"""`reprise cache ls`: the recordings, a line each, the newest first."""

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.commands.display import age_text, bytes_text, console, counted, duration_text, share_text
from proxy.commands.options import config_option, json_option
from proxy.commands.recordings import Listed, Recordings, recordings
from proxy.commands.wanted import Wanted, wanted_options
from proxy.config.values import size_text
from proxy.key import SHORT_KEY
from proxy.store.summary import Summary

_MEMBERS = [field.name for field in fields(Summary)]
_NUMERIC = frozenset(("AGE", "SIZE", "FRAMES", "TIME", "TOKENS", "HITS"))
_FIRST_TO_GO = ("FRAMES", "TIME", "KIND", "TOKENS", "ROUTE", "SIZE", "HITS")  # where the terminal is narrow
_LONGEST_MODEL = 24  # columns of a terminal; their names have up to 250 characters
_PROMPT = 24  # columns; with fewer one prompt can't be told from another


@click.command("ls")
@config_option
@wanted_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the newest N of those.")
@json_option
def command(*, config: Path | None, wanted: Wanted, limit: int | None, as_json: bool) -> None:
    """List the recordings, the newest first."""
    with recordings(config) as recorded:
        found = islice(wanted.of(recorded), limit)
        if as_json:
            _write_array(found)
            return
        shown, used_bytes = list(found), recorded.volume_bytes()
    if shown:
        paper = console()
        paper.print(_table(shown, paper))
    click.echo(_footer(shown, recorded, used_bytes))


def _write_array(found: Iterator[Listed]) -> None:
    """One by one, since there may be a million, and a line each."""
    separator = "[\n"
    for each in found:
        sys.stdout.write(f"{separator}{json.dumps(_facts(each))}")
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")
    sys.stdout.flush()


def _facts(each: Listed) -> dict[str, object]:
    summary = {name: getattr(each.summary, name) for name in _MEMBERS}
    return {**summary, "age_s": int(each.age_s), "stored_bytes": each.stored_bytes, "hits": each.hits}


def _table(shown: list[Listed], paper: Console) -> Table:
    rows = [_cells(each) for each in shown]
    names = _fitting(rows, paper.width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        longest = _LONGEST_MODEL if name == "MODEL" and paper.is_terminal else None
        table.add_column(name, justify="right" if name in _NUMERIC else "left", no_wrap=True, max_width=longest)
    table.add_column("PROMPT")
    for row, each in zip(rows, shown, strict=True):
        prompt = Text(each.summary.prompt, style="dim", no_wrap=True, overflow="ellipsis")
        table.add_row(*(row[name] for name in names), prompt)
    return table


def _cells(each: Listed) -> dict[str, str]:
    summary = each.summary
    return {
        "KEY": summary.key[:SHORT_KEY],
        "AGE": age_text(each.age_s),
        "MODEL": summary.model or "-",
        "ROUTE": summary.path.removeprefix("/v1/"),
        "KIND": "stream" if summary.stream else "plain",
        "SIZE": bytes_text(each.stored_bytes),
        "FRAMES": f"{summary.frames:,}",
        "TIME": duration_text(summary.duration_s),
        "TOKENS": _tokens(summary),
        "HITS": f"{each.hits:,}",
    }


def _fitting(rows: list[dict[str, str]], width: int) -> list[str]:
    """The columns for which there is room beside the prompt."""
    widths = {name: 2 + max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    widths["MODEL"] = min(widths["MODEL"], 2 + _LONGEST_MODEL)
    for name in _FIRST_TO_GO:
        if sum(widths.values()) + _PROMPT <= width:
            break
        del widths[name]
    return list(widths)


def _tokens(summary: Summary) -> str:
    if summary.input_tokens is None and summary.output_tokens is None:
        return "-"
    return f"{summary.input_tokens or 0:,}+{summary.output_tokens or 0:,}"


def _footer(shown: list[Listed], recorded: Recordings, used_bytes: int) -> str:
    if not shown and not used_bytes:
        return f"Nothing is recorded in {recorded.directory}."
    stored = bytes_text(sum(each.stored_bytes for each in shown))
    share = share_text(used_bytes, recorded.size_limit_bytes)
    limit = size_text(recorded.size_limit_bytes)
    return f"{counted(len(shown), 'recording')}, {stored}. The store uses {share} of cache.size_limit, {limit}."
