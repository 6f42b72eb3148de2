"""The load of a soak: clients that run their errands, hazards beside them, and then nobody.

The rule: it does not care whose process the proxy is, so that the same load can be put on one in the test's own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from tests.chaos.client import Connection, Got, perform
from tests.chaos.errands import Errand, errands
from tests.chaos.findings import SoakStopped
from tests.chaos.judge import Exchange
from tests.chaos.kinds import seeded
from tests.chaos.scene import Scene
from tests.chaos.subject import Subject

Hazard = Callable[[], Awaitable[None]]

_QUIET_WITHIN_S = 15.0
_LONGEST_THOUGHT_S = 0.02
_ANOTHER_TRY_S, _RESTART_S = 0.05, 0.25
# Less than any timeout of the proxy's: what this process is too late for then is no fault of the proxy's.
_BEAT_S, _STALL_S = 0.1, 0.7
_TIDIED_EVERY, _REMEMBERED_S = 1000, 120.0


class Soak:
    """Clients with their plans, and what they share."""

    def __init__(self, scene: Scene, clients: int, subject: Subject) -> None:
        self.requests = 0
        """How many requests have been begun, those included that their clients gave up at once."""
        self._scene = scene
        self._findings = scene.findings
        self._subject = subject
        self._plans = [errands(scene.seed, number) for number in range(clients)]
        self._thoughts = seeded(scene.seed, "thoughts")
        self._stopped = asyncio.Event()
        self._stalled_s = 0.0

    async def load(self, seconds: float, hazards: Sequence[Hazard]) -> None:
        """Put the proxy under load for so long, or until a fault ends it; then everyone leaves at once."""
        if self._findings.stopped:
            return
        running = [asyncio.create_task(self._run(plan)) for plan in self._plans]
        running += [asyncio.create_task(self._endanger(hazard)) for hazard in (self._watch_itself, *hazards)]
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            pass
        finally:
            for task in running:
                task.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def quiet_down(self, is_quiet: Callable[[], bool]) -> float:
        """Wait until the proxy has let go of everything; seconds until nothing was asked of the upstream any more."""
        began_s = time.monotonic()
        unasked_s: float | None = None
        while time.monotonic() - began_s < _QUIET_WITHIN_S:
            self._scene.upstream.close_idle()
            if unasked_s is None and not self._scene.upstream.active:
                unasked_s = time.monotonic() - began_s
            if unasked_s is not None and is_quiet():
                return unasked_s
            await asyncio.sleep(_ANOTHER_TRY_S)
        if unasked_s is None:
            self._findings.fault(f"nobody listens, and {self._scene.upstream.active} upstream requests go on")
        return unasked_s or _QUIET_WITHIN_S

    async def _endanger(self, hazard: Hazard) -> None:
        try:
            await hazard()
        except SoakStopped:
            self._stopped.set()

    async def _watch_itself(self) -> None:
        while True:
            due_s = time.monotonic() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            if time.monotonic() > due_s + _STALL_S:
                self._stalled_s = time.monotonic()
                self._findings.count("disturbed", "this process could not keep up")

    async def _run(self, plan: Iterator[Errand]) -> None:
        connection: Connection | None = None
        try:
            for errand in plan:
                generation = self._subject.generation
                connection = await self._connected(connection, errand, generation)
                if connection is None:
                    await asyncio.sleep(_RESTART_S)
                    continue
                got = await self._exchange(errand, connection, generation)
                connection = await self._kept(connection, errand, got)
                await asyncio.sleep(self._thoughts.uniform(0, _LONGEST_THOUGHT_S))
        except SoakStopped:
            self._stopped.set()
        finally:
            if connection is not None:
                await connection.close(by_reset=True)

    async def _connected(self, kept: Connection | None, errand: Errand, generation: int) -> Connection | None:
        slow = errand.manner in ("slow", "stall")
        if kept is not None:
            if not kept.is_quiet and self._is_undisturbed(kept.generation):
                self._findings.fault("a kept connection was closed, or said what nobody had asked for")
            elif kept.generation == generation and not slow:
                return kept
            await kept.close(by_reset=False)
        try:
            return await Connection.open(self._subject.port, slow=slow, generation=generation)
        except ConnectionError as error:
            if self._is_undisturbed(generation):
                self._findings.fault(f"no connection: {error}")
            self._findings.count("disturbed", "no connection")
            return None

    def _is_undisturbed(self, generation: int) -> bool:
        """Whether the process that was of that generation still runs, and nobody has told it to end."""
        return self._subject.generation == generation and self._subject.is_steady

    async def _exchange(self, errand: Errand, connection: Connection, generation: int) -> Got:
        self.requests += 1
        began_s = time.monotonic()
        got = await perform(errand, connection)
        ended_s = time.monotonic()
        undisturbed = self._is_undisturbed(generation) and self._stalled_s < began_s
        self._scene.judge.judge(Exchange(errand, got, began_s, ended_s, undisturbed))
        if self.requests % _TIDIED_EVERY == 0:
            self._scene.judge.forget_old(ended_s - _REMEMBERED_S)
        self._tell_of_the_ledger()
        return got

    def _tell_of_the_ledger(self) -> None:
        while self._scene.ledger.faults:
            self._findings.fault(self._scene.ledger.faults.pop())
        if self._findings.stopped:
            self._stopped.set()

    async def _kept(self, connection: Connection, errand: Errand, got: Got) -> Connection | None:
        keeps = errand.keeps_connection and got.end == "clean" and got.get("connection") != "close"
        if keeps and got.sent_whole and errand.manner not in ("slow", "stall"):
            return connection
        await connection.close(by_reset=errand.leaves_by_reset and got.end == "left")
        return None
