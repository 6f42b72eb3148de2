"""The event loop that the program runs on, and work that a signal ends."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp.http_parser import HttpRequestParserPy

from proxy.app import App, StartFailed
from proxy.run import run, until_stopped
from tests.harness import NOWHERE, settings


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """A program lets go of them by going back to what they would do by themselves; pytest wants its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def module_of_the_loop() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_it_runs_on_uvloop() -> None:
    """Which moves a frame with two thirds of the work."""
    assert run(module_of_the_loop()).partition(".")[0] == "uvloop"


def test_it_runs_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none for the platform."""
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert run(module_of_the_loop()).partition(".")[0] == "asyncio"


async def test_it_does_not_start_on_a_parser_that_is_not_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aiohttp's pure-Python one hangs on a huge chunk size, and takes two lengths for one."""
    monkeypatch.setattr("proxy.app.HttpRequestParser", HttpRequestParserPy)

    with pytest.raises(StartFailed, match="C extension"):
        await App(settings(NOWHERE, tmp_path / "store")).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_work_that_would_go_on_for_ever(number: signal.Signals) -> None:
    """Its clean-up is waited for, and nobody hears of a cancellation."""
    cleaned_up = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.append(True)

    run(until_stopped(work()))

    assert cleaned_up == [True]


def test_work_that_is_done_needs_no_signal() -> None:
    """It ends by itself."""
    run(until_stopped(asyncio.sleep(0)))


def test_work_that_fails_says_so() -> None:
    """Its error is not taken for an end."""

    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        run(until_stopped(fail()))
