"""`reprise cache ls`: the recordings, a line each, the newest first."""

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.commands.display import age_text, bytes_text, console, counted, duration_text, share_text
from proxy.commands.options import config_option, duration_option, json_option
from proxy.commands.recordings import SHORT, Listed, Recordings, asked, recordings
from proxy.config.values import size_text
from proxy.store.codec import Damaged
from proxy.store.summary import Summary
from proxy.transcript import assembled_text

_MEMBERS = [field.name for field in fields(Summary)]
_NUMERIC = frozenset(("AGE", "SIZE", "FRAMES", "TIME", "TOKENS", "HITS"))
_FIRST_TO_GO = ("FRAMES", "TIME", "KIND", "TOKENS", "ROUTE", "SIZE", "HITS")  # where the terminal is narrow
_LONGEST_MODEL = 24  # columns of a terminal; their names have up to 250 characters
_PROMPT = 24  # columns; with fewer one prompt can't be told from another


class _Filter(NamedTuple):
    """Which recordings are wanted; None asks for nothing."""

    model: str | None
    older_than_s: float | None
    newer_than_s: float | None
    text: str | None

    def of(self, recorded: Recordings) -> Iterator[Listed]:
        """Those that are wanted, the newest first."""
        listed = recorded.newest_first(self._wants)
        return (each for each in listed if self.text is None or _says(recorded, each.summary.key, self.text))

    def _wants(self, each: Listed) -> bool:
        return (
            (self.model is None or fnmatchcase(each.summary.model or "", self.model))
            and (self.older_than_s is None or each.age_s >= self.older_than_s)
            and (self.newer_than_s is None or each.age_s <= self.newer_than_s)
        )


@click.command("ls")
@config_option
@click.option("--model", metavar="GLOB", help="Only those of models such as 'gpt-4*'.")
@duration_option("--older-than", "Only those recorded longer ago, such as 7d.")
@duration_option("--newer-than", "Only those recorded since, such as 1h.")
@click.option("--text", metavar="WORD", help="Only those with this in the request or the answer; reads them all.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the newest N of those.")
@json_option
def command(  # noqa: PLR0913 - click gives each option as an argument
    *,
    config: Path | None,
    model: str | None,
    older_than: float | None,
    newer_than: float | None,
    text: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the recordings, the newest first."""
    wanted = _Filter(model, older_than, newer_than, text)
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


def _says(recorded: Recordings, key: str, word: str) -> bool:
    """Whether the word, in whatever case, is in a text of the request or in the answer."""
    try:
        recording = recorded.read(key)
    except Damaged:
        return False
    if recording is None:
        return False
    answer = assembled_text(recording.body) or recording.body.decode(errors="replace")
    texts = [answer, *_texts(asked(recording))]
    return any(word.casefold() in text.casefold() for text in texts)


def _texts(value: object) -> Iterator[str]:
    """The strings of a JSON document, without the names of its members."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


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
        "KEY": summary.key[:SHORT],
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
