"""All that is recorded, for one who looks through it. Everything here blocks.

The rule: how much is read is bounded, and what can't be read is passed over.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from proxy.recording import RecordedRequest
from proxy.store.codec import Damaged, Decoder, request_body
from proxy.store.disk import Shelf
from proxy.store.summary import Summary

_MOST_RECORDINGS = 20_000  # the latest: who has more of them is told of one that is near, if not of the nearest
_LONGEST_BYTES = 4 * 1024 * 1024  # of an entry, and of the request in it
_SHORT_BYTES = 64 * 1024  # of a request that is looked at with thousands of others
_READ_AT_ONCE = 100


class Shelved:
    """The recordings on a shelf, if there is one, and then those of a layer beneath it."""

    def __init__(self, shelf: Shelf | None, beneath: Sequence[tuple[Summary, bytes]] = ()) -> None:
        """`beneath`: what a listing shows of each recording there, and its entry; the latest first."""
        self._shelf = shelf
        self._listed = [summary for summary, entry in beneath if len(entry) <= _LONGEST_BYTES]
        self._entries = {summary.key: entry for summary, entry in beneath}
        self._decoder = Decoder()

    def newest(self) -> Iterator[Summary]:
        """The recordings that were stored last, the latest first; without those that are too long to be looked at."""
        if self._shelf is not None:
            for summary, stored_bytes, _ in islice(self._shelf.summaries(latest_first=True), _MOST_RECORDINGS):
                if stored_bytes <= _LONGEST_BYTES:
                    yield summary
        yield from islice(self._listed, _MOST_RECORDINGS)

    def bodies(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The bodies of the requests of those that are short, by their keys; nobody has checked what they are."""
        for start in range(0, len(keys), _READ_AT_ONCE):
            some = keys[start : start + _READ_AT_ONCE]
            found = {} if self._shelf is None else self._shelf.get_short(some)
            for key in some:
                entry = found.get(key) or self._entries.get(key)
                with suppress(Damaged):
                    if entry is not None and (body := request_body(entry, _SHORT_BYTES)) is not None:
                        yield key, body

    def request(self, key: str) -> RecordedRequest | None:
        """What one of them answers; None if it is gone, damaged or too long."""
        return self._read(self._on_shelf(key), key) or self._read(self._entries.get(key), key)

    def _on_shelf(self, key: str) -> bytes | None:
        with suppress(Damaged):
            return None if self._shelf is None else self._shelf.get(key)
        return None

    def _read(self, entry: bytes | None, key: str) -> RecordedRequest | None:
        with suppress(Damaged):
            return None if entry is None else self._decoder.decode_request(entry, key, _LONGEST_BYTES)
        return None
