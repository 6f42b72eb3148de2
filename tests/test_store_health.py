"""What the log hears of something that fails for a while: its beginning and its end, seldom, and not too early."""

import time

import pytest
import structlog
from structlog.testing import LogCapture

from proxy.store import health
from proxy.store.health import STORE_FAILED, STORE_RECOVERED, Health


class Trouble(Exception):
    """What is watched for."""


def test_it_is_over_when_nothing_has_failed_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small recording that still fits between two that do not is no recovery; within a minute none begins anew."""
    capture = LogCapture()
    monkeypatch.setattr(health, "log", structlog.wrap_logger(None, processors=[capture]))
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    watch = Health("writing", Trouble)

    def then(after_s: float, *, fails: bool) -> list[str]:
        now_s[0] += after_s
        before = len(capture.entries)
        with watch.watched():
            if fails:
                raise Trouble("full")
        assert watch.works is not fails
        return [entry["event"] for entry in capture.entries[before:]]

    assert then(0, fails=True) == [STORE_FAILED]
    assert then(0.5, fails=False) == []
    assert then(0.5, fails=True) == []
    assert then(1.5, fails=False) == [STORE_RECOVERED]
    assert then(1, fails=True) == []
    assert then(2, fails=False) == []
    assert then(1, fails=True) == []
    assert then(60, fails=True) == [STORE_FAILED]
    assert then(2, fails=False) == [STORE_RECOVERED]
