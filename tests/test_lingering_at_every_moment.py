"""What becomes of an answer that nobody waits for any more, at each moment at which its last client can leave."""

import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import until, word
from tests.harness import ScriptedUpstream, plain, stream
from tests.moments import AT_THE_END, BEFORE_THE_END, MOMENTS, HeldUp, Moment


@pytest.mark.parametrize("linger", ["0", "20ms"])
@pytest.mark.parametrize("moment", BEFORE_THE_END.values(), ids=BEFORE_THE_END)
async def test_an_answer_that_nobody_came_back_to_is_cancelled(
    moment: Moment, linger: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its connection is closed, or never made; nothing is recorded, and the next one asks anew."""
    held = await HeldUp.at(moment, start_proxy, upstream, cache__linger=linger)
    both = [await held.ask() for _ in range(2)]

    for waiting in both:
        await waiting.leave()

    lines = [await log.line(number) for number in range(2)]
    assert [line["not_stored_because"] for line in lines] == ["client_disconnected"] * 2
    assert [line["outcome"] for line in lines] == ["client_disconnected"] * 2
    await upstream.wait_until(lambda: upstream.connections == (0 if moment.connected else 1))
    assert held.requests_seen == (1 if moment.connected else 0)
    await held.go_on()
    upstream.will_send(*(stream(moment.body) if moment.streamed else [plain(moment.body)]))
    again = await held.proxy.ask(moment.asked)
    assert (again.get("x-cache-status"), await again.body()) == ("MISS", moment.body)


@pytest.mark.parametrize("linger", ["0", "20ms", "10m"])
async def test_an_answer_that_has_said_all_is_recorded_however_short_the_linger(
    linger: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its framing is still waited for; both of its clients had all there was to hear."""
    held = await HeldUp.at(AT_THE_END, start_proxy, upstream, cache__linger=linger)
    both = [await held.ask() for _ in range(2)]

    for waiting in both:
        await waiting.leave()
    await held.noticed(0)
    await held.go_on()

    lines = [await log.line(number) for number in range(2)]
    assert [(line["outcome"], line["stored"]) for line in lines] == [("complete", True)] * 2
    assert await word(held.proxy.ask(AT_THE_END.asked)) == "HIT"
    assert held.requests_seen == 1


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
async def test_one_that_comes_back_in_time_has_all_of_it(
    moment: Moment, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """From byte 0, what it had before included, and then live; it is recorded, and paid for once."""
    held = await HeldUp.at(moment, start_proxy, upstream, cache__linger="10m")
    first = await held.ask()
    await first.leave()
    await held.noticed(0)

    back = await held.ask()
    await held.go_on()

    assert await back.whole() == moment.body
    assert (await back.response()).get("x-cache-status") == "JOINED"
    assert await word(held.proxy.ask(moment.asked)) == "HIT"
    assert held.requests_seen == 1


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
async def test_an_answer_that_ends_in_time_is_recorded(
    moment: Moment, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its client has left, and may come back at any time: it finds all of it."""
    held = await HeldUp.at(moment, start_proxy, upstream, cache__linger="10m")
    first = await held.ask()
    await first.leave()
    await held.noticed(0)

    await held.go_on()
    await until(lambda: not held.proxy.app._flights._by_key)

    hit = await held.proxy.ask(moment.asked)
    assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", moment.body)
    assert held.requests_seen == 1
    (line,) = [line for line in [await log.line(number) for number in range(2)] if line["cache"] == "MISS"]
    assert (line["outcome"] == "complete", line["stored"]) == (moment is AT_THE_END, True)


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
async def test_the_linger_begins_anew_with_each_departure(
    moment: Moment, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """However often all have left: the answer goes on for those who have come back."""
    held = await HeldUp.at(moment, start_proxy, upstream, cache__linger="10m")
    for _ in range(5):
        leaving = [await held.ask() for _ in range(2)]
        for waiting in leaving:
            await waiting.leave()
        await held.noticed(0)

    back = [await held.ask() for _ in range(2)]
    await held.go_on()

    assert [await waiting.whole() for waiting in back] == [moment.body] * 2
    assert held.requests_seen == 1
