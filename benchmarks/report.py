"""From raw figures to what is read: medians, spreads and ratios; the table and the JSON.

The rule: a comparison is made within a round and only then over the rounds, since the machine drifts.
"""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any, Literal, NamedTuple

from benchmarks.scenarios import Figures, Scale
from benchmarks.stage import Cores
from benchmarks.subjects import BARE_TEE, DIRECT

_PACKAGES = ("reprise", "aiohttp", "uvloop", "orjson", "diskcache", "structlog")
_SATURATED = 0.9  # of the load core
_QUIET_LOAD = 0.5  # processes that want to run, over the last minute


class Measurement(NamedTuple):
    """One scenario, done to one subject in one round."""

    scenario: str
    subject: str
    round: int
    figures: Figures


class _Figure(NamedTuple):
    title: str
    against_direct: Literal["added", "ratio"] | None = None


# What the table shows; the JSON holds the others, too.
_SHOWN = {
    "answers_per_s": _Figure("answers/s", "ratio"),
    "cpu_us_per_answer": _Figure("CPU µs an answer"),
    "cpu_ms_per_1000_frames": _Figure("CPU ms per 1,000 frames"),
    "first_byte_p50_us": _Figure("first byte p50 µs", "added"),
    "frame_p50_us": _Figure("a frame's way p50 µs", "added"),
    "frame_p99_us": _Figure("a frame's way p99 µs", "added"),
    "whole_p50_us": _Figure("p50 µs", "added"),
    "start_ms": _Figure("first answer after ms"),
    "rest_rss_mb": _Figure("at rest MB (RSS)"),
    "rest_pss_mb": _Figure("at rest MB (PSS)"),
    "kb_per_idle_stream": _Figure("kB an idle stream"),
}
_WHOLE_STREAMS_ARE_PACED = "frame_p50_us"  # so how long they take as a whole says nothing


class Row(NamedTuple):
    """One figure of one subject in one scenario, over all rounds."""

    scenario: str
    subject: str
    figure: str
    median: float
    lowest: float
    highest: float
    added_to_direct: float | None
    ratio_to_direct: float | None
    ratio_to_bare_tee: float | None
    load_saturated: bool
    """The load generator and the upstream could do no more: the subject might."""


def rows(measurements: Sequence[Measurement]) -> list[Row]:
    """Every figure, in the order in which it was measured."""
    order = dict.fromkeys((each.scenario, each.subject, name) for each in measurements for name in each.figures)
    return [_row(measurements, *each) for each in order]


def _row(measurements: Sequence[Measurement], scenario: str, subject: str, figure: str) -> Row:
    own = _by_round(measurements, scenario, subject, figure)
    direct = _by_round(measurements, scenario, DIRECT, figure)
    tee = _by_round(measurements, scenario, BARE_TEE, figure)
    busy = _by_round(measurements, scenario, subject, "load_core_busy")
    return Row(
        scenario,
        subject,
        figure,
        median(own.values()),
        min(own.values()),
        max(own.values()),
        added_to_direct=_compared(own, direct, lambda ours, theirs: ours - theirs),
        ratio_to_direct=_compared(own, direct, _ratio),
        ratio_to_bare_tee=_compared(own, tee, _ratio),
        load_saturated=bool(busy) and median(busy.values()) > _SATURATED,
    )


def _by_round(measurements: Sequence[Measurement], scenario: str, subject: str, figure: str) -> dict[int, float]:
    return {
        each.round: each.figures[figure]
        for each in measurements
        if (each.scenario, each.subject) == (scenario, subject) and figure in each.figures
    }


def _compared(
    own: dict[int, float], other: dict[int, float], comparison: Callable[[float, float], float | None]
) -> float | None:
    compared = (comparison(value, other[number]) for number, value in own.items() if number in other)
    known = [each for each in compared if each is not None]
    return median(known) if known else None


def _ratio(ours: float, theirs: float) -> float | None:
    return ours / theirs if theirs else None


def environment(cores: Cores) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load_core": cores.load,
        "subject_core": cores.subject,
        "load_average_before": os.getloadavg()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def preamble(facts: dict[str, Any], scale: Scale) -> Iterator[str]:
    """What a reader must know before he believes a figure."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items() if number)
    yield f"{facts['python']} on {facts['cores']} cores; {packages}"
    if facts["subject_core"] is None:
        yield "There is but one core: subject, upstream and load generator share it, and times say little."
    else:
        yield (
            f"Pinned: the upstream and the load generator to core {facts['load_core']}, "
            f"the subjects to core {facts['subject_core']}."
        )
    if facts["load_average_before"] > _QUIET_LOAD:
        yield f"THE MACHINE IS NOT QUIET (load average {facts['load_average_before']:.1f}): trust no figure."
    yield f"Median (lowest-highest) of {scale.rounds} rounds; every byte of every answer was compared."
    yield "* the load generator could do no more; the subject might."
    yield ""


def table(all_rows: Sequence[Row]) -> Iterator[str]:
    """Lines of text: a block for each scenario, a line for each subject and under it what it is against the others."""
    for scenario in dict.fromkeys(row.scenario for row in all_rows):
        yield from _block(scenario, [row for row in all_rows if row.scenario == scenario])
        yield ""


def _block(scenario: str, its_rows: Sequence[Row]) -> Iterator[str]:
    measured = {row.figure for row in its_rows}
    hidden = {"whole_p50_us"} if _WHOLE_STREAMS_ARE_PACED in measured else set()
    columns = [name for name in _SHOWN if name in measured - hidden]
    lines = [[scenario, *(_SHOWN[name].title for name in columns)]]
    for subject in dict.fromkeys(row.subject for row in its_rows):
        own = {row.figure: row for row in its_rows if row.subject == subject}
        lines.append([f"  {subject}", *(_measured(own.get(name)) for name in columns)])
        if subject != DIRECT:
            lines.append(["    against direct", *(_against_direct(own.get(name)) for name in columns)])
        if subject not in (DIRECT, BARE_TEE):
            lines.append(["    against bare tee", *(_against_tee(own.get(name)) for name in columns)])
    yield from _aligned([line for line in lines if any(line[1:])])


def _measured(row: Row | None) -> str:
    if row is None:
        return "-"
    mark = " *" if row.load_saturated and row.figure == "answers_per_s" else ""
    return f"{_number(row.median)} ({_number(row.lowest)}-{_number(row.highest)}){mark}"


def _against_direct(row: Row | None) -> str:
    if row is None or row.added_to_direct is None or row.ratio_to_direct is None:
        return ""
    match _SHOWN[row.figure].against_direct:
        case "added":
            return f"{'+' if row.added_to_direct >= 0 else ''}{_number(row.added_to_direct)}"
        case "ratio":
            return f"x{row.ratio_to_direct:.2f}"
        case None:
            return ""


def _against_tee(row: Row | None) -> str:
    return "" if row is None or row.ratio_to_bare_tee is None else f"x{row.ratio_to_bare_tee:.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[0] = max(widths[0], 28)
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
