"""From raw figures to what is read: medians, spreads, and ratios.

The rule: a comparison is made within a round and only then over the rounds, since the machine drifts.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.subjects import DIRECT, YARDSTICKS

# A proxy is judged by what it adds to these, not by what they are.
ADDED = frozenset(("first_byte_p50_us", "first_byte_p99_us", "frame_p50_us", "frame_p99_us"))
_BUSY = 0.9  # of a core


class Measurement(NamedTuple):
    """One scenario, done to one subject in one round."""

    scenario: str
    subject: str
    round: int
    figures: dict[str, float]


class Row(NamedTuple):
    """One figure of one subject in one scenario, over all rounds."""

    scenario: str
    subject: str
    figure: str
    median: float
    lowest: float
    highest: float
    added_to_direct: float | None
    ratios: dict[str, float]
    """To each yardstick of the scenario; of what is added to the direct connection where that is what counts."""
    load_saturated: bool
    """The load generator and the upstream could do no more: the subject might."""
    subject_saturated: bool
    """The subject could do no more: what was asked of it had to wait."""


class Figures:
    """All that was measured, and how any two of it compare."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        for scenario, subject, number, figures in measurements:
            for figure, value in figures.items():
                self._values.setdefault((scenario, subject, figure), {})[number] = value

    def rows(self) -> list[Row]:
        """Every figure, in the order in which it was measured."""
        return [self._row(*each) for each in self._values]

    def median(self, scenario: str, subject: str, figure: str) -> float | None:
        values = self._of(scenario, subject, figure)
        return median(values.values()) if values else None

    def ratio(self, figure: str, own: tuple[str, str], other: tuple[str, str]) -> float | None:
        """How one (scenario, subject) compares with another; None where there is nothing to compare."""
        ours, theirs = self._comparable(figure, *own), self._comparable(figure, *other)
        return _over_rounds(ours, theirs, lambda one, another: one / another if another > 0 else None)

    def _row(self, scenario: str, subject: str, figure: str) -> Row:
        own = self._of(scenario, subject, figure)
        ratios = {each: self.ratio(figure, (scenario, subject), (scenario, each)) for each in YARDSTICKS}
        return Row(
            scenario,
            subject,
            figure,
            median(own.values()),
            min(own.values()),
            max(own.values()),
            added_to_direct=_over_rounds(own, self._of(scenario, DIRECT, figure), lambda ours, theirs: ours - theirs),
            ratios={name: value for name, value in ratios.items() if value is not None},
            load_saturated=(self.median(scenario, subject, "load_core_busy") or 0) > _BUSY,
            subject_saturated=(self.median(scenario, subject, "subject_core_busy") or 0) > _BUSY,
        )

    def _comparable(self, figure: str, scenario: str, subject: str) -> dict[int, float]:
        own = self._of(scenario, subject, figure)
        if figure not in ADDED:
            return own
        direct = self._of(scenario, DIRECT, figure)
        return {number: value - direct[number] for number, value in own.items() if number in direct}

    def _of(self, scenario: str, subject: str, figure: str) -> dict[int, float]:
        return self._values.get((scenario, subject, figure), {})


def _over_rounds(
    own: dict[int, float], other: dict[int, float], comparison: Callable[[float, float], float | None]
) -> float | None:
    compared = (comparison(value, other[number]) for number, value in own.items() if number in other)
    known = [each for each in compared if each is not None]
    return median(known) if known else None
