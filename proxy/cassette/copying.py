"""Recordings copied into a cassette as they are made, without the secrets in them.

The rule: it costs no answer and no recording. What can't be written is told in the log, as it is of the store, and what
waits has a bound; when it is closed, everything that was taken in is written or has failed to be.
"""

import asyncio
from collections import Counter, deque
from pathlib import Path

from proxy.cassette import CassetteError, write_recording
from proxy.cassette.scrubbing import Scrubber
from proxy.cassette.shapes import SearchTooLong
from proxy.events import log
from proxy.recording import Recording
from proxy.store.health import Health

CASSETTE_SCRUBBED = "cassette_scrubbed"

WAITING_LIMIT_BYTES = 64 * 1024 * 1024
"""Of recordings that wait to be written; see `store.writing`."""


class CassetteCopies:
    """Writes to the directory of a cassette, in a thread, one recording after the other."""

    def __init__(self, directory: Path, scrubber: Scrubber) -> None:
        self._directory = directory
        self._scrubber = scrubber
        self._health = Health("copying to the cassette", CassetteError)
        self._waiting: deque[Recording] = deque()
        self._waiting_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    def put(self, recording: Recording) -> None:
        """Have it written soon."""
        # One that is larger than the limit is taken when nothing else waits.
        if self._waiting_bytes and self._waiting_bytes + recording.size_bytes > WAITING_LIMIT_BYTES:
            self._health.note(CassetteError(f"{self._directory}: it takes too long to write what waits already"))
            return
        self._waiting.append(recording)
        self._waiting_bytes += recording.size_bytes
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def close(self) -> None:
        """Wait until what waits is written; no more is put."""
        while self._writing is not None:
            await asyncio.wait((self._writing,))

    async def _write_all(self) -> None:
        while self._waiting:
            recording = self._waiting.popleft()
            with self._health.watched():
                await asyncio.to_thread(self._write, recording)
            self._waiting_bytes -= recording.size_bytes
        self._writing = None

    def _write(self, recording: Recording) -> None:
        try:
            scrubbed = self._scrubber.scrub(recording)
        except SearchTooLong as error:
            raise CassetteError(f"{self._directory}: {recording.key} is not written: {error}") from error
        if scrubbed.findings:
            found = Counter[str]()
            for _, _, kind, times in scrubbed.findings:  # not where: the names of members are a part of the prompt
                found[kind] += times
            log.info(CASSETTE_SCRUBBED, key=recording.key, found=dict(found))
        write_recording(self._directory, scrubbed.recording)
