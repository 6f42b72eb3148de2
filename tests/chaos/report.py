"""What a soak prints: figures of what happened, so that nobody takes silence for proof.

The rule: a fault stands last, where it is seen.
"""

from collections.abc import Iterator

from tests.chaos.course import Options
from tests.chaos.findings import Findings
from tests.chaos.scene import MIB

_GROUPS = {
    "requests": "requests",
    "words": "X-Cache-Status",
    "ends": "as clients saw them end",
    "outcomes": "outcomes in the log",
    "departures": "departures",
    "cut off": "broken off",
    "own errors": "errors of the proxy's own",
    "kinds": "at the upstream",
    "hits": "hits",
    "only-if-cached": "only-if-cached",
    "recordings": "recordings",
    "not stored because": "not stored because",
    "hazards": "hazards",
    "events": "events in the log",
    "disturbed": "while the proxy was killed",
}
_WIDTH = 110


def lines(options: Options, findings: Findings) -> Iterator[str]:
    """The report, line by line."""
    figures = findings.figures
    yield f"seed {options.seed}, {options.seconds:g} s, {options.clients} clients"
    for name, title in _GROUPS.items():
        if counts := findings.counts.get(name):
            parts = [f"{what} {count:,}" for what, count in sorted(counts.items(), key=lambda one: -one[1])]
            yield from _wrapped(f"{title} ({sum(counts.values()):,})", parts)
    for name, value in figures.items():
        yield f"  {name:<26} {_shown(name, value):>12}"
    yield f"wrong bytes {findings.wrong_bytes}, faults {len(findings.faults)}"
    yield from (f"FAULT {fault}" for fault in findings.faults)


def _wrapped(title: str, parts: list[str]) -> Iterator[str]:
    yield title
    line = " "
    for part in parts:
        if len(line) + len(part) > _WIDTH:
            yield line
            line = " "
        line += f" {part},"
    yield line.rstrip(",")


def _shown(name: str, value: float) -> str:
    if name.startswith("resident"):
        return f"{value / MIB:,.1f} MiB"
    return f"{value:,.2f} s" if name.endswith("_s") else f"{value:,.0f}"
