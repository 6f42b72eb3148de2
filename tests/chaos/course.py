"""A whole soak of the proxy as a process: warm up, load, quiet down, end, and look at what is left.

The rule: what is said to be back where it was is compared with a moment after a load of the same kind, when everything
that is started once had been started.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.findings import Findings
from tests.chaos.hazards import Kills, Reloads, Removals, Sampler, UpstreamTrouble, cache_command
from tests.chaos.judge import WORDS
from tests.chaos.kinds import BY_NAME
from tests.chaos.scene import MIB, Scene, settings
from tests.chaos.soak import Hazard, Soak
from tests.chaos.subject import Figures, Program, figures_of

_WARM_UP_SHARE, _LONGEST_WARM_UP_S = 0.15, 20.0
# Each reader of the store may open its connection late: a database and two files beside it.
_LATE_DESCRIPTORS = 12
_LATE_THREADS = 5 + 4 + (os.cpu_count() or 1)  # of the store, and of asyncio's own pool
_GROWTH_BYTES = 32 * MIB
_FEWEST_SAMPLES = 5
_SEEN_WITHIN_S, _ANOTHER_S = 20.0, 2.0
_SETTLED_TIMES, _STUCK_TIMES = 5, 40


@dataclass(frozen=True, slots=True)
class Options:
    """What a soak is to be like."""

    seconds: float
    seed: int
    clients: int = 32
    reload: bool = False
    kill: bool = False


async def run(options: Options, directory: Path) -> Findings:
    """Run a soak in a directory; everything that was found."""
    scene = Scene.of(options.seed)
    async with scene.upstream:
        program = Program(directory, settings(scene.upstream.base_url), scene.logbook.read)
        await program.start()
        try:
            await _Course(options, scene, program).run()
        finally:
            await program.kill()
    return scene.findings


class _Course:
    """One run from beginning to end."""

    def __init__(self, options: Options, scene: Scene, program: Program) -> None:
        self._options = options
        self._scene = scene
        self._findings = scene.findings
        self._program = program
        self._sampler = Sampler(program)
        self._soak = Soak(scene, options.clients, program)

    @property
    def unseen(self) -> list[str]:
        """What has not happened yet, and has to."""
        seen = {*self._findings.counts.get("words", ()), *self._scene.ledger.kinds}
        return [] if self._findings.stopped else [name for name in (*WORDS, *BY_NAME) if name not in seen]

    async def run(self) -> None:
        seconds, trouble = self._options.seconds, UpstreamTrouble(self._scene)
        warm_up_s = min(seconds * _WARM_UP_SHARE, _LONGEST_WARM_UP_S)
        await self._soak.load(warm_up_s, [trouble])
        await self._soak.quiet_down(_Settled(self._program, self._scene))
        before = self._program.figures()
        began_s = time.monotonic()
        hazards: list[Hazard] = [trouble, self._sampler, *self._beside()]
        await self._soak.load(seconds - warm_up_s, hazards)
        while self.unseen and time.monotonic() - began_s < seconds + _SEEN_WITHIN_S:
            await self._soak.load(_ANOTHER_S, hazards)
        self._findings.figures["load_s"] = time.monotonic() - began_s
        settled = _Settled(self._program, self._scene, before)
        self._findings.figures["last_upstream_request_s"] = await self._soak.quiet_down(settled)
        self._judge_figures(before, self._program.figures())
        if unseen := self.unseen:
            self._findings.fault(f"never happened: {', '.join(unseen)}")
        await self._judge_end()
        self._count_upstream()

    def _beside(self) -> list[Hazard]:
        options, scene, program = self._options, self._scene, self._program
        scene.logbook.interfering = True
        beside: list[Hazard] = [Removals(scene, program, max(1.5, options.seconds / 60))]
        if options.reload:
            beside.append(Reloads(scene, program))
        if options.kill:
            beside.append(Kills(scene, program, max(3.0, options.seconds / 12)))
        return beside

    def _judge_figures(self, before: Figures | None, after: Figures | None) -> None:
        samples = self._sampler.samples
        if before is None or after is None or len(samples) < _FEWEST_SAMPLES:
            return
        resident, fifth = [sample.resident_bytes for sample in samples], len(samples) // 5
        early, late = statistics.median(resident[fifth : 2 * fifth]), statistics.median(resident[-fifth:])
        self._findings.figures |= {
            "descriptors_before": before.descriptors,
            "descriptors_largest": max(sample.descriptors for sample in samples),
            "descriptors_after": after.descriptors,
            "threads_before": before.threads,
            "threads_after": after.threads,
            "resident_before": before.resident_bytes,
            "resident_early": early,
            "resident_late": late,
            "resident_after": after.resident_bytes,
            "resident_largest": after.largest_bytes,
        }
        if self._options.kill:
            return  # it was another process that had been warmed up
        if after.descriptors > before.descriptors + _LATE_DESCRIPTORS:
            self._findings.fault(f"{after.descriptors} descriptors are left, of {before.descriptors}")
        if after.threads > before.threads + _LATE_THREADS:
            self._findings.fault(f"{after.threads} threads are left, of {before.threads}")
        if late > early + _GROWTH_BYTES:
            self._findings.fault(f"memory grows: {early / MIB:.0f} MiB early, {late / MIB:.0f} MiB late")

    async def _judge_end(self) -> None:
        if (code := await self._program.end()) != 0:
            self._findings.fault(f"SIGTERM: exit code {code}")
        logbook = self._scene.logbook
        for exchange in logbook.missing:
            self._findings.fault(f"an answer without a line in the log: {exchange}")
        if logbook.lines > self._soak.requests:
            self._findings.fault(f"{logbook.lines} lines in the log for {self._soak.requests} requests")
        verified = await asyncio.to_thread(cache_command, self._program, "verify", "--json")
        if verified.code != 0:
            self._findings.fault(f"reprise cache verify exits with {verified.code}: {verified.out} {verified.err}")
        for path in await asyncio.to_thread(_with_secrets, self._program.store):
            self._findings.fault(f"a credential in {path}")

    def _count_upstream(self) -> None:
        scene = self._scene
        for name, count in scene.ledger.kinds.items():
            self._findings.count("kinds", name, count)
        self._findings.count("kinds", "reset_as_accepted", scene.upstream.refused)
        own = figures_of(os.getpid())
        self._findings.figures |= {
            "requests": self._soak.requests,
            "log_lines": scene.logbook.lines,
            "upstream_requests": scene.ledger.requests,
            "resident_of_the_soak": own.largest_bytes if own else 0,
        }


class _Settled:
    """Whether the proxy has closed what it had opened."""

    def __init__(self, program: Program, scene: Scene, before: Figures | None = None) -> None:
        self._program = program
        self._logbook = scene.logbook
        self._before = before
        self._last: int | None = None
        self._times_alike = 0

    def __call__(self) -> bool:
        figures = self._program.figures()
        descriptors = figures.descriptors if figures else 0
        self._times_alike = self._times_alike + 1 if descriptors == self._last else 0
        self._last = descriptors
        back = self._before is None or descriptors <= self._before.descriptors
        settled = self._times_alike >= (_SETTLED_TIMES if back else _STUCK_TIMES)
        return settled and not self._logbook.missing


def as_json(options: Options, findings: Findings) -> dict[str, object]:
    """Everything that was found, for machines."""
    return {
        "options": asdict(options),
        "wrong_bytes": findings.wrong_bytes,
        "faults": findings.faults,
        "figures": findings.figures,
        "counts": findings.counts,
    }


def _with_secrets(directory: Path) -> Sequence[Path]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return [path for path in files if b"sk-CANARY" in path.read_bytes()]
