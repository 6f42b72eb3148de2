"""The pytest plugin: a fixture `reprise`, a cassette for each test module beside it, and what became of them.

The rule: a run that does not ask for the fixture is not slowed down, so the proxy is imported when it is asked for.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from proxy.testing import Gateway, Options

Mode = Literal["none", "once", "new_episodes", "all"]
"""The record modes of vcrpy: replay only; record what has no cassette yet; record what is new; record everything."""

_DIRECTORY = "cassettes"
_PER = ("module", "test")
_OWN_OPTIONS = ("cassette", "per", "record")
_DUMMY_KEY = "sk-none-needed"
_LOCAL = "127.0.0.1"
_SHOWN = 12  # characters of a key


@dataclass
class Tally:
    """What a run made of one cassette."""

    present: list[str] = field(default_factory=list)
    """The keys that were in it."""
    used: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    missed: int = 0
    is_shared: bool = False
    """Whether it may be for tests of other modules, too."""

    def add(self, other: Tally) -> None:
        for mine, others in ((self.present, other.present), (self.used, other.used), (self.new, other.new)):
            mine += [key for key in others if key not in mine]
        self.missed += other.missed
        self.is_shared = self.is_shared or other.is_shared

    @property
    def unused(self) -> list[str]:
        return [key for key in self.present if key not in self.used and key not in self.new]


class Run:
    """What one run of pytest knows: what was asked for, the proxies that serve, and what became of the cassettes."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.mode: Mode = config.getoption("--reprise-record") or ("none" if _is_ci(os.environ) else "once")
        # Where tests run in several processes, all go by the start of the first.
        self.started_s: float = getattr(config, "workerinput", {}).get("reprise_started_s", time.time())
        self.environment = dict(os.environ)
        self.tallies: dict[str, Tally] = {}
        self.is_partial = any("::" in argument for argument in config.args)
        self._gateways: dict[tuple[Path, str], Gateway] = {}

    def gateway(self, item: pytest.Item) -> Gateway:
        """The proxy that serves a test, started if it is the first that needs it."""
        options: dict[str, Any] = {}
        for marker in reversed(list(item.iter_markers("reprise"))):
            options |= marker.kwargs
        own = {name: options.pop(name) for name in _OWN_OPTIONS if name in options}
        per = own.get("per", self.config.getini("reprise_per"))
        if per not in _PER or own.get("record", "none") not in get_args(Mode):
            raise pytest.UsageError(f"@pytest.mark.reprise of {item.nodeid}: no such value of `per` or `record`")
        path = self._path(item, per, own.get("cassette"))
        known = path, repr((own.get("record"), sorted(options.items())))
        if known not in self._gateways:
            owner = item if per == "test" else item.getparent(pytest.Module) or item
            with ExitStack() as started:
                mode = own.get("record", self.mode)
                self._gateways[known] = started.enter_context(
                    self._serving(path, mode, cast("Options", options), is_shared="cassette" in own)
                )
                started.callback(self._gateways.pop, known)
                owner.addfinalizer(started.pop_all().close)
        return self._gateways[known]

    def _path(self, item: pytest.Item, per: str, name: str | None) -> Path:
        beside: Path = item.path.parent / self.config.getini("reprise_directory")
        if name is not None:
            return beside / name
        module = beside / item.path.stem
        return module / _file_name(item.nodeid.partition("::")[2]) if per == "test" else module

    @contextmanager
    def _serving(self, path: Path, mode: Mode, options: Options, *, is_shared: bool) -> Iterator[Gateway]:
        from proxy import testing  # noqa: PLC0415 - when a test asks for it
        from proxy.config import SettingsError  # noqa: PLC0415 - when a test asks for it

        present = _keys(path)
        is_replayed = mode == "none" or (mode == "once" and any(_made_s(path, key) < self.started_s for key in present))
        given: dict[str, object] = {"cache.cassette": path} if present else {}
        if is_replayed:
            given["cache.mode"] = "replay"
        else:
            given["cache.mode"] = "record" if mode == "all" else "cache"
            given |= {"cache.record_to": path, "upstream.base_url": testing.upstream_of(self.environment)}
        try:
            with testing.serving(given, options) as gateway:
                yield gateway
        except SettingsError as error:
            raise pytest.UsageError(f"the options of @pytest.mark.reprise: {error}") from None
        tally = Tally(present, sorted(gateway.used), sorted(gateway.recorded), gateway.missed, is_shared)
        self.add({str(path): asdict(tally)})

    def add(self, tallies: Mapping[str, Mapping[str, Any]]) -> None:
        for path, tally in tallies.items():
            self.tallies.setdefault(path, Tally()).add(Tally(**tally))

    def unused(self) -> dict[str, list[str]]:
        """The recordings of each cassette that no test asked for, where all have run that could have."""
        if self.is_partial:
            return {}
        all_modules = self.config.args_source is not pytest.Config.ArgsSource.ARGS
        judged = {path: tally for path, tally in self.tallies.items() if all_modules or not tally.is_shared}
        return {path: tally.unused for path, tally in sorted(judged.items()) if tally.unused}


_RUN = pytest.StashKey[Run]()


@pytest.fixture
def reprise(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A proxy that answers this test from its cassette, with `OPENAI_BASE_URL` and `OPENAI_API_KEY` set for it."""
    gateway = request.config.stash[_RUN].gateway(request.node)
    with _environment(gateway):
        yield gateway


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reprise", "recorded answers of LLMs")
    group.addoption(
        "--reprise-record",
        choices=get_args(Mode),
        help="none: replay only; once: record what has no cassette yet; new_episodes: record what is new; all: record "
        "everything anew. Default: none where CI is set, else once.",
    )
    group.addoption("--reprise-strict", action="store_true", help="fail if there are recordings that no test asked for")
    parser.addini("reprise_directory", "the directory beside the tests that cassettes are in", default=_DIRECTORY)
    parser.addini("reprise_per", "what has a cassette of its own: module or test", default=_PER[0])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "reprise(pace, ignore, normalize, vary, routes, cassette, per, record): settings of the proxy for this test",
    )
    config.stash[_RUN] = Run(config)


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        items[0].config.stash[_RUN].is_partial = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash[_RUN]
    run.is_partial = run.is_partial or bool(session.shouldstop or session.shouldfail)
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["reprise"] = {path: asdict(tally) for path, tally in run.tallies.items()}
        output["reprise_is_partial"] = run.is_partial
    elif session.config.getoption("--reprise-strict") and run.unused() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash[_RUN]
    if not run.tallies:
        return
    everything = Tally()
    for tally in run.tallies.values():
        everything.add(tally)
    unused = run.unused()
    terminalreporter.section("reprise")
    counts = [f"{len(everything.used)} used", f"{everything.missed} missed", f"{len(everything.new)} new"]
    if not run.is_partial:
        counts.append(f"{sum(map(len, unused.values()))} that no test asked for")
    terminalreporter.line("recordings: " + ", ".join(counts))
    if everything.missed:
        terminalreporter.line("To record what was missed: pytest --reprise-record=new_episodes")
    for path, keys in unused.items():
        shown = ", ".join(key[:_SHOWN] for key in keys)
        terminalreporter.line(f"no test asked for these in {_relative(path, config.rootpath)}: {shown}")
    if unused and config.getoption("--reprise-strict"):
        terminalreporter.line("That fails the run, as --reprise-strict asks; remove their files.", red=True)


# What pytest-xdist asks where tests run in several processes: what they have to be told, and what they told.


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    node.workerinput["reprise_started_s"] = node.config.stash[_RUN].started_s


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    run, output = node.config.stash[_RUN], getattr(node, "workeroutput", {})
    run.add(output.get("reprise", {}))
    run.is_partial = run.is_partial or output.get("reprise_is_partial", True)


@contextmanager
def _environment(gateway: Gateway) -> Iterator[None]:
    """What a program needs to ask the proxy, itself or the programs that it starts."""
    before = dict(os.environ)
    os.environ["OPENAI_BASE_URL"] = gateway.base_url
    if gateway.replays or not os.environ.get("OPENAI_API_KEY"):
        os.environ["OPENAI_API_KEY"] = _DUMMY_KEY
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), _LOCAL)))
    try:
        yield
    finally:
        for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "NO_PROXY", "no_proxy"):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def _keys(path: Path) -> list[str]:
    return sorted(file.stem for file in path.glob("*.json"))


def _made_s(path: Path, key: str) -> float:
    return (path / f"{key}.json").stat().st_mtime


def _file_name(test: str) -> str:
    return "".join(char if char.isalnum() or char in "-_.[]" else "-" for char in test)


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root)


def _is_ci(environ: Mapping[str, str]) -> bool:
    return environ.get("CI", "").lower() not in ("", "0", "false")
