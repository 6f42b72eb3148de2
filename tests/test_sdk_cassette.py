"""The official SDK and a cassette: what it is told while it records, it is told when the upstream has gone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy import testing
from proxy.simulator import Rhythm, Simulator
from tests.calls import CACHED
from tests.sdk import CLIENTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

Recording = tuple[Path, Mapping[str, Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A cassette of every call, asked by the sync client, and what it was told; the upstream has ended."""
    cassette = tmp_path_factory.mktemp("cassette")
    simulator = Simulator(Rhythm(first_byte_ms=0, gap_ms=0, tokens=8))
    await simulator.start()
    with testing.record(cassette, upstream=simulator.base_url) as gateway:
        sdk = CLIENTS["sync"](gateway.base_url)
        told = {name: (await sdk.ask(call)).said for name, call in CACHED.items()}
        await sdk.close()
        await simulator.stop()
    return cassette, told


@pytest.mark.parametrize("kind", CLIENTS)
async def test_every_call_is_replayed_from_a_cassette(recording: Recording, kind: str) -> None:
    """To both kinds of client, whole and in each chunk; all that was recorded is used."""
    cassette, recorded = recording

    with testing.replay(cassette) as gateway:
        sdk = CLIENTS[kind](gateway.base_url)
        replayed = {name: (await sdk.ask(call)).said for name, call in CACHED.items()}
        await sdk.close()

    assert replayed == recorded
    assert gateway.missed == 0
    assert gateway.used == {path.stem for path in cassette.glob("*.json")}
