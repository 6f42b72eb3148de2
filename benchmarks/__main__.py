"""`python -m benchmarks`: measure, print a table, write the figures.

The rule: exit code 0 means that every byte of every answer was right; 1 that one was not, or that a program failed.
"""

import argparse
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks.native import NoCompiler
from benchmarks.run import Run
from benchmarks.scenarios import FULL, GROUPS, QUICK

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
    run = Run(replace(scale, rounds=given.rounds or scale.rounds), given.only, given.litellm)
    try:
        run.measure()
    except NoCompiler as missing:
        print(missing, file=sys.stderr)
        return _MISTAKE
    except KeyboardInterrupt:
        print("Interrupted; what was started has been ended.", file=sys.stderr)
        return _INTERRUPTED
    print("\n".join(run.lines()))
    if given.json is not None:
        run.write(given.json)
    if run.stopped_by is not None:
        print(f"Stopped: {run.stopped_by}", file=sys.stderr)
        return _FAULT
    return _DONE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description="What the proxy costs.")
    parser.add_argument("--quick", action="store_true", help="two to three minutes in place of thirty, and less exact")
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write every figure there, too")
    parser.add_argument("--rounds", type=_rounds, metavar="N", help="how often everything is measured at least")
    parser.add_argument("--only", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument(
        "--litellm", type=_program, metavar="FILE", default=shutil.which("litellm"), help="if it is not on the PATH"
    )
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


def _program(text: str) -> Path:
    if shutil.which(text) is None:
        raise argparse.ArgumentTypeError(f"there is no program {text}")
    return Path(text).absolute()


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    # Once is enough: a second one would come in the way of ending what was started.
    for number in _STOP:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
