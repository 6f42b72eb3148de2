"""What the upstream has sent: an entry for each request that arrived there, for as long as its answer may be heard.

The rule: an entry says what was true at the upstream; what clients saw of it is only added to it.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from tests.chaos.answers import Answer
from tests.chaos.kinds import Kind
from tests.chaos.notes import Identity, Note


@dataclass(slots=True)
class Sent:
    """One request at the upstream, and its answer."""

    serial: int
    note: Note
    kind: Kind
    fields: tuple[tuple[str, str], ...]
    size: int
    digest: bytes
    arrived_s: float
    recordable: bool
    """By its kind, its size and what the request allows."""
    finished_s: float | None = None
    """When its last byte was handed to the kernel; None if the proxy left before."""
    delivered_s: float | None = None
    """When a client first had all of it: if it is ever recorded, it was by then."""
    quiet_s: float = 0.0
    """The longest time that the upstream said nothing, meant or not."""


class Ledger:
    """Entries by serial number; those that arrived too long ago to be heard again are forgotten."""

    def __init__(self, remembered_s: float, limit_bytes: int) -> None:
        self.kinds: Counter[str] = Counter()
        self.requests = 0
        self.faults: list[str] = []
        """What the proxy did wrong towards the upstream."""
        self.limit_bytes = limit_bytes
        self._remembered_s = remembered_s
        self._by_serial: OrderedDict[int, Sent] = OrderedDict()
        self._by_identity: dict[Identity, list[Sent]] = {}
        self._by_trace: dict[str, Sent] = {}

    def enter(self, serial: int, note: Note, kind: Kind, answer: Answer, now_s: float) -> Sent:
        self._forget_before(now_s - self._remembered_s)
        size = len(answer.body)
        recordable = kind.recordable and note.shared and size <= self.limit_bytes
        digest = sha256(answer.body).digest()
        sent = Sent(serial, note, kind, answer.fields, size, digest, now_s, recordable)
        if note.trace in self._by_trace:
            self.faults.append(f"request {note.trace} was sent to the upstream twice")
        self._by_serial[serial] = self._by_trace[note.trace] = sent
        self._by_identity.setdefault(note.identity, []).append(sent)
        self.kinds[kind.name] += 1
        self.requests += 1
        return sent

    def get(self, serial: int) -> Sent | None:
        return self._by_serial.get(serial)

    def of_trace(self, trace: str) -> Sent | None:
        """What was sent for this very request."""
        return self._by_trace.get(trace)

    def of_identity(self, identity: Identity, since_s: float) -> Iterator[Sent]:
        """What was under way for the same question at this time, or later."""
        for sent in self._by_identity.get(identity, ()):
            if sent.finished_s is None or sent.finished_s >= since_s:
                yield sent

    def _forget_before(self, moment_s: float) -> None:
        while self._by_serial and next(iter(self._by_serial.values())).arrived_s < moment_s:
            _, sent = self._by_serial.popitem(last=False)
            self._by_trace.pop(sent.note.trace, None)
            others = self._by_identity[sent.note.identity]
            others.remove(sent)
            if not others:
                del self._by_identity[sent.note.identity]
