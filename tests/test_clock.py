"""A clock that jumps, while recordings of before are there."""

import time

import pytest

from tests.conftest import StartProxy
from tests.exchanges import word
from tests.harness import STREAM, STREAMED, ScriptedUpstream, stream


@pytest.mark.parametrize(("jump_s", "expected"), [(-30.0, "HIT"), (-3600.0, "STALE"), (3600.0, "HIT"), (1e8, "STALE")])
async def test_a_clock_that_jumps(
    jump_s: float,
    expected: str,
    start_proxy: StartProxy,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No age is negative; what was recorded in the future beyond a minute, or is too old by now, is recorded anew."""
    proxy = await start_proxy()
    upstream.will_send(*stream())
    await word(proxy.ask(STREAMED))
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + jump_s)

    response = await proxy.ask(STREAMED)
    assert (response.get("x-cache-status"), await response.body()) == (expected, STREAM)
    assert int(response.get("age") or 0) == (int(jump_s) if jump_s > 0 and expected == "HIT" else 0)
    assert await word(proxy.ask(STREAMED)) == "HIT"
