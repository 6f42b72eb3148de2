"""A recording as a source: what was recorded, played at a pace.

The rule: the frames are the recorded bytes; only their timing is a matter of choice.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp.helpers import rfc822_formatted_time

from proxy.outlet import Outlet
from proxy.pace import Pace
from proxy.recording import Head, RecordedAnswer

# At an instant pace the frames do not matter, only that a slow client can hold us back.
_WRITTEN_AT_ONCE_BYTES = 256 * 1024


class Playback:
    """One replay of a recording."""

    def __init__(self, recording: RecordedAnswer, pace: Pace) -> None:
        self._recording = recording
        self._pace = pace
        self._started_s = 0.0

    @contextmanager
    def listening(self) -> Iterator["Playback"]:
        self._started_s = time.monotonic()
        yield self

    async def head(self) -> Head:
        """The recorded head, when it is due: a recorded rhythm begins with the wait for the head."""
        if self._pace.kind == "recorded":
            await self._wait_until(self._pace.due_s(0, self._recording.timeline.head_us))
        return replayed_head(self._recording)

    async def play(self, outlet: Outlet) -> None:
        if self._pace.kind == "instant":
            body = self._recording.body
            for start in range(0, len(body), _WRITTEN_AT_ONCE_BYTES):
                await _write(outlet, body[start : start + _WRITTEN_AT_ONCE_BYTES])
            return
        for number, (arrived_us, frame) in enumerate(self._recording.timeline.frames(self._recording.body)):
            outlet.flush()
            await self._wait_until(self._pace.due_s(number, arrived_us))
            await _write(outlet, frame)

    async def _wait_until(self, due_s: float) -> None:
        """Wait for a moment counted from the start, so that late wake-ups do not add up."""
        delay_s = self._started_s + due_s - time.monotonic()
        if delay_s > 0:
            await asyncio.sleep(delay_s)


async def _write(outlet: Outlet, frame: bytes) -> None:
    if not outlet.write(frame):
        await outlet.drain()


def replayed_head(recording: RecordedAnswer) -> Head:
    """The recorded head with what is said anew at each replay: the date, and the length of what has one."""
    date = (b"Date", rfc822_formatted_time().encode())
    length = () if recording.stream else ((b"Content-Length", b"%d" % len(recording.body)),)
    head = recording.head
    return Head(head.status, head.reason, (*head.headers, *length, date))
