"""What is held against each answer: the ledger of the upstream, and the contract.

The rule: a judgement needs no luck. Where two ends of a race are both right, both are let pass, and nothing else is.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NoReturn

import orjson

from tests.chaos import answers
from tests.chaos.client import Got
from tests.chaos.errands import Errand
from tests.chaos.findings import Findings
from tests.chaos.ledger import Ledger, Sent
from tests.chaos.logbook import Heard, Logbook
from tests.chaos.notes import Identity

LEEWAY_BYTES = 1024 * 1024
"""A listener may fall this far behind a response that is too long to be recorded, and is cut off beyond it."""

WORDS = ("HIT", "MISS", "JOINED", "REFRESH", "STALE", "BYPASS")
_REPLAYED = {"content-type", "x-request-id", "openai-version", "openai-processing-ms", "openai-model"}
_MOST_KEYS = 20_000
_OWN = {
    "cache-status",
    "x-cache-status",
    "age",
    "x-reprise-id",
    "date",
    "content-length",
    "transfer-encoding",
    "connection",
}
_NEARLY = 0.7  # of a timeout: the upstream's clock and the proxy's are not read at the same moment
_SETTLED_S = 2.0  # by then a recording is on the disk, too
_NOTICED_S = 3.0  # the proxy looks each second whether something was removed


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the settings of the proxy allow."""

    silence_s: float
    """Of the upstream, before the head and within a body."""
    ttl_s: float
    memory_bytes: int
    recording_bytes: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """One errand, how it went, and when."""

    errand: Errand
    got: Got
    began_s: float
    ended_s: float
    undisturbed: bool
    """Whether the proxy was the same process all the time, nobody told it to end, and this process kept up."""

    def __str__(self) -> str:
        got = self.got
        head = f"{got.status} {got.get('x-cache-status')} {got.get('x-request-id')} {got.get('x-reprise-id')}"
        errand = self.errand
        if errand.refusal is not None:
            return f"{errand.raw[:120]!r} on connection {errand.note.trace} -> {got.end} {got.why} {head}"
        asked = f"{errand.doing} {errand.note.trace} {errand.note.identity} {errand.directives!r} {errand.manner}"
        return f"{asked}{' by HTTP/1.0' if errand.http_1_0 else ''} -> {got.end} {got.why} {head}"


class Judge:
    """Judges answers, one after the other as they end."""

    def __init__(self, seed: int, bounds: Bounds, ledger: Ledger, logbook: Logbook, findings: Findings) -> None:
        self._seed = seed
        self._bounds = bounds
        self._ledger = ledger
        self._logbook = logbook
        self._findings = findings
        self._keys: dict[str, Identity] = {}
        self._newest: dict[Identity, tuple[Sent, float]] = {}
        self.cleared: list[tuple[float, float]] = []
        """When the store was being cleared: from, to."""

    def judge(self, exchange: Exchange) -> None:
        """Hold one answer against what the upstream sent.

        Raises:
            SoakStopped: a byte of it is wrong.
        """
        got, errand = exchange.got, exchange.errand
        self._findings.count("requests", errand.doing)
        self._findings.count("ends", got.end)
        if got.end in ("late", "unframed"):
            self._fault(exchange, f"no answer in time{self._so_far(got)}" if got.end == "late" else "this is not HTTP")
        elif got.status is None:
            self._judge_silence(exchange)
        elif errand.refusal is not None:
            self._judge_refusal(exchange)
        elif errand.doing == "health":
            if got.end != "left" and (got.end, got.status) != ("clean", 200):
                self._fault(exchange, "it is not well")
            self._expect_line(exchange, None)
        elif got.get("x-request-id") is None:
            self._judge_own_error(exchange)
        else:
            self._judge_answer(exchange)

    def _fault(self, exchange: Exchange, what: str) -> None:
        if exchange.undisturbed:
            self._findings.fault(f"{what}: {exchange}")
        else:
            self._findings.count("disturbed", exchange.got.end)

    # Where the upstream is not heard

    def _judge_silence(self, exchange: Exchange) -> None:
        if exchange.got.end == "left":
            self._findings.count("departures", "before the head")
        elif not exchange.got.sent_whole and exchange.errand.doing == "upload":
            self._findings.count("departures", "an upload that was not taken")  # answered, and reset as it was sent
        elif exchange.errand.http_1_0 and "Reset" in exchange.got.why:
            # The one way to tell HTTP/1.0 of a cut; it takes with it what a slow client has not read yet, its head too.
            self._findings.count("broken off", "by a reset that overtook the head")
        else:
            self._fault(exchange, "the connection was closed without an answer")

    def _judge_refusal(self, exchange: Exchange) -> None:
        got = exchange.got
        if (got.end, got.status) != ("clean", exchange.errand.refusal):
            self._fault(exchange, f"a malformed request should get {exchange.errand.refusal}")
        self._findings.count("own errors", _code(got) or "none")
        self._expect_line(exchange, None)

    def _judge_own_error(self, exchange: Exchange) -> None:
        got, errand = exchange.got, exchange.errand
        code = _code(got)
        if got.end == "left":
            self._findings.count("departures", "in an error")
        elif got.end == "clean" and errand.method == "HEAD" and got.status in (502, 504):
            self._findings.count("own errors", "to HEAD, which shows no code")
        elif got.end != "clean" or code is None:
            self._fault(exchange, "an answer that is neither the upstream's nor an error of the proxy's")
        elif not self._is_due(code, exchange):
            own = self._ledger.of_trace(errand.note.trace)
            self._fault(exchange, f"{code} for no reason ({own and own.kind.name})")
        else:
            self._findings.count("own errors", code)
            if code == "replay_miss":
                self._findings.count("only-if-cached", "miss")
        self._expect_line(exchange, None)

    def _is_due(self, code: str, exchange: Exchange) -> bool:
        errand = exchange.errand
        if code == "replay_miss":
            return "only-if-cached" in errand.directives
        own = self._ledger.of_trace(errand.note.trace)
        under_way = [own] if own else list(self._ledger.of_identity(errand.note.identity, exchange.began_s))
        if any(sent.kind.code == code for sent in under_way):
            return True
        if code == "upstream_timeout":
            return any(sent.quiet_s > _NEARLY * self._bounds.silence_s for sent in under_way)
        # It never came to the upstream's ears: nobody listened there, or the connection was reset as it was accepted.
        return code == "upstream_unreachable" and (own is None or own.finished_s is None)

    # Where it is

    def _judge_answer(self, exchange: Exchange) -> None:
        got, errand = exchange.got, exchange.errand
        word = got.get("x-cache-status") or ""
        sent = self._sent(got)
        if sent is None:
            self._fault(exchange, "an answer that the upstream has not sent, or so long ago that it has expired")
            return
        self._findings.count("words", word)
        self._judge_bytes(exchange, sent)
        if word not in WORDS or word not in _words_due(errand):
            self._fault(exchange, f"the word {word!r} is wrong here")
        if word in ("HIT", "JOINED"):
            self._judge_shared(exchange, sent, word)
        elif sent.note.trace != errand.note.trace:
            self._fault(exchange, f"the answer to another request, {sent.note}")
        self._judge_head(exchange, sent, word)
        if word == "HIT":
            self._judge_hit(exchange, sent)
        self._judge_key(exchange, word)
        if got.end == "clean" and sent.delivered_s is None:
            sent.delivered_s = exchange.ended_s
        self._expect_line(exchange, sent)

    def _so_far(self, got: Got) -> str:
        sent = self._sent(got)
        return f", {sum(map(len, got.pieces))} of {sent.size} bytes, {sent.kind.name}, {sent}" if sent else ""

    def _sent(self, got: Got) -> Sent | None:
        number = (got.get("x-request-id") or "").removeprefix("soak-")
        return self._ledger.get(int(number)) if number.isdecimal() else None

    def _judge_bytes(self, exchange: Exchange, sent: Sent) -> None:
        got = exchange.got
        body = got.body
        if got.end == "clean":
            if exchange.errand.method not in ("HEAD", "OPTIONS") and sha256(body).digest() != sent.digest:
                self._wrong(exchange, sent, "other bytes")
            self._judge_clean_end(exchange, sent)
            return
        expected = self._made_again(sent)
        if not expected.startswith(body):
            self._wrong(exchange, sent, "other bytes")
        if got.end == "left":
            self._findings.count("departures", "in the body")
        else:
            self._judge_cut(exchange, sent, len(body))

    def _wrong(self, exchange: Exchange, sent: Sent, what: str) -> NoReturn:
        self._findings.wrong(f"{what}, {sent.kind.name}: {exchange}", self._made_again(sent), exchange.got.body)

    def _made_again(self, sent: Sent) -> bytes:
        return answers.make(self._seed, sent.serial, sent.kind, sent.note, self._ledger.limit_bytes).body

    def _judge_clean_end(self, exchange: Exchange, sent: Sent) -> None:
        kind = sent.kind
        judged = sent.note.shared and sent.size <= self._bounds.recording_bytes
        if kind.end == "cut" and not (kind.cut_unless == "unjudged" and not judged):
            self._wrong(exchange, sent, "a broken answer that looks whole")
        if sent.finished_s is None:
            self._fault(exchange, "a clean end before the upstream had ended")

    def _judge_cut(self, exchange: Exchange, sent: Sent, size: int) -> None:
        errand, kind = exchange.errand, sent.kind
        stalled = errand.manner == "stall"
        fell_behind = sent.size > LEEWAY_BYTES and exchange.got.get("x-cache-status") == "JOINED"
        was_quiet = sent.quiet_s > _NEARLY * self._bounds.silence_s
        if stalled or fell_behind:
            self._findings.count("cut off", "stalled" if stalled else "may have fallen behind")
        elif kind.end == "clean" and not was_quiet:
            self._fault(exchange, f"a good answer was broken off at {size} of {sent.size} bytes, {kind.name}")
        elif kind.whole and size < sent.size and not was_quiet and not errand.http_1_0:  # where a cut is a reset
            self._fault(exchange, f"only {size} of {sent.size} bytes came before a cut, {kind.name}")
        else:
            self._findings.count("cut off", "as the upstream was")

    def _judge_shared(self, exchange: Exchange, sent: Sent, word: str) -> None:
        if sent.note.identity != exchange.errand.note.identity:
            self._wrong(exchange, sent, f"the answer to another question, {sent.note.identity}")
        if not sent.note.shared:
            self._fault(exchange, f"{word} of an answer that was nobody else's, {sent.note}")

    def _judge_head(self, exchange: Exchange, sent: Sent, word: str) -> None:
        got = exchange.got
        if word == "HIT":
            more = {name.lower() for name, _ in got.fields} - _REPLAYED - _OWN
            if more or got.get("age") is None or got.get("date") is None:
                self._fault(exchange, f"a replay with {more or 'no Age or Date'}")
        else:
            ours = [(name, value) for name, value in got.fields if name.lower() not in _OWN]
            if got.status != sent.kind.status or tuple(ours) != sent.fields:
                self._fault(exchange, f"the head is not the upstream's: {ours} for {sent.fields}")

    def _judge_hit(self, exchange: Exchange, sent: Sent) -> None:
        got, errand = exchange.got, exchange.errand
        age_s = int(got.get("age") or 0)
        if not sent.recordable or sent.finished_s is None:
            self._wrong(exchange, sent, "a recording of what may not be recorded")
        oldest_s = self._bounds.ttl_s if "max-age" not in errand.directives else _max_age_s(errand.directives)
        if age_s > oldest_s or age_s > exchange.ended_s - sent.arrived_s + 1:
            self._fault(exchange, f"an Age of {age_s} s")
        self._judge_order(exchange, sent)
        on_disk = sent.size > self._bounds.memory_bytes
        self._findings.count("hits", "too large for memory, from disk" if on_disk else "from memory or disk")
        if "only-if-cached" in errand.directives:
            self._findings.count("only-if-cached", "hit")

    def _judge_order(self, exchange: Exchange, sent: Sent) -> None:
        """What was replaced, or cleared, does not come back."""
        identity = sent.note.identity
        newer = self._newest.get(identity)
        if newer and sent.delivered_s and sent.delivered_s < newer[0].arrived_s and newer[1] < exchange.began_s:
            self._fault(exchange, f"a recording came back that soak-{newer[0].serial} had replaced")
        if newer is None or sent.arrived_s > newer[0].arrived_s:
            self._newest[identity] = (sent, exchange.ended_s)
        for began_s, ended_s in self.cleared:
            recorded = sent.delivered_s is not None and sent.delivered_s + _SETTLED_S < began_s
            if recorded and exchange.began_s > ended_s + _NOTICED_S:
                self._fault(exchange, "a recording came back that had been cleared")

    def forget_order(self) -> None:
        """After a crash what was replaced last may not have reached the disk."""
        self._newest.clear()

    def forget_old(self, moment_s: float) -> None:
        """Keep no more than what can still matter."""
        self._newest = {name: newest for name, newest in self._newest.items() if newest[1] >= moment_s}
        self.cleared = [span for span in self.cleared if span[1] >= moment_s]

    def _judge_key(self, exchange: Exchange, word: str) -> None:
        status = exchange.got.get("cache-status") or ""
        key, errand = _key(status), exchange.errand
        if (key is not None) != (errand.doing == "ask" and errand.has_key):
            self._fault(exchange, f"Cache-Status {status!r}")
        elif key is not None and self._known(key, errand.note.identity) != errand.note.identity:
            self._fault(exchange, f"the key of {self._keys[key]}")
        if status.startswith("reprise; hit") != (word == "HIT") or status.endswith("collapsed") != (word == "JOINED"):
            self._fault(exchange, f"{word} and {status!r}")

    def _known(self, key: str, identity: Identity) -> Identity:
        """What was asked when this key was first seen."""
        if len(self._keys) >= _MOST_KEYS:
            del self._keys[next(iter(self._keys))]
        return self._keys.setdefault(key, identity)

    def _expect_line(self, exchange: Exchange, sent: Sent | None) -> None:
        got = exchange.got
        own_id = got.get("x-reprise-id")
        if own_id is None:
            self._fault(exchange, "an answer without an id")
        elif exchange.undisturbed:
            self._logbook.expect(own_id, Heard(str(exchange), got, len(got.body), sent))


def _words_due(errand: Errand) -> set[str]:
    if errand.doing != "ask" or not errand.has_key:
        return {"BYPASS"}
    match errand.directives:
        case "no-cache":
            return {"REFRESH"}
        case "no-cache, no-store":
            return {"BYPASS"}
        case "only-if-cached":
            return {"HIT"}
    return {"HIT", "MISS", "JOINED", "STALE"}


def _max_age_s(directives: str) -> int:
    return int(directives.partition("max-age=")[2])


def _key(cache_status: str) -> str | None:
    return cache_status.partition('key="')[2].partition('"')[0] or None


def _code(got: Got) -> str | None:
    """The code of an error of the proxy's own, if it is one in every respect."""
    try:
        error: dict[str, Any] = orjson.loads(got.body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    well_formed = set(error) == {"message", "type", "param", "code"} and error["type"] == "reprise_error"
    return str(error["code"]) if well_formed and got.get("content-type") == "application/json" else None
