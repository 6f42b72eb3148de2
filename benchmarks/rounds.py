"""Every scenario, round by round, each round for every subject.

The rule: subjects take turns, and not always in the same order, so that a drift of the machine hits them all alike.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.processes import ProgramFailed
from benchmarks.report import Measurement
from benchmarks.scenarios import Scenario
from benchmarks.stage import BytesWrong, Stage
from benchmarks.subjects import Subject


class Rounds:
    """A run under way."""

    def __init__(self, stage: Stage, subjects: Sequence[Subject], rounds: int, notes: list[str]) -> None:
        """`notes` hear which program of others did not do what it was started for, and takes part no more."""
        self._stage = stage
        self._subjects = list(subjects)
        self._rounds = rounds
        self._notes = notes

    def measure(self, scenarios: Iterable[Scenario]) -> Iterator[Measurement]:
        """Measure, and say on standard error how far it has come.

        Raises:
            BytesWrong: an answer was not right; everything ends with it.
            ProgramFailed: a subject does not start, or a program has ended.
        """
        for scenario in scenarios:
            subjects = [each for each in self._subjects if _takes_part(each, scenario)]
            if subjects:
                print(f"{scenario.name} ...", file=sys.stderr, flush=True)
                yield from self._measure(scenario, subjects)

    def _measure(self, scenario: Scenario, subjects: list[Subject]) -> Iterator[Measurement]:
        for number in range(1 if scenario.once else self._rounds * scenario.repeats):
            turn = number % len(subjects)
            for subject in subjects[turn:] + subjects[:turn]:
                if subject in self._subjects and (number == 0 or not subject.slow):
                    yield from self._turn(scenario, subject, number)

    def _turn(self, scenario: Scenario, subject: Subject, number: int) -> Iterator[Measurement]:
        """One measurement, or none where a program of others has failed."""
        try:
            figures = self._figures(scenario, subject, number)
        except (BytesWrong, ProgramFailed) as fault:
            if not subject.optional:
                raise type(fault)(f"{scenario.name}, {subject.name}: {fault}") from fault
            self._notes.append(f"Absent from {scenario.name} on: {subject.name}: {fault}")
            self._subjects.remove(subject)
            return
        yield Measurement(scenario.name, subject.name, number, figures)

    def _figures(self, scenario: Scenario, subject: Subject, number: int) -> dict[str, float]:
        if scenario.fresh:
            with self._stage.started(subject) as running:
                return scenario.measure(self._stage, running)
        running = self._stage.running(subject)
        if number == 0 and scenario.prepare is not None:
            scenario.prepare(self._stage, running)
        return scenario.measure(self._stage, running)


def _takes_part(subject: Subject, scenario: Scenario) -> bool:
    return scenario.kind in subject.kinds and (scenario.light or not subject.slow)
