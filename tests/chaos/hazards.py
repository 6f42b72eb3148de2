"""What happens beside the load: the upstream goes away, recordings are removed, settings change, the proxy is killed.

The rule: each hazard is a loop of its own with chance of its own, and says what it did in the findings.
"""

import asyncio
import signal
import time

import orjson

from tests.chaos.findings import SoakStopped
from tests.chaos.kinds import seeded
from tests.chaos.scene import Scene
from tests.chaos.subject import Figures, Program, Subject
from tests.commands import Ended, reprise

_SAMPLED_EVERY_S = 0.25
_MOST_SAMPLES = 4000


class UpstreamTrouble:
    """The upstream is restarted, resets what it accepts, and closes idle connections."""

    def __init__(self, scene: Scene) -> None:
        self._rng = seeded(scene.seed, "upstream")
        self._upstream = scene.upstream
        self._findings = scene.findings

    async def __call__(self) -> None:
        while True:
            for trouble in self._rng.sample(("away", "resets", "closes_idle"), 3):
                await asyncio.sleep(self._rng.uniform(0.1, 0.9))
                self._findings.count("hazards", f"the upstream {trouble.replace('_', ' ')}")
                if trouble == "away":
                    await self._upstream.go_away(self._rng.uniform(0.2, 1.0))
                elif trouble == "resets":
                    await self._upstream.reset_new_connections(self._rng.uniform(0.05, 0.2))
                else:
                    self._upstream.close_idle()


class Removals:
    """`reprise cache clear` and `rm`, while the proxy works with the same recordings."""

    def __init__(self, scene: Scene, program: Program, every_s: float) -> None:
        self._rng = seeded(scene.seed, "removals")
        self._every_s = every_s
        self._program = program
        self._judge = scene.judge
        self._findings = scene.findings

    async def __call__(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self._every_s)
            if self._rng.random() < 0.5:
                await self._clear()
            else:
                await self._remove_some()

    async def _clear(self) -> None:
        began_s = time.monotonic()
        await self._command("clear", "--yes")
        self._judge.cleared.append((began_s, time.monotonic()))

    async def _remove_some(self) -> None:
        listed = await self._command("ls", "--json")
        keys = [recording["key"] for recording in orjson.loads(listed.out or "[]")]
        if keys:
            await self._command("rm", *self._rng.sample(keys, min(3, len(keys))), may_fail=True)

    async def _command(self, name: str, *arguments: str, may_fail: bool = False) -> Ended:
        ended = await asyncio.to_thread(cache_command, self._program, name, *arguments)
        self._findings.count("hazards", f"reprise cache {name}")
        # One that is to be removed may have been evicted since it was listed.
        if ended.code and not (may_fail and ended.code == 2):
            self._findings.fault(f"reprise cache {name} exits with {ended.code}: {ended.err}")
        return ended


class Reloads:
    """SIGHUP with other settings, now and then with some that can't be read."""

    def __init__(self, scene: Scene, program: Program) -> None:
        self._rng = seeded(scene.seed, "reloads")
        self._program = program
        self._findings = scene.findings

    async def __call__(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.3, 2.0))
            if not self._program.is_steady:
                continue  # a program that starts has no handler yet
            if self._rng.random() < 0.25:
                self._program.config.write_text("cache: {linger: soon}\n")
                self._findings.count("hazards", "SIGHUP with bad settings")
            else:
                self._program.write_settings(
                    cache={"linger": self._rng.choice(("0ms", "100ms", "300ms"))},
                    upstream={"connect_timeout": self._rng.choice(("5s", "10s"))},
                    replay={"pace": self._rng.choice(("instant", "100x"))},
                )
                self._findings.count("hazards", "SIGHUP with other settings")
            self._program.tell(signal.SIGHUP)
            await asyncio.sleep(0.2)
            if self._program.is_steady and self._program.has_ended:
                self._findings.fault("SIGHUP ended the proxy")
                raise SoakStopped


class Kills:
    """kill -9, and a new process in the same directory."""

    def __init__(self, scene: Scene, program: Program, every_s: float) -> None:
        self._rng = seeded(scene.seed, "kills")
        self._scene = scene
        self._every_s = every_s
        self._program = program

    async def __call__(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.7, 1.3) * self._every_s)
            self._scene.findings.count("hazards", "kill -9")
            restarting = asyncio.create_task(self._program.restart())
            try:
                await asyncio.shield(restarting)
            finally:
                await restarting  # also where the load ends just now: what comes next needs a proxy
                self._scene.logbook.forget()
                self._scene.judge.forget_order()


class Sampler:
    """The figures of the process, as they go."""

    def __init__(self, subject: Subject) -> None:
        self.samples: list[Figures] = []
        self._subject = subject
        self._every_s = _SAMPLED_EVERY_S

    async def __call__(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if figures := self._subject.figures():
                self.samples.append(figures)
            if len(self.samples) > _MOST_SAMPLES:
                self.samples = self.samples[::2]
                self._every_s *= 2


def cache_command(program: Program, *arguments: str) -> Ended:
    """`reprise cache` on the store of a program."""
    return reprise("cache", *arguments, "--config", program.first_config, at=program.directory)
