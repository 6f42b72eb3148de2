"""One request under way to the upstream, and everyone who listens to its answer: hear it, finish it, or abandon it.

The rule: it is settled once, as soon as it is known what becomes of the answer; by then what is to be stored
is in the store.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from proxy import events, policy
from proxy.allowance import Allowance
from proxy.errors import InternalError, RepriseError, UpstreamBroken
from proxy.events import log
from proxy.live import Hearing, LiveLog
from proxy.opening import Opening
from proxy.outlet import Listener
from proxy.question import Question
from proxy.recorder import Take, is_soon_judged, judge, record
from proxy.recording import Head, Recording
from proxy.sse import Ending
from proxy.store.tiered import Store
from proxy.turns import Turns
from proxy.upstream import Answer, Outgoing, Upstream
from proxy.verdict import Verdict

# An answer that has said it is finished lacks only the end of its framing, which comes at once or not at all.
_FRAMING_GRACE_S = 5.0


class Terms(NamedTuple):
    """What holds for every flight that is launched."""

    store: Store
    held: Allowance
    """What all of them together may keep in memory."""
    turns: Turns
    limit_bytes: int  # of one recording
    linger_s: float  # that an answer is read on when nobody is left
    forget: Callable[["Flight"], None]  # to be told of one that is settled
    start: Callable[[Coroutine[None, None, None]], asyncio.Task[None]]


class Flight:
    """One request under way, and everyone who listens to its answer."""

    def __init__(
        self, terms: Terms, upstream: Upstream, outgoing: Outgoing, question: Question | None, bypass: str
    ) -> None:
        """Send it. Without a `question` nothing of the answer is kept, and `bypass` says why."""
        self.settled: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        """Done when it is known whether the answer is stored; never fails."""
        self.question = question
        self.sent = outgoing.headers
        self._bypass = bypass
        self._terms = terms
        self._linger_s: float | None = terms.linger_s
        self._sent_s = self._head_s = time.monotonic()
        self._log = LiveLog(self, terms.limit_bytes if question else 0, terms.held, time.monotonic)
        self._answer: Answer | None = None
        self._lingering: asyncio.Task[None] | None = None
        self._opening = Opening(self, upstream, outgoing)

    @property
    def attempts(self) -> int:
        """To send it, so far."""
        return self._opening.attempts

    @property
    def size_bytes(self) -> int:
        return self._log.kept.size_bytes

    def listening(self) -> Hearing:
        """Take part, from the first byte on."""
        return Hearing(self, self._log)

    def join(self) -> Listener:
        """One more listens, until it leaves."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        return self._log.join()

    def leave(self, listener: Listener) -> None:
        self._log.leave(listener)
        if not self._log.listeners and not self._log.ended:
            self._last_one_left()

    def head(self) -> Coroutine[Any, Any, Head]:
        """The upstream's head.

        Raises:
            UpstreamFailed: there was none, see `Upstream.send`.
        """
        return self._opening.head()

    # What its opening tells

    def opened(self, answer: Answer) -> None:
        self._answer = answer
        self._head_s = time.monotonic()
        if self.question is None:
            self._settle(Verdict(stored=False, not_stored_because=self._bypass))
        elif reason := policy.refusal(answer.head, stream=self.question.stream, limit_bytes=self._terms.limit_bytes):
            self._give_up_recording(reason)
        if self._log.ended:  # everyone left while the head was on its way
            answer.close()
        else:
            self._log.attach(answer)

    def not_opened(self, fault: BaseException) -> None:
        error = fault if isinstance(fault, RepriseError) else InternalError
        self._settle(Verdict(stored=False, not_stored_because=error.code))
        self._log.break_off(UpstreamBroken("no head"))

    def _give_up_recording(self, reason: str) -> None:
        """Those who listen hear it to its end; nobody joins any more, and nothing is kept."""
        self._settle(Verdict(stored=False, not_stored_because=reason))
        self._log.stop_keeping()

    def _settle(self, verdict: Verdict) -> None:
        if not self.settled.done():
            self.settled.set_result(verdict)
        self._terms.forget(self)

    # What the log tells its owner

    def outgrown(self, *, together: bool) -> None:
        self._settle(Verdict(stored=False, not_stored_because="overloaded" if together else "too_large"))

    def broken_off(self) -> None:
        self._settle(Verdict(stored=False, not_stored_because="upstream_truncated"))
        if self._answer is not None:
            self._answer.close()

    def conclude(self) -> None:
        """The body has ended: check it, and store it if it is whole."""
        if self.settled.done() or self.question is None:
            self._log.end()
            return
        if is_soon_judged(self._log.kept.frames, self._log.kept.size_bytes + self.question.unread_bytes):
            # Many streams may end at the same moment; an answer in one frame is none.
            is_stream = len(self._log.kept.frames) > 1
            (self._terms.turns.add if is_stream else self._terms.turns.add_short)(self._conclude_here)
        else:
            self._terms.start(self._conclude_in_thread())

    def _conclude_here(self) -> None:
        try:
            self._store(*self._recorded())
        except Exception as fault:  # noqa: BLE001 - whatever it is, nobody may wait for the end of it
            self._fail(fault)
        else:
            self._log.end()

    async def _conclude_in_thread(self) -> None:
        try:
            self._store(*await asyncio.to_thread(self._recorded))
        except Exception as fault:  # noqa: BLE001 - whatever it is, nobody may wait for the end of it
            self._fail(fault)
        else:
            self._log.end()

    def _fail(self, fault: Exception) -> None:
        """Tell those who listen that there is no end, and have nobody join any more."""
        if not isinstance(fault, UpstreamBroken):
            log.error(events.CRASHED, key=self.question and self.question.key, exc_info=fault)
            fault = UpstreamBroken("the proxy failed")
        self._log.break_off(fault)

    def _store(self, ending: Ending, recording: Recording | None) -> None:
        """Settle it.

        Raises:
            UpstreamBroken: it ended by a close that only a finished answer could have explained.
        """
        if self._log.ended:  # given up meanwhile
            return
        if recording is None:
            self._settle(Verdict(stored=False, not_stored_because=ending.reason, usage=ending.usage))
            if self._answer is not None and self._answer.framing == "close":
                raise UpstreamBroken("the connection was closed before the answer was finished")
            return
        stored = self._terms.store.keep(recording)
        self._settle(Verdict(stored, None if stored else "store_busy", ending.usage))

    def _recorded(self) -> tuple[Ending, Recording | None]:
        """What the answer says of its end, and the recording of one that is whole."""
        if self.question is None or self._answer is None:
            raise LookupError("nothing was asked, or nothing answered")
        kept = self._log.kept
        body = b"".join(kept.frames)
        ending = judge(body, self.question)
        if ending.check is None:
            return ending, None
        take = Take(self._sent_s, self._head_s, self._answer.head, kept.frames, kept.arrived_s, body)
        return ending, record(self.question, take, ending.check, ending.usage, now_s=time.time())

    # The last listener has left

    def hear_out(self) -> None:
        """Let it go on to its end for the store, whoever leaves: a listener of it is going to be cut off on purpose."""
        self._linger_s = None

    def _last_one_left(self) -> None:
        if self.question is not None and self._log.kept.is_whole and not self.settled.done():
            self._lingering = self._terms.start(self._linger())
        else:
            self.abandon()

    async def _linger(self) -> None:
        """Let it go on for one who comes back, and for the store; then give up."""
        await asyncio.wait((self.settled,), timeout=self._linger_s)
        if not self.settled.done() and await self._lacks_only_its_framing():
            await asyncio.wait((self.settled,), timeout=_FRAMING_GRACE_S)
        if not self._log.ended:
            self.abandon()

    async def _lacks_only_its_framing(self) -> bool:
        """The official SDKs close as soon as they have read the last event, before the end of the framing."""
        frames = self._log.kept.frames
        if self.question is None or not frames or not self._log.kept.is_whole:
            return False
        return (await asyncio.to_thread(judge, b"".join(frames), self.question)).check is not None

    def abandon(self, why: str = "client_disconnected") -> None:
        """Cancel the upstream request: nobody wants its answer."""
        abandoned = UpstreamBroken("abandoned")
        self._settle(Verdict(stored=False, not_stored_because=why))
        self._log.break_off(abandoned)
        self._opening.abandon(abandoned)
