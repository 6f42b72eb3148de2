"""One run: what was chosen is measured, and made into what is printed and written.

The rule: a run that ends early still shows what it has measured, and says why it ended.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmarks.costs import CommandFailed
from benchmarks.environment import environment, preamble
from benchmarks.processes import ProgramFailed, allow_many_connections
from benchmarks.report import Figures, Measurement
from benchmarks.rounds import Rounds
from benchmarks.scenarios import Scale, Scenario, scenarios
from benchmarks.stage import BytesWrong, Cores, Stage
from benchmarks.subjects import Subject, subjects
from benchmarks.table import table, targets_table
from benchmarks.targets import targets, verdicts


@dataclass(slots=True)
class Run:
    """What is to be measured, and what was."""

    scale: Scale
    group: str | None
    """The only one that is measured; None for all."""
    litellm: Path | None
    environment: dict[str, Any] = field(default_factory=lambda: environment(Cores.divide()))
    notes: list[str] = field(default_factory=list)
    """What else a reader must know: subjects that cannot be measured here, and why."""
    measurements: list[Measurement] = field(default_factory=list)
    stopped_by: str | None = None
    """Why it ended before its end."""

    def measure(self) -> None:
        """Measure; a fault of a subject is kept in `stopped_by`.

        Raises:
            NoCompiler: there is no upstream and no load generator.
        """
        chosen = [each for each in scenarios(self.scale) if self.group in (None, each.group)]
        found, self.notes = subjects({each.kind for each in chosen}, self.litellm, self.scale.stores)
        allow_many_connections()
        try:
            if chosen:
                self._measure(chosen, found)
            if self.group in (None, "nearest"):
                self._measure_nearest()
            if self.group in (None, "store"):
                self._measure_store()
        except (BytesWrong, ProgramFailed) as fault:
            self.stopped_by = str(fault)

    def _measure(self, chosen: Sequence[Scenario], found: Sequence[Subject]) -> None:
        with Stage() as stage:
            rounds = Rounds(stage, found, self.scale.rounds, self.notes)
            self.measurements.extend(rounds.measure(chosen))

    def _measure_nearest(self) -> None:
        from benchmarks import nearest  # noqa: PLC0415 - it loads the proxy, which is else only started

        with Stage() as stage:
            self.measurements.extend(nearest.measure(stage, self.scale))

    def _measure_store(self) -> None:
        """The store by itself, without traffic, and not pinned.

        Raises:
            ProgramFailed: what was found is not what was stored, or a command failed.
        """
        from benchmarks import at_scale  # noqa: PLC0415 - it loads the proxy, which is else only started

        try:
            self.measurements.extend(at_scale.measure(self.scale.is_quick))
        except (at_scale.NotStored, CommandFailed) as fault:
            raise ProgramFailed(str(fault)) from fault

    def lines(self) -> Iterator[str]:
        """What is printed."""
        figures = Figures(self.measurements)
        yield from preamble(self.environment, self.scale, self.notes)
        yield from table(figures.rows())
        yield from targets_table(list(verdicts(targets(self.scale), figures)), only_measured=self.group is not None)

    def write(self, file: Path) -> None:
        """Write all that is known of it as JSON."""
        figures = Figures(self.measurements)
        facts = {
            "environment": self.environment,
            "scale": asdict(self.scale),
            "notes": self.notes,
            "bytes_right": self.stopped_by is None,
            "stopped_by": self.stopped_by,
            "targets": list(verdicts(targets(self.scale), figures)),
            "rows": figures.rows(),
            "measurements": self.measurements,
        }
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        file.write_bytes(orjson.dumps(facts, default=lambda row: row._asdict(), option=options))
