"""`python -m tests.chaos`: run a soak, print what happened, and say by the exit code whether all was well.

The rule: 0 means that no byte was wrong, that no fault was found, and that the proxy gave back what it had taken.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import orjson

from tests.chaos import course, report
from tests.chaos.course import Options

_WELL, _FAULT = 0, 1


def main() -> int:
    """Run, print and write; the exit code."""
    given = _arguments()
    options = Options(given.seconds, given.seed, given.clients, reload=given.reload, kill=given.kill)
    with tempfile.TemporaryDirectory(prefix="soak-proxy-", ignore_cleanup_errors=True) as directory:
        findings = asyncio.run(course.run(options, Path(directory)))
    sys.stdout.write("\n".join(report.lines(options, findings)) + "\n")
    if given.json is not None:
        given.json.write_bytes(orjson.dumps(course.as_json(options, findings), option=orjson.OPT_INDENT_2))
    return _FAULT if findings.faults else _WELL


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.chaos", description="The proxy under seeded chaos.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same plan")
    parser.add_argument("--clients", type=int, default=32, help="at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument("--reload", action="store_true", help="send SIGHUP with other settings now and then")
    parser.add_argument("--kill", action="store_true", help="kill the proxy now and then, and start it again")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
