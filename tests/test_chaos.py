"""The soak, for some seconds: what `python -m tests.chaos` does for as long as one likes.

The rule: that nothing was wrong counts only because everything has happened.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from proxy import events
from tests.chaos import course, kinds
from tests.chaos.course import Options
from tests.chaos.errands import errands
from tests.chaos.findings import Findings
from tests.chaos.hazards import UpstreamTrouble
from tests.chaos.judge import WORDS
from tests.chaos.scene import Scene, settings
from tests.chaos.soak import Soak
from tests.chaos.subject import Figures
from tests.conftest import StartProxy
from tests.harness import Proxy

SEED = 7
CODES = {"upstream_unreachable", "upstream_invalid_response", "upstream_timeout", "replay_miss", "bad_request"}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Those of one run, on the proxy as a process."""
    return asyncio.run(course.run(Options(seconds=6, seed=SEED), tmp_path_factory.mktemp("soak")))


def test_no_byte_is_wrong_and_everything_is_given_back(findings: Findings) -> None:
    """Whatever upstream and clients do; the log, the store and the end are in order too."""
    assert findings.wrong_bytes == 0
    assert not findings.faults


@pytest.mark.parametrize("kind", [*kinds.BY_NAME, "reset_as_accepted"])
def test_every_kind_of_answer_has_been_given(findings: Findings, kind: str) -> None:
    """Each fault of the upstream, and each way to be well."""
    assert findings.counts["kinds"][kind] > 0


@pytest.mark.parametrize("word", WORDS)
def test_every_word_has_been_said(findings: Findings, word: str) -> None:
    """Each value of X-Cache-Status."""
    assert findings.counts["words"][word] > 0


def test_clients_have_left_and_have_been_refused(findings: Findings) -> None:
    """Before the head and in the body; and each error that the upstream or the request is the reason of."""
    assert findings.counts["departures"]["before the head"] > 0
    assert findings.counts["ends"]["cut"] > 0
    assert set(findings.counts["own errors"]) >= CODES


class _InThisProcess:
    """A proxy in the event loop of the test."""

    generation = 0
    is_steady = True

    def __init__(self, proxy: Proxy) -> None:
        self.port = proxy.port

    def figures(self) -> Figures | None:
        return None


class _Tap:
    """A stream whose lines somebody reads as they are written."""

    def __init__(self, read: Callable[[bytes], None]) -> None:
        self._read = read

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        self._read(text.encode())
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""


async def test_no_task_and_no_flight_outlives_the_load(start_proxy: StartProxy) -> None:
    """Nothing within the proxy remembers that there were requests."""
    scene = Scene.of(SEED)
    async with scene.upstream:
        sections = settings(scene.upstream.base_url)
        proxy = await start_proxy(
            **{f"{section}__{key}": value for section in sections for key, value in sections[section].items()}
        )
        events.configure("json", "debug", _Tap(scene.logbook.read))
        before = asyncio.all_tasks()
        soak = Soak(scene, clients=24, subject=_InThisProcess(proxy))

        await soak.load(3, [UpstreamTrouble(scene)])
        await soak.quiet_down(lambda: not unfinished(proxy) and not left_since(before) and not scene.logbook.missing)

        assert unfinished(proxy) == Counter()
        assert not left_since(before)
        assert not scene.logbook.missing
    assert not scene.findings.faults
    assert set(scene.findings.counts["words"]) >= {"HIT", "MISS", "BYPASS"}


def unfinished(proxy: Proxy) -> Counter[str]:
    """What the proxy is at."""
    flights, traffic = proxy.app._flights, proxy.app._traffic
    return +Counter(joinable=len(flights._by_key), unsettled=len(flights._unsettled), active=traffic.active)


def left_since(before: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() - before if not task.done()}


def test_the_same_seed_is_the_same_plan() -> None:
    """And another seed is another one."""

    def plan(seed: int) -> list[bytes]:
        requests = errands(seed, client=3)
        return [next(requests).raw for _ in range(50)]

    assert plan(SEED) == plan(SEED)
    assert plan(SEED) != plan(SEED + 1)
