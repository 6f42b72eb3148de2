"""The live log under any schedule: whoever stays hears exactly what came, and what is held has a bound."""

import asyncio
from collections.abc import Sequence
from typing import Literal, NamedTuple
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import kept
from proxy.allowance import Allowance
from proxy.errors import ClientGone, UpstreamBroken
from proxy.live import LiveLog

LIMIT, LEEWAY = 20, 10  # bytes
LARGEST = 8
ENOUGH_TURNS = 200
"""Of the event loop, for all to hear all; nothing here waits for anything else."""


class Step(NamedTuple):
    """Something that happens, and how many turns the event loop takes before the next thing does."""

    what: Literal["send", "join", "leave", "stall", "go on"]
    number: int
    turns: int


class Wire:
    """The upstream's end: frames that have come in, and are told to the log unless that has paused it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.told = 0
        self.end: Literal["whole", "broken"] | None = None
        self._is_paused = False
        self._has_ended = False
        self._log: LiveLog | None = None

    def flow(self, log: LiveLog) -> None:
        self._log = log
        self._tell()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        # As a transport does: later, and only if it has not been paused again.
        asyncio.get_running_loop().call_soon(self._tell)

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        self._tell()

    def finish(self, how: Literal["whole", "broken"]) -> None:
        self.end = how
        self._tell()

    def _tell(self) -> None:
        assert self._log is not None
        while not self._is_paused and self.told < len(self.sent):
            self.told += 1
            self._log.append(self.sent[self.told - 1])
        if self._is_paused or self.end is None or self._has_ended:
            return
        self._has_ended = True
        if self.end == "broken":
            self._log.break_off(UpstreamBroken("cut"))
        else:
            self._log.finish()


class Owner:
    """Takes two turns to conclude, in which anyone may leave."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.log: LiveLog | None = None

    def conclude(self) -> None:
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, self._end)

    def outgrown(self, *, together: bool) -> None:
        self.heard.append("outgrown")

    def broken_off(self) -> None:
        self.heard.append("broken off")

    def _end(self) -> None:
        assert self.log is not None
        self.heard.append("concluded")
        self.log.end()


class Hearer:
    """One who listens, and may stall between two frames."""

    def __init__(self, log: LiveLog) -> None:
        self.heard: list[bytes] = []
        self.outcome = "left"
        self.going = asyncio.Event()
        self.going.set()
        self.listener = log.join()  # at once, as those do who join
        self.task = asyncio.create_task(self._listen(log))
        self.task.add_done_callback(lambda _: log.leave(self.listener))

    def write(self, frame: bytes) -> bool:
        self.heard.append(frame)
        return self.going.is_set()

    def flush(self) -> None:
        """Nothing is held back."""

    async def drain(self) -> None:
        await self.going.wait()

    async def _listen(self, log: LiveLog) -> None:
        try:
            await log.play(self.listener, self)
        except UpstreamBroken:
            self.outcome = "broken"
        except ClientGone:
            self.outcome = "too slow"
        else:
            self.outcome = "whole"


_STEPS = st.builds(
    Step,
    what=st.sampled_from(["send", "send", "send", "join", "leave", "stall", "stall", "go on"]),
    number=st.integers(0, 6),
    turns=st.integers(0, 4),
)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(_STEPS, max_size=40), end=st.sampled_from(["whole", "broken"]), keeps=st.booleans())
def test_whoever_stays_hears_exactly_what_came(
    steps: Sequence[Step], end: Literal["whole", "broken"], *, keeps: bool
) -> None:
    """However they join, leave and stall: every byte once and in order, and the end that there was."""
    with patch.object(kept, "_LEEWAY_BYTES", LEEWAY):
        asyncio.run(play_out(steps, end, limit_bytes=10**6 if keeps else LIMIT))


async def play_out(steps: Sequence[Step], end: Literal["whole", "broken"], limit_bytes: int) -> None:
    wire, owner, shared = Wire(), Owner(), Allowance(10**9)
    log = LiveLog(owner, limit_bytes, shared, clock=lambda: 0.0)
    owner.log = log
    log.attach(wire)
    everyone = [Hearer(log)]
    for step in steps:
        take(step, wire, log, everyone)
        for _ in range(step.turns):
            await asyncio.sleep(0)
            look(wire, log, everyone, limit_bytes)

    wire.finish(end)
    for hearer in everyone:
        hearer.going.set()
    for _ in range(ENOUGH_TURNS):
        await asyncio.sleep(0)

    judge(wire, log, owner, everyone, limit_bytes)
    assert (log.listeners, shared.held_bytes) == (0, 0) if log.ended else log.listeners == 0


def take(step: Step, wire: Wire, log: LiveLog, everyone: list[Hearer]) -> None:
    hearer = everyone[step.number % len(everyone)]
    match step.what:
        case "send":
            wire.send(bytes([len(wire.sent) % 256]) * (1 + step.number % LARGEST))
        case "join" if log.kept.is_whole and not log.ended:  # the table of flights lets nobody join any other
            everyone.append(Hearer(log))
        case "leave":
            hearer.task.cancel()
        case "stall":
            hearer.going.clear()
        case "go on":
            hearer.going.set()


def look(wire: Wire, log: LiveLog, everyone: list[Hearer], limit_bytes: int) -> None:
    """At any moment: each has heard what came, nothing is read while all stall, and no more is held than may be."""
    for hearer in everyone:
        assert hearer.heard == wire.sent[: len(hearer.heard)]
    stalled = [listener.is_stalled for listener in log._listeners]
    assert wire._is_paused == (bool(stalled) and all(stalled)) or wire._has_ended
    if not log.kept.is_whole:
        assert sum(map(len, log.kept.frames)) <= limit_bytes + LEEWAY


def judge(wire: Wire, log: LiveLog, owner: Owner, everyone: list[Hearer], limit_bytes: int) -> None:
    """In the end."""
    came = sum(map(len, wire.sent[: wire.told]))
    assert all(hearer.task.done() for hearer in everyone), "somebody waits for ever"
    stayed = [hearer for hearer in everyone if not hearer.task.cancelled()]
    for hearer in stayed:
        assert hearer.task.exception() is None
        if hearer.outcome == "too slow":
            assert came - len(b"".join(hearer.heard)) > LIMIT + LEEWAY - LARGEST
            assert "outgrown" in owner.heard
        else:
            assert hearer.heard == wire.sent
            assert hearer.outcome == wire.end
    assert owner.heard.count("outgrown") == (came > limit_bytes)
    if any(hearer.outcome == "whole" for hearer in stayed):
        assert owner.heard[-1] == "concluded"
        assert owner.heard.count("concluded") == 1


async def test_one_that_catches_up_lets_the_others_have_their_turn() -> None:
    """A long stream is played to it in pieces, not in one go in which nothing else happens."""
    log = LiveLog(Owner(), 2**20, Allowance(2**20), lambda: 0.0)
    for _ in range(10_000):
        log.append(b"x")
    hearer = Hearer(log)
    turns = 0
    while len(hearer.heard) < 10_000:
        await asyncio.sleep(0)
        turns += 1
    hearer.task.cancel()
    await asyncio.wait((hearer.task,))

    assert turns > 15


async def test_what_is_held_for_a_slow_one_is_bounded_in_frames_too() -> None:
    """A frame takes memory besides its bytes, and there may be millions within a leeway of bytes."""
    log = LiveLog(Owner(), 64, Allowance(2**30), lambda: 0.0)
    log.join()
    fast = log.join()

    for _ in range(3 * kept._FEW_FRAMES):
        log.append(b"x")
        fast.position += 1

    assert log.kept.arrived - log.kept._gone <= kept._FEW_FRAMES + 2


async def test_listeners_on_their_way_are_waited_for() -> None:
    """A fast upstream sends more than may be kept for them before their tasks have had a turn."""
    wire, owner = Wire(), Owner()
    log = owner.log = LiveLog(owner, 0, Allowance(2**40), lambda: 0.0)
    hearer = Hearer(log)
    log.attach(wire)
    frame = bytes(100_000)

    for _ in range(50):
        wire.send(frame)
    wire.finish("whole")
    assert wire.told * len(frame) < 2**19
    await hearer.task

    assert hearer.outcome == "whole"
    assert b"".join(hearer.heard) == frame * 50
