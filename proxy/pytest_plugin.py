"""The pytest plugin: a fixture `reprise`, a cassette for each test module beside it, and what became of them.

The rule: what a user and pytest meet stands here; what is done for them in `pytest_run.py`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

import pytest

from proxy.pytest_run import NAME, PER, Mode, Run, environment

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from proxy.testing import Gateway

_SHOWN = 12  # characters of a key

_RUN = pytest.StashKey[Run]()


@pytest.fixture
def reprise(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A proxy that answers this test from its cassette, with `OPENAI_BASE_URL` and `OPENAI_API_KEY` set for it."""
    run = request.config.stash[_RUN]
    gateway = run.gateway(request.node)
    with environment(gateway):
        yield gateway
    run.note(request.node)


@pytest.fixture(autouse=True)
def _reprise_before_all_others(request: pytest.FixtureRequest) -> None:
    """A client that another fixture makes is to find it; and the marker is enough."""
    if _asks(request.node):
        request.getfixturevalue(NAME)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reprise", "recorded answers of LLMs")
    group.addoption(
        "--reprise-record",
        choices=get_args(Mode),
        help="none: replay only; once: record what has no cassette yet; new_episodes: record what is new; all: record "
        "everything anew. Default: none where CI is set, else once.",
    )
    group.addoption(
        "--reprise-strict",
        action="store_true",
        help="fail where no test asked for a recording, or a test sent the proxy nothing",
    )
    parser.addini("reprise_directory", "the directory beside the tests that cassettes are in", default="cassettes")
    parser.addini("reprise_per", "what has a cassette of its own: module or test", default=PER[0])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "reprise(pace, ignore, normalize, vary, routes, cassette, per, record): settings of the proxy for this test",
    )
    config.stash[_RUN] = Run(config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if not report.passed:  # the tests in it are not known
        collector.config.stash[_RUN].report.is_partial = True
    return report


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        items[0].config.stash[_RUN].report.is_partial = True


def pytest_collection_finish(session: pytest.Session) -> None:
    run = session.config.stash[_RUN]
    asking = [item for item in session.items if _asks(item)]
    run.report.due = {item.nodeid for item in asking}
    run.beside = {run.directory(item) for item in asking}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" and not report.skipped:
        item.config.stash[_RUN].report.called.add(item.nodeid)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash[_RUN]
    run.close()
    run.report.is_partial = run.report.is_partial or bool(session.shouldstop or session.shouldfail)
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["reprise"] = {**run.report.as_told(), "beside": [str(path) for path in run.beside]}
        return
    is_strict = session.config.getoption("--reprise-strict") and session.exitstatus == pytest.ExitCode.OK
    if is_strict and (run.unused() or run.report.silent):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    with suppress(KeyError):  # its own configuration failed
        config.stash[_RUN].close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash[_RUN]
    report = run.report
    if not report.cassettes:
        return
    total, unused = report.total, run.unused()
    terminalreporter.section("reprise")
    counts = [f"{len(total.used)} used", f"{total.missed} missed", f"{len(total.new)} new"]
    if report.is_whole:
        counts.append(f"{sum(map(len, unused.values()))} that no test asked for")
    terminalreporter.line("recordings: " + ", ".join(counts))
    if total.missed:
        terminalreporter.line("To record what was missed: pytest --reprise-record=new_episodes")
    for path, keys in unused.items():
        shown = ", ".join(key[:_SHOWN] for key in keys)
        terminalreporter.line(f"no test asked for these in {os.path.relpath(path, config.rootpath)}: {shown}")
    for test in sorted(report.silent):
        terminalreporter.line(f"sent it nothing (was its client made before the test?): {test}", yellow=True)
    if (unused or report.silent) and config.getoption("--reprise-strict"):
        terminalreporter.line("That fails the run, as --reprise-strict asks.", red=True)


# What pytest-xdist asks where tests run in several processes: what they have to be told, and what they told.


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    node.workerinput["reprise_started_s"] = node.config.stash[_RUN].started_s


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    run, output = node.config.stash[_RUN], getattr(node, "workeroutput", {})
    if (told := output.get("reprise")) is None:  # it died
        run.report.is_partial = True
        return
    run.report.merge(told)
    run.beside |= {run.config.rootpath / path for path in told["beside"]}


def _asks(item: pytest.Item) -> bool:
    return NAME in getattr(item, "fixturenames", ()) or item.get_closest_marker(NAME) is not None
