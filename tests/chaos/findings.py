"""What a soak has found: faults, and figures of what happened.

The rule: one wrong byte ends the run, with both bodies kept for whoever looks into it; other faults end it when there
are many.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import NoReturn

MOST_FAULTS = 20


class SoakStopped(Exception):
    """There is no point in going on."""


class Findings:
    """Faults in the order in which they were found, and counts of everything else."""

    def __init__(self, seed: int) -> None:
        self.faults: list[str] = []
        self.wrong_bytes = 0
        self.seed = seed
        self.counts: dict[str, Counter[str]] = {}
        self.figures: dict[str, float] = {}
        self.stopped = False

    def count(self, group: str, name: str, by: int = 1) -> None:
        self.counts.setdefault(group, Counter())[name] += by

    def fault(self, what: str) -> None:
        """Take note of a fault; with many of them, that is the end of the run."""
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(what)
        self.stopped |= len(self.faults) >= MOST_FAULTS

    def add(self, more: str) -> None:
        """Say more of the last fault."""
        self.faults[-1] += more

    def wrong(self, what: str, expected: bytes, received: bytes) -> NoReturn:
        """Keep both bodies, and end the run.

        Raises:
            SoakStopped: always.
        """
        self.wrong_bytes += 1
        self.stopped = True
        directory = Path(tempfile.mkdtemp(prefix="soak-"))
        (directory / "expected").write_bytes(expected)
        (directory / "received").write_bytes(received)
        self.faults.append(f"wrong bytes, seed {self.seed}: {what}; {difference(expected, received)}; see {directory}")
        raise SoakStopped(self.faults[-1])


def difference(expected: bytes, received: bytes) -> str:
    """Where two bodies begin to differ, if they do."""
    if expected == received:
        return f"all {len(received)} bytes that were sent"
    place = next(
        (place for place, (one, other) in enumerate(zip(expected, received, strict=False)) if one != other),
        min(len(expected), len(received)),
    )
    around = slice(max(0, place - 20), place + 40)
    return (
        f"{len(received)} bytes came where {len(expected)} were sent, the first difference is at {place}: "
        f"{expected[around]!r} was sent, {received[around]!r} came"
    )
