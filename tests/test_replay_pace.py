"""The pace of a replay: the frames are those that came, and the recorded timeline, or a fixed gap, says when."""

import asyncio
from array import array
from collections.abc import Sequence

import pytest

from proxy.recording import Recording, Timeline
from tests.conftest import StartProxy
from tests.exchanges import arrive_apart, recording_of, store_of, word
from tests.harness import ANSWER, DONE, HELLO, PROMPT, STREAM, STREAMED, WORLD, Proxy, Response, ScriptedUpstream, plain

# Cut anywhere, even within a character: frames are what came, not events.
FRAMES = (HELLO[:7], HELLO[7:] + WORLD[:3], WORLD[3:], DONE[:-1], DONE[-1:])
HOUR_US = 3_600_000_000


async def asked(proxy: Proxy, pace: str | None) -> Response:
    response = await proxy.ask(STREAMED, headers={"X-Reprise-Pace": pace} if pace else {})
    assert response.get("x-cache-status") == "HIT"
    return response


async def recorded(proxy: Proxy, upstream: ScriptedUpstream) -> Recording:
    return await recording_of(proxy, await arrive_apart(proxy, upstream, *FRAMES))


def retimed(proxy: Proxy, recording: Recording, arrived_us: Sequence[int], head_us: int = 0) -> None:
    """Let the recording say that its frames arrived at other times."""
    timeline = Timeline(head_us, recording.timeline.lengths, array("Q", arrived_us))
    assert store_of(proxy).keep(recording._replace(timeline=timeline))


async def is_waiting(response: Response, proxy: Proxy) -> bool:
    """Whether the next frame is not due while a whole other exchange takes place."""
    next_chunk = asyncio.create_task(response.next_chunk())
    assert await word(proxy.ask(STREAMED, headers={"X-Reprise-Pace": "instant"})) == "HIT"
    waiting = not next_chunk.done()
    next_chunk.cancel()
    await asyncio.wait([next_chunk])
    return waiting


async def test_the_frames_are_recorded_as_they_came(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Their lengths, and their arrival in order, behind that of the head."""
    timeline = (await recorded(proxy, upstream)).timeline

    assert list(timeline.lengths) == list(map(len, FRAMES))
    assert list(timeline.arrived_us) == sorted(timeline.arrived_us)
    assert 0 < timeline.head_us <= timeline.arrived_us[0]


@pytest.mark.parametrize("pace", ["instant", "0ms", "recorded"])
async def test_an_empty_frame_does_not_end_a_replay(pace: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A chunk without a byte in it is the last one."""
    recording = await recorded(proxy, upstream)
    lengths, arrived_us = recording.timeline.lengths, recording.timeline.arrived_us
    timeline = Timeline(0, array("I", [lengths[0], 0, *lengths[1:]]), array("Q", [0, *arrived_us]))
    assert store_of(proxy).keep(recording._replace(timeline=timeline))

    assert await (await asked(proxy, pace)).body() == STREAM


@pytest.mark.parametrize("pace", ["1ms", "0.001s", "0ms", "recorded", "1x", "0.5x", "1000000x"])
async def test_a_paced_replay_keeps_the_frames_as_they_came(
    pace: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """None is merged with another, none is cut."""
    await recorded(proxy, upstream)

    response = await asked(proxy, pace)

    assert await response.body() == STREAM
    assert response.chunks == list(FRAMES)


@pytest.mark.parametrize("pace", [None, "instant"])
async def test_an_instant_replay_comes_in_one_piece(pace: str | None, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """By default, too: whoever asks for no rhythm wants the answer."""
    retimed(proxy, await recorded(proxy, upstream), [HOUR_US] * len(FRAMES), HOUR_US)

    response = await asked(proxy, pace)

    assert await response.body() == STREAM
    assert response.chunks == [STREAM]


async def test_a_recorded_pace_waits_as_long_as_the_upstream_did(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """What came at once comes at once; what took an hour is not due before others have been served."""
    retimed(proxy, await recorded(proxy, upstream), [0, 0, HOUR_US, HOUR_US, HOUR_US])

    response = await asked(proxy, "recorded")

    assert [await response.next_chunk(), await response.next_chunk()] == list(FRAMES[:2])
    assert await is_waiting(response, proxy)
    await response.leave()


async def test_a_multiple_of_the_pace_divides_the_time(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """At a million times the speed an hour is over at once; a hundredth of it makes hours of minutes."""
    recording = await recorded(proxy, upstream)
    retimed(proxy, recording, [0, 0, HOUR_US, HOUR_US, HOUR_US])

    quick = await asked(proxy, "1000000x")
    assert await quick.body() == STREAM
    assert quick.chunks == list(FRAMES)

    retimed(proxy, recording, [0, 0, 60_000_000, 60_000_000, 60_000_000])
    slow = await asked(proxy, "0.01x")
    assert [await slow.next_chunk(), await slow.next_chunk()] == list(FRAMES[:2])
    assert await is_waiting(slow, proxy)
    await slow.leave()


async def test_a_recorded_pace_waits_for_the_head_too(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """The time to the first byte is part of the rhythm; a fixed gap begins with the first frame at once."""
    retimed(proxy, await recorded(proxy, upstream), [HOUR_US] * len(FRAMES), HOUR_US)

    head = asyncio.create_task(asked(proxy, "recorded"))
    gap = await asked(proxy, "60s")

    assert await gap.next_chunk() == FRAMES[0]
    assert await is_waiting(gap, proxy)
    assert not head.done()
    head.cancel()
    await asyncio.wait([head])
    await gap.leave()


async def test_a_fixed_gap_lies_between_each_two_frames(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Whatever the recorded times were."""
    retimed(proxy, await recorded(proxy, upstream), [HOUR_US] * len(FRAMES))
    loop = asyncio.get_running_loop()
    started_s = loop.time()

    response = await asked(proxy, "20ms")
    assert await response.body() == STREAM

    assert response.chunks == list(FRAMES)
    assert loop.time() - started_s >= 0.02 * (len(FRAMES) - 1)


async def test_the_setting_is_the_pace_of_all_and_the_header_that_of_one(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """The header wins, in both directions."""
    proxy = await start_proxy(replay__pace="60s")
    recording = await recorded(proxy, upstream)
    retimed(proxy, recording, [0] * len(FRAMES))

    by_setting = await asked(proxy, None)
    assert await by_setting.next_chunk() == FRAMES[0]
    assert await is_waiting(by_setting, proxy)
    by_header = await asked(proxy, "recorded")
    assert await by_header.body() == STREAM
    assert by_header.chunks == list(FRAMES)
    await by_setting.leave()


async def test_a_plain_answer_has_a_pace_too(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Its length is told with the head, and its end comes when it is due."""
    upstream.will_send(plain(ANSWER))
    recording = await recording_of(proxy, await proxy.ask())
    lengths = array("I", [10, len(ANSWER) - 10])
    late = recording._replace(timeline=Timeline(0, lengths, array("Q", [0, HOUR_US])))
    assert store_of(proxy).keep(late)

    response = await proxy.ask(PROMPT, headers={"X-Reprise-Pace": "recorded"})
    assert response.get("content-length") == str(len(ANSWER))
    assert await response._reader.readexactly(10) == ANSWER[:10]
    rest = asyncio.create_task(response._reader.readexactly(1))
    assert await word(proxy.ask(PROMPT)) == "HIT"
    assert not rest.done()

    quick = await proxy.ask(PROMPT, headers={"X-Reprise-Pace": "1000000x"})
    assert await quick.body() == ANSWER
    rest.cancel()
    await asyncio.wait([rest])
    await response.leave()


async def test_a_pace_is_no_part_of_the_key(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It says how to play an answer, not which one; a miss comes as the upstream sends it."""
    upstream.will_send(plain(ANSWER))

    assert await word(proxy.ask(headers={"X-Reprise-Pace": "60s"})) == "MISS"
    assert await word(proxy.ask(headers={"X-Reprise-Pace": "instant"})) == "HIT"
