"""One run of pytest with the plugin: a proxy for each test that asks for one, and what became of the cassettes.

The rule: one proxy at a time, always on the same port, since a client may outlive the test that made it; and nothing of
it is imported before a test asks.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import pytest

from proxy.tally import Report, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from proxy.testing import Gateway, Options

Mode = Literal["none", "once", "new_episodes", "all"]
"""The record modes of vcrpy: replay only; record what has no cassette yet; record what is new; record everything."""

NAME = "reprise"
"""Of the fixture, and of the marker."""

PER = ("module", "test")
"""What may have a cassette of its own."""

_OF_THE_PLUGIN = ("cassette", "per", "record")
"""Options that only the marker has."""

_LONGEST_NAME_BYTES = 120
_DIGITS = 8  # of a digest

_DUMMY_KEY = "sk-none-needed"
_LOCAL = "127.0.0.1"


class _Wanted(NamedTuple):
    """What a test wants of its proxy."""

    cassette: Path
    is_shared: bool
    mode: Mode
    options: dict[str, Any]


class Run:
    """What was asked for, the proxy that serves at the moment, and what became of the cassettes."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.mode: Mode = config.getoption("--reprise-record") or ("none" if _is_ci(os.environ) else "once")
        # Where tests run in several processes, all go by the start of the first.
        self.started_s: float = getattr(config, "workerinput", {}).get("reprise_started_s", time.time())
        # Of those that failed last time alone, whole files are left out, too, without a word to plugins.
        is_partial = any("::" in argument for argument in config.args) or bool(config.getoption("lf", default=False))
        self.report = Report(is_partial=is_partial)
        self.beside: set[Path] = set()
        """Directories that cassettes of collected tests are in."""
        self._serving = ExitStack()
        self._served: tuple[_Wanted, Gateway] | None = None
        self._port = 0

    def gateway(self, item: pytest.Item) -> Gateway:
        """The proxy that serves a test, always on the same port: a client may outlive the test that made it."""
        wanted = self._wanted(item)
        if self._served is None or self._served[0] != wanted:
            self.close()
            gateway = self._serving.enter_context(self._start(wanted))
            self._served, self._port = (wanted, gateway), gateway.port
        return self._served[1]

    def note(self, item: pytest.Item) -> None:
        """A test has ended: what it asked is its own, and not the next one's."""
        if self._served is not None and not self._take_over(*self._served):
            self.report.silent.add(item.nodeid)

    def close(self) -> None:
        served, self._served = self._served, None
        self._serving.close()
        if served is not None:
            self._take_over(*served)  # what ended late

    def _take_over(self, wanted: _Wanted, gateway: Gateway) -> bool:
        """Add up what was asked since the last time; whether anything was."""
        asked = gateway.forget()
        tally = Tally([], sorted(asked.used), sorted(asked.recorded), asked.missed, wanted.is_shared)
        self.report.add(str(wanted.cassette), tally)
        return bool(asked) or asked.goes_on

    def _wanted(self, item: pytest.Item) -> _Wanted:
        options: dict[str, Any] = {}
        for marker in reversed(list(item.iter_markers(NAME))):
            if marker.args:
                raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.reprise takes its options by name")
            options |= marker.kwargs
        per = options.pop("per", self.config.getini("reprise_per"))
        mode, name = options.pop("record", self.mode), options.pop("cassette", None)
        for option, value, known in (("per", per, PER), ("record", mode, get_args(Mode))):
            if value not in known:
                raise pytest.UsageError(f"{item.nodeid}: reprise: {option} is one of {', '.join(known)}; got {value!r}")
        beside = self.directory(item)
        module = beside / item.path.stem
        own = module / _file_name(item.nodeid.partition("::")[2]) if per == "test" else module
        path = own if name is None else beside / name
        if path.is_file():
            raise pytest.UsageError(f"{path}: the cassette of a test is a directory; unpack it")
        return _Wanted(path, name is not None, mode, options)

    def directory(self, item: pytest.Item) -> Path:
        """Where the cassettes of a test's module are."""
        beside: Path = item.path.parent / self.config.getini("reprise_directory")
        return beside

    @contextmanager
    def _start(self, wanted: _Wanted) -> Iterator[Gateway]:
        from proxy import testing  # noqa: PLC0415 - when a test asks for it
        from proxy.app import StartFailed  # noqa: PLC0415 - when a test asks for it
        from proxy.config import SettingsError  # noqa: PLC0415 - when a test asks for it

        path, mode, known = wanted.cassette, wanted.mode, testing.Options.__annotations__
        if unknown := ", ".join(sorted(wanted.options.keys() - known)):
            takes = ", ".join((*known, *_OF_THE_PLUGIN))
            raise pytest.UsageError(f"@pytest.mark.reprise has no option {unknown}; it takes {takes}")
        present = _keys(path)
        given: dict[str, object] = {"cache.cassette": path} if present and mode != "all" else {}
        if mode == "none" or (mode == "once" and any(_made_s(path, key) < self.started_s for key in present)):
            given["cache.mode"] = "replay"
        else:
            given["cache.mode"] = "record" if mode == "all" else "cache"
            given |= {"cache.record_to": path, "upstream.base_url": testing.upstream_of(os.environ)}
        try:
            with testing.serving(given, cast("Options", wanted.options), port=self._port) as gateway:
                self.report.add(str(path), Tally(present, is_shared=wanted.is_shared))
                yield gateway
        except SettingsError as error:
            raise pytest.UsageError(f"the options of @pytest.mark.reprise: {error}") from None
        except StartFailed as error:
            raise pytest.UsageError(f"the proxy can't start: {error}") from None

    def unused(self) -> dict[str, list[str]]:
        """The recordings of each cassette that no test asked for, where all have run that could have."""
        everywhere = self.config.args_source is not pytest.Config.ArgsSource.ARGS and not any(
            self.config.getoption(option) for option in ("ignore", "ignore_glob")
        )
        if everywhere:
            self.report.add_strangers((str(path), _keys(path)) for beside in self.beside for path in _cassettes(beside))
        return self.report.unused(everywhere=everywhere)


@contextmanager
def environment(gateway: Gateway) -> Iterator[None]:
    """What a program needs to ask the proxy, itself or the programs that it starts."""
    names = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "NO_PROXY", "no_proxy")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ["OPENAI_BASE_URL"] = gateway.base_url
    if gateway.replays or not before.get("OPENAI_API_KEY"):
        os.environ["OPENAI_API_KEY"] = _DUMMY_KEY
    for name in ("NO_PROXY", "no_proxy"):
        if before.get(name) != "*":
            os.environ[name] = ",".join(filter(None, (before.get(name), _LOCAL)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def _cassettes(beside: Path) -> Iterator[Path]:
    """The directories there that recordings are in."""
    yield from sorted({document.parent for document in beside.rglob("*.json")})


def _keys(path: Path) -> list[str]:
    return sorted(document.stem for document in path.glob("*.json"))


def _made_s(path: Path, key: str) -> float:
    try:
        return (path / f"{key}.json").stat().st_mtime
    except FileNotFoundError:  # it is being written anew by another process of this run
        return time.time()


def _file_name(test: str) -> str:
    """A name for the files of one test: its own where that can be one, else with a digest, or two would share them."""
    plain = test.replace("::", "--")
    name = "".join(char if char.isalnum() or char in "-_.[]" else "-" for char in plain)
    if name == plain and len(name.encode()) <= _LONGEST_NAME_BYTES:
        return name
    start = name.encode()[: _LONGEST_NAME_BYTES - _DIGITS - 1].decode(errors="ignore")
    return f"{start}-{sha256(test.encode()).hexdigest()[:_DIGITS]}"


def _is_ci(environ: Mapping[str, str]) -> bool:
    return environ.get("CI", "").lower() not in ("", "0", "false")
