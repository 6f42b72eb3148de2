"""A cassette as a layer beneath a store: recordings that are there to be replayed, and that nobody removes.

The rule: it is read once, whole, before anything is served, so that what is wrong with it is known at the start. It is
held in memory as the store would hold it on disk, compressed, and unpacked when it is asked for.
"""

from operator import attrgetter
from pathlib import Path
from typing import Self

from proxy.cassette import CassetteError, read_cassette
from proxy.recording import Recording
from proxy.store.codec import Encoder, decode
from proxy.store.summary import Summary, summary


class CassetteLayer:
    """The recordings of a cassette, by their keys."""

    def __init__(self, entries: dict[str, bytes], summaries: list[Summary]) -> None:
        self._entries = entries
        self._summaries = sorted(summaries, key=attrgetter("recorded_at"), reverse=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a cassette; takes about a second for some thousand recordings.

        Raises:
            CassetteError: it can't be used.
        """
        encoder = Encoder()
        entries = dict[str, bytes]()
        summaries = list[Summary]()
        for recording in read_cassette(path):
            try:
                entries[recording.key] = encoder.encode(recording)
            except ValueError as error:
                raise CassetteError(f"{path}: {recording.key}: {error}") from error
            summaries.append(summary(recording))
        return cls(entries, summaries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> Recording | None:
        """The recording under a key, for a thread: a long one takes some milliseconds."""
        entry = self._entries.get(key)
        return None if entry is None else decode(entry, key)

    def packed(self) -> list[tuple[Summary, bytes]]:
        """What a listing would show of each, and its entry, the latest first."""
        return [(summary, self._entries[summary.key]) for summary in self._summaries]
