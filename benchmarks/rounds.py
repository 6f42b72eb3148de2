"""Every scenario, round by round, each round for every subject.

The rule: subjects take turns, and not always in the same order, so that a drift of the machine hits them all alike.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.report import Measurement
from benchmarks.scenarios import Scenario
from benchmarks.stage import BytesWrong, Stage
from benchmarks.subjects import Subject


def measure(
    stage: Stage, all_scenarios: Iterable[Scenario], all_subjects: Sequence[Subject], rounds: int
) -> Iterator[Measurement]:
    """Measure, and say on standard error how far it has come.

    Raises:
        BytesWrong: an answer was not right; everything ends with it.
        ProgramFailed: a subject does not start, or a program has ended.
    """
    for scenario in all_scenarios:
        print(f"{scenario.name} ...", file=sys.stderr, flush=True)
        subjects = [each for each in all_subjects if _takes_part(each, scenario)]
        if scenario.prepare is not None:
            for subject in subjects:
                scenario.prepare(stage, stage.running(subject))
        for number in range(rounds):
            turn = number % len(subjects)
            for subject in subjects[turn:] + subjects[:turn]:
                yield _measured(stage, scenario, subject, number)


def _takes_part(subject: Subject, scenario: Scenario) -> bool:
    return subject.only in (None, scenario.group) and not (scenario.fresh and subject.command is None)


def _measured(stage: Stage, scenario: Scenario, subject: Subject, number: int) -> Measurement:
    try:
        if scenario.fresh:
            with stage.started(subject) as running:
                figures = scenario.measure(stage, running)
        else:
            figures = scenario.measure(stage, stage.running(subject))
    except BytesWrong as wrong:
        raise BytesWrong(f"{scenario.name}, {subject.name}: {wrong}") from wrong
    return Measurement(scenario.name, subject.name, number, figures)
