"""`python -m benchmarks`: measure, print a table, write the figures.

The rule: exit code 0 means that every byte of every answer was right; 1 that one was not, or that a program failed.
"""

import argparse
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import orjson

from benchmarks import report
from benchmarks.processes import ProgramFailed, allow_many_connections
from benchmarks.report import Measurement
from benchmarks.rounds import measure
from benchmarks.scenarios import FULL, GROUPS, QUICK, Scale, scenarios
from benchmarks.stage import BytesWrong, Cores, Stage
from benchmarks.subjects import SUBJECTS

_DONE, _FAULT, _MISTAKE, _INTERRUPTED = 0, 1, 2, 130
_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOST_ROUNDS = 50


def main() -> int:
    """Measure, print and write; the exit code."""
    given = _arguments()
    if not sys.platform.startswith("linux"):
        print("The benchmark reads /proc and sets the affinity of processes: it runs on Linux only.", file=sys.stderr)
        return _MISTAKE
    for number in _STOP:
        signal.signal(number, _interrupt)
    scale = QUICK if given.quick else FULL
    scale = replace(scale, rounds=given.rounds or scale.rounds)
    environment = report.environment(Cores.divide())
    measurements: list[Measurement] = []
    try:
        stopped_by = _measure(scale, given.only, measurements)
    except KeyboardInterrupt:
        print("Interrupted; what was started has been ended.", file=sys.stderr)
        return _INTERRUPTED
    rows = report.rows(measurements)
    print("\n".join((*report.preamble(environment, scale), *report.table(rows))))
    if given.json is not None:
        whole = {"environment": environment, "scale": asdict(scale), "bytes_right": stopped_by is None}
        _write(given.json, {**whole, "stopped_by": stopped_by, "rows": rows, "measurements": measurements})
    if stopped_by is not None:
        print(f"Stopped: {stopped_by}", file=sys.stderr)
        return _FAULT
    return _DONE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description="What the proxy costs.")
    parser.add_argument("--quick", action="store_true", help="a minute and a half in place of five, and less exact")
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write every figure there, too")
    parser.add_argument("--rounds", type=_rounds, metavar="N", help="how often everything is measured")
    parser.add_argument("--only", choices=GROUPS, metavar="SCENARIO", help=", ".join(GROUPS))
    return parser.parse_args()


def _rounds(text: str) -> int:
    if not 1 <= int(text) <= _MOST_ROUNDS:
        raise argparse.ArgumentTypeError(f"expected 1 to {_MOST_ROUNDS}")
    return int(text)


def _new_file(text: str) -> Path:
    file = Path(text)
    if not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {file.parent}")
    return file


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    # Once is enough: a second one would come in the way of ending what was started.
    for number in _STOP:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _measure(scale: Scale, only: str | None, measurements: list[Measurement]) -> str | None:
    """Add what is measured, as it is; the reason if it ended before its end."""
    chosen = [each for each in scenarios(scale) if only in (None, each.group)]
    allow_many_connections()
    try:
        with Stage() as stage:
            measurements.extend(measure(stage, chosen, SUBJECTS, scale.rounds))
    except (BytesWrong, ProgramFailed) as fault:
        return str(fault)
    return None


def _write(file: Path, facts: dict[str, Any]) -> None:
    file.write_bytes(orjson.dumps(facts, default=lambda row: row._asdict(), option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
