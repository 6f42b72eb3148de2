"""The live log under any schedule: whoever stays hears exactly what came, and what is held has a bound."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from typing import Literal, NamedTuple
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import live
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
    """The upstream's end: frames that have come in and wait to be read."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.read_so_far = 0
        self.end: Literal["whole", "broken"] | None = None
        self._changed = asyncio.Event()

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        self._changed.set()

    def finish(self, how: Literal["whole", "broken"]) -> None:
        self.end = how
        self._changed.set()

    async def read(self) -> bytes:
        while self.read_so_far == len(self.sent) and self.end is None:
            self._changed.clear()
            await self._changed.wait()
        if self.read_so_far < len(self.sent):
            self.read_so_far += 1
            return self.sent[self.read_so_far - 1]
        if self.end == "broken":
            raise UpstreamBroken("cut")
        return b""


class Owner:
    """Takes two turns to conclude, in which whoever reads may leave."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def conclude(self) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.heard.append("concluded")

    def outgrown(self, *, together: bool) -> None:
        self.heard.append("outgrown")

    def broken_off(self) -> None:
        self.heard.append("broken off")


class Hearer:
    """One who listens, and may stall between two frames."""

    def __init__(self, log: LiveLog) -> None:
        self.heard: list[bytes] = []
        self.outcome = "left"
        self.going = asyncio.Event()
        self.going.set()
        taking_part = ExitStack()
        self.listener = taking_part.enter_context(log.listening())  # at once, as those do who join
        self.task = asyncio.create_task(self._listen(log))
        self.task.add_done_callback(lambda _: taking_part.close())

    async def _listen(self, log: LiveLog) -> None:
        async with aclosing(log.play(self.listener)) as frames:
            try:
                async for frame in frames:
                    self.heard.append(frame)
                    await self.going.wait()
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
@given(steps=st.lists(_STEPS, max_size=40), end=st.sampled_from(["whole", "broken"]), kept=st.booleans())
def test_whoever_stays_hears_exactly_what_came(
    steps: Sequence[Step], end: Literal["whole", "broken"], *, kept: bool
) -> None:
    """However they join, leave and stall: every byte once and in order, and the end that there was."""
    with patch.object(live, "_LEEWAY_BYTES", LEEWAY):
        asyncio.run(play_out(steps, end, limit_bytes=10**6 if kept else LIMIT))


async def play_out(steps: Sequence[Step], end: Literal["whole", "broken"], limit_bytes: int) -> None:
    wire, owner, shared = Wire(), Owner(), Allowance(10**9)
    log = LiveLog(owner, limit_bytes, shared, clock=lambda: 0.0)
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
        case "join" if log.is_whole:  # the table of flights lets nobody join any other
            everyone.append(Hearer(log))
        case "leave":
            hearer.task.cancel()
        case "stall":
            hearer.going.clear()
        case "go on":
            hearer.going.set()


def look(wire: Wire, log: LiveLog, everyone: list[Hearer], limit_bytes: int) -> None:
    """At any moment: what each has heard is what came, nobody reads ahead of all, and no more is held than may be."""
    for hearer in everyone:
        assert hearer.heard == wire.sent[: len(hearer.heard)]
    assert wire.read_so_far <= max(hearer.listener.position for hearer in everyone) + 1
    if not log.is_whole:
        assert sum(map(len, log.frames)) <= limit_bytes + LEEWAY


def judge(wire: Wire, log: LiveLog, owner: Owner, everyone: list[Hearer], limit_bytes: int) -> None:
    """In the end."""
    came = sum(map(len, wire.sent[: wire.read_so_far]))
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


class Still:
    """An upstream of which nothing more comes."""

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("never")


async def test_one_that_catches_up_lets_the_others_have_their_turn() -> None:
    """A long stream is played to it in pieces, not in one go in which nothing else happens."""
    log = LiveLog(Owner(), 2**20, Allowance(2**20), lambda: 0.0)
    log.attach(Still())
    for _ in range(10_000):
        log._append(b"x")
    turns, played = 0, 0

    async def play() -> None:
        nonlocal played
        with log.listening() as listener:
            async for _ in log.play(listener):
                played += 1

    playing = asyncio.create_task(play())
    while played < 10_000:
        await asyncio.sleep(0)
        turns += 1
    playing.cancel()
    await asyncio.wait((playing,))

    assert turns > 15


async def test_what_is_held_for_a_slow_one_is_bounded_in_frames_too() -> None:
    """A frame takes memory besides its bytes, and there may be millions within a leeway of bytes."""
    log = LiveLog(Owner(), 64, Allowance(2**30), lambda: 0.0)
    with log.listening(), log.listening() as fast:
        for _ in range(3 * live._FEW_FRAMES):
            log._append(b"x")
            fast.position += 1

        assert len(log.frames) - (log._gone - log._removed) <= live._FEW_FRAMES + 2
