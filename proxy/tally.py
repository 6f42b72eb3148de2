"""What a run of tests made of its cassettes, over all the processes that it ran in.

The rule: a recording is called unused only where every test that could have asked for it has run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Tally:
    """What became of one cassette."""

    present: list[str] = field(default_factory=list)
    """The keys that were in it."""
    used: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    missed: int = 0
    is_shared: bool = False
    """Whether it may be for tests of other modules, too."""

    def add(self, other: "Tally") -> None:
        for mine, others in ((self.present, other.present), (self.used, other.used), (self.new, other.new)):
            mine += [key for key in others if key not in mine]
        self.missed += other.missed
        self.is_shared = self.is_shared or other.is_shared

    @property
    def unused(self) -> list[str]:
        return [key for key in self.present if key not in self.used and key not in self.new]


@dataclass
class Report:
    """What one process knows, or all of them together."""

    cassettes: dict[str, Tally] = field(default_factory=dict)
    """By their paths."""
    due: set[str] = field(default_factory=set)
    """Tests that are to ask for the fixture."""
    called: set[str] = field(default_factory=set)
    """Those that have run."""
    silent: set[str] = field(default_factory=set)
    """Those that had a proxy and sent it nothing."""
    is_partial: bool = False
    """Whether some tests were left out on purpose."""

    def add(self, path: str, tally: Tally) -> None:
        self.cassettes.setdefault(path, Tally()).add(tally)

    def merge(self, told: Mapping[str, Any]) -> None:
        """Take over what another process has told, see `as_told`."""
        for path, tally in told["cassettes"].items():
            self.add(path, Tally(**tally))
        self.due |= set(told["due"])
        self.called |= set(told["called"])
        self.silent |= set(told["silent"])
        self.is_partial = self.is_partial or told["is_partial"]

    def as_told(self) -> dict[str, Any]:
        """In values that any serialisation knows."""
        return {
            "cassettes": {path: asdict(tally) for path, tally in self.cassettes.items()},
            "due": sorted(self.due),
            "called": sorted(self.called),
            "silent": sorted(self.silent),
            "is_partial": self.is_partial,
        }

    @property
    def is_whole(self) -> bool:
        """Whether all have run that could have asked for something."""
        return not self.is_partial and self.due <= self.called

    @property
    def total(self) -> Tally:
        everything = Tally()
        for tally in self.cassettes.values():
            everything.add(tally)
        return everything

    def unused(self, *, everywhere: bool) -> dict[str, list[str]]:
        """The recordings of each cassette that no test asked for; of shared ones only after a run of `everywhere`."""
        if not self.is_whole:
            return {}
        judged = {path: tally for path, tally in self.cassettes.items() if everywhere or not tally.is_shared}
        return {path: tally.unused for path, tally in sorted(judged.items()) if tally.unused}

    def add_strangers(self, cassettes: Iterable[tuple[str, list[str]]]) -> None:
        """Cassettes that are there, of which no test has opened some."""
        for path, keys in cassettes:
            if path not in self.cassettes:
                self.add(path, Tally(present=keys))
