"""Whether something works that may fail for a while, told to the log when it changes and not each time.

The rule: whoever watches a call goes on after it, whatever went wrong; what fails now and then fills no log.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.events import log

STORE_FAILED = "store_failed"
STORE_RECOVERED = "store_recovered"

_SETTLED_S = 1.0  # without a failure, until it counts as over: on a nearly full disk small recordings go on to fit
_APART_S = 60.0  # between two troubles that are told: one that comes and goes is one

# What diskcache makes of rows and settings that it did not write, and what an exhausted machine says.
_UNFORESEEN = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


class Health:
    """Of one kind of call."""

    def __init__(self, what: str, *troubles: type[Exception]) -> None:
        """`troubles`: what is expected to go wrong, with a message for the log."""
        self.works = True
        """The last time."""
        self._what = what
        self._troubles = troubles
        self._failures = 0
        self._is_told = False
        self._failed_s = self._told_s = -math.inf

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of how this goes. The troubles end here."""
        try:
            yield
        except self._troubles as trouble:
            self.note(trouble)
        except _UNFORESEEN as fault:
            self.note(fault)
        else:
            self.note(None)

    def note(self, fault: Exception | None) -> None:
        """Take note of how it went elsewhere; None if it went well."""
        if fault is None:
            self._note_success()
        else:
            self._note_failure(str(fault) if isinstance(fault, self._troubles) else repr(fault))

    def _note_failure(self, reason: str) -> None:
        self.works = False
        self._failures += 1
        self._failed_s = time.monotonic()
        if not self._is_told and self._failed_s - self._told_s >= _APART_S:
            self._is_told, self._told_s = True, self._failed_s
            log.error(STORE_FAILED, what=self._what, reason=reason)

    def _note_success(self) -> None:
        self.works = True
        if self._failures and time.monotonic() - self._failed_s >= _SETTLED_S:
            if self._is_told:
                log.warning(STORE_RECOVERED, what=self._what, failures=self._failures)
            self._failures, self._is_told = 0, False
