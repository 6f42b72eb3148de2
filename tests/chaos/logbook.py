"""The proxy's log, read while it is written, and held against what the clients saw.

The rule: every request has one line, every line a request, and what a line says is what was seen.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

import orjson

from tests.chaos.answers import request_id
from tests.chaos.client import Got
from tests.chaos.findings import Findings
from tests.chaos.ledger import Sent

REMEMBERED_IDS = 100_000
_EXPECTED = {"started", "draining", "stopped", "reloaded"}
_TROUBLE = {"store_failed", "store_recovered", "reload_failed"}
_REFUSALS = {400, 404, 405, 408, 413, 414, 417, 431, 503}


class Heard(NamedTuple):
    """What a client knows of the answer with a certain id."""

    exchange: str
    got: Got
    size: int
    sent: Sent | None
    """None where the answer was the proxy's own."""


class Logbook:
    """Lines that wait for their answers, and answers that wait for their lines."""

    def __init__(self, findings: Findings) -> None:
        self.lines = 0
        """Request lines so far."""
        self.interfering = False
        """Whether trouble with the store, or with the settings, is to be expected."""
        self._findings = findings
        self._was_unreadable = False
        self._heard: dict[str, Heard] = {}
        self._unclaimed: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()

    @property
    def missing(self) -> list[str]:
        """Answers that have no line yet."""
        return [heard.exchange for heard in self._heard.values()]

    def expect(self, own_id: str, heard: Heard) -> None:
        """There is a line of that id, or there will be."""
        if own_id in self._heard or (own_id in self._seen and own_id not in self._unclaimed):
            self._findings.fault(f"an id that another answer has had: {heard.exchange}")
        line = self._unclaimed.pop(own_id, None)
        if line is None:
            self._heard[own_id] = heard
        else:
            self._compare(heard, line)

    def forget(self) -> None:
        """The process was killed; what it would have written is lost."""
        self._heard.clear()

    def read(self, text: bytes) -> None:
        """Take in one line as it was written."""
        if b"CANARY" in text:
            self._findings.fault(f"a secret, a prompt or an answer in the log: {text[:2000]!r}")
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError:
            self._note_unreadable(text.decode(errors="replace"))
            return
        self._was_unreadable = False
        if line["event"] == "request":
            self._read_request(line)
        elif line["event"] in _TROUBLE and self.interfering:
            self._findings.count("events", line["event"])
        elif line["event"] not in _EXPECTED:
            self._findings.fault(f"in the log: {text[:2000].decode(errors='replace')}")

    def _note_unreadable(self, text: str) -> None:
        """A traceback is one fault, in however many lines it comes."""
        if self._was_unreadable:
            self._findings.add(text)
        else:
            self._findings.fault(f"a line of the log that is no JSON: {text}")
        self._was_unreadable = True

    def _read_request(self, line: dict[str, Any]) -> None:
        self.lines += 1
        self._findings.count("outcomes", line["outcome"])
        if line["stored"]:
            self._findings.count("recordings", "stored")
        elif line.get("cache") not in (None, "HIT", "BYPASS"):
            self._findings.count("not stored because", str(line.get("not_stored_because")))
        own_id = line["id"]
        if own_id in self._seen:
            self._findings.fault(f"a second line of one id: {line}")
        self._seen[own_id] = None
        heard = self._heard.pop(own_id, None)
        if heard is None:
            self._unclaimed[own_id] = line
        else:
            self._compare(heard, line)
        self._forget_old()

    def _compare(self, heard: Heard, line: dict[str, Any]) -> None:
        for what in _differences(heard, line):
            self._findings.fault(f"the log is wrong, {what}: {heard.exchange}, {line}")

    def _forget_old(self) -> None:
        # Clients that left before the head never learn the id.
        for memory in (self._seen, self._unclaimed):
            if len(memory) > REMEMBERED_IDS:
                memory.popitem(last=False)


def _differences(heard: Heard, line: dict[str, Any]) -> list[str]:
    got, sent = heard.got, heard.sent
    checks = {
        "status": line.get("status") == got.status,
        "cache": sent is None or line.get("cache") == got.get("x-cache-status"),
        "outcome": line["outcome"] in _outcomes_due(heard),
    }
    if sent is not None:
        checks |= {
            "bytes": line["bytes"] == heard.size if got.end == "clean" else line["bytes"] >= heard.size,
            "upstream_request_id": line.get("upstream_request_id") == request_id(sent.serial),
            "stored, which it may not be": not line["stored"] or sent.recordable,
            "not stored": line["stored"] or not _is_to_be_stored(heard, line),
        }
    return [name for name, holds in checks.items() if not holds]


def _outcomes_due(heard: Heard) -> set[str]:
    got = heard.got
    if got.end == "left":
        return {"complete", "client_disconnected", "upstream_truncated", "rejected", "upstream_error"}
    if got.end == "cut":
        return {"upstream_truncated", "client_disconnected"}
    if heard.sent is not None or got.status in (200, None):
        return {"complete"}
    return {"rejected"} if got.status in _REFUSALS or got.get("x-should-retry") == "false" else {"upstream_error"}


def _is_to_be_stored(heard: Heard, line: dict[str, Any]) -> bool:
    got, sent = heard.got, heard.sent
    live = got.get("x-cache-status") in ("MISS", "JOINED", "REFRESH", "STALE")
    whole = got.end == "clean" and sent is not None and sent.recordable
    return live and whole and line.get("not_stored_because") != "store_busy"
