"""The table: a block for each scenario, a line for each subject, and at the end what was promised.

The rule: it shows what a reader compares; the JSON has all the rest.
"""

from collections.abc import Iterator, Sequence

from benchmarks.report import ADDED, Row
from benchmarks.subjects import DIRECT, YARDSTICKS
from benchmarks.targets import Verdict

# In the order of their columns; figures of none of these names are shown under their own, but for the hidden.
_TITLES = {
    "answers_per_s": "answers/s",
    "answers_per_s_alone": "answers/s, load given back",
    "cpu_us_per_answer": "CPU µs an answer",
    "cpu_s_per_100000_frames": "CPU s per 100,000 frames",
    "first_byte_p50_us": "first byte p50 µs",
    "frame_p50_us": "a frame's way p50 µs",
    "frame_p99_us": "a frame's way p99 µs",
    "proxy_cpu_us_per_answer": "its CPU µs an answer",
    "whole_p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "rate_to_alone": "answers/s to alone",
    "cpu_to_alone": "CPU to alone",
    "p50_to_alone": "p50 to alone",
    "p99_to_alone": "p99 to alone",
    "first_miss_ms": "the first ms",
    "miss_p50_ms": "a miss p50 ms",
    "miss_max_ms": "a miss max ms",
    "proxy_cpu_ms_each": "CPU ms of the proxy",
    "search_cpu_ms_each": "CPU ms of the search",
    "start_ms": "first answer after ms",
    "rest_rss_mb": "at rest MB (RSS)",
    "rest_pss_mb": "at rest MB (PSS)",
    "after_rss_mb": "after it MB (RSS)",
    "after_pss_mb": "after it MB (PSS)",
    "kb_per_idle_stream": "kB a stream",
}
_TIMES = {f"{what}_{share}_us" for what in ("whole", "first_byte", "frame") for share in ("p99", "max")}
_HIDDEN = {"answers", "elapsed_s", "load_core_busy", "subject_core_busy", "cpu_s"} | _TIMES - _TITLES.keys()
_SMALL = 0.1  # a ratio that would lose its digits
_OF_PACED_STREAMS = "frame_p50_us"  # how long they take as a whole says nothing
_COMPARED_WITH = {DIRECT, *YARDSTICKS}
_WAITED_FOR = frozenset(("answers_per_s", "answers_per_s_alone"))


def table(all_rows: Sequence[Row]) -> Iterator[str]:
    """Lines of text."""
    for scenario in dict.fromkeys(row.scenario for row in all_rows):
        yield from _block(scenario, [row for row in all_rows if row.scenario == scenario])
        yield ""


def targets_table(verdicts: Sequence[Verdict], *, only_measured: bool) -> Iterator[str]:
    """What was promised, what came of it."""
    shown = [each for each in verdicts if each.measured is not None or not only_measured]
    lines = [[each.target, each.level, each.bound, _multiple(each), _word(each)] for each in shown]
    yield from _aligned([["target", "", "bound", "measured", ""], *lines]) if shown else ()


def _multiple(verdict: Verdict) -> str:
    if verdict.measured is None:
        return "-"
    return f"x{verdict.measured:.2f}" if verdict.is_ratio else _number(verdict.measured)


def _word(verdict: Verdict) -> str:
    return {True: "reached", False: "NOT REACHED", None: "not measured"}[verdict.reached]


def _block(scenario: str, its_rows: Sequence[Row]) -> Iterator[str]:
    measured = {row.figure for row in its_rows} - _HIDDEN
    if _OF_PACED_STREAMS in measured:
        measured.discard("whole_p50_us")
    columns = [*(name for name in _TITLES if name in measured), *sorted(measured - _TITLES.keys())]
    lines = [[scenario, *(_TITLES.get(name, name.replace("_", " ")) for name in columns)]]
    for subject in dict.fromkeys(row.subject for row in its_rows):
        own = {row.figure: row for row in its_rows if row.subject == subject}
        lines.append([f"  {subject}", *(_measured(own.get(name)) for name in columns)])
        if subject not in _COMPARED_WITH:
            lines.append(["    added to direct", *(_added(own.get(name)) for name in columns)])
            lines += [
                [f"    against {each}", *(_ratio(own.get(name), each) for name in columns)] for each in YARDSTICKS
            ]
    yield from _aligned([line for line in lines if any(line[1:])])


def _measured(row: Row | None) -> str:
    if row is None:
        return "-"
    waits = row.figure in _WAITED_FOR and row.load_saturated
    late = row.figure in ADDED and row.subject_saturated
    spread = "" if row.lowest == row.highest else f" ({_number(row.lowest)}-{_number(row.highest)})"
    return f"{_number(row.median)}{spread}{' *' if waits else ' !' if late else ''}"


def _added(row: Row | None) -> str:
    if row is None or row.figure not in ADDED or row.added_to_direct is None:
        return ""
    return f"{'+' if row.added_to_direct >= 0 else ''}{_number(row.added_to_direct)}"


def _ratio(row: Row | None, yardstick: str) -> str:
    ratio = row.ratios.get(yardstick) if row is not None else None
    return "" if ratio is None else f"x{ratio:.3f}" if ratio < _SMALL else f"x{ratio:.2f}"


def _number(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[0] = max(widths[0], 28)
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
