"""The recordings that the settings point to, for the commands that look after them.

The rule: looking makes nothing. Where nothing was ever recorded there is no store, and that is an answer, not an error.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import click

from proxy.cassette import CassetteError
from proxy.cassette.layer import CassetteLayer
from proxy.commands.options import Mistake, settings_in_force
from proxy.config import CacheSettings
from proxy.recording import Recording
from proxy.sse import read_json
from proxy.store.codec import decode, encode
from proxy.store.database import ShelfTrouble
from proxy.store.directory import UnusableDirectory, holds_store
from proxy.store.disk import Shelf
from proxy.store.shelved import Shelved
from proxy.store.summary import Summary, summary_json

_FETCHED_AT_ONCE = 500


class Listed(NamedTuple):
    """A recording as the store's listing has it."""

    summary: Summary
    stored_bytes: int
    hits: int

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.summary.recorded_at)


class Recordings:
    """What is recorded under `cache.directory`."""

    def __init__(self, cache: CacheSettings, shelf: Shelf | None) -> None:
        self.directory = cache.directory
        self.size_limit_bytes = cache.size_limit
        self._shelf = shelf

    def listed(self) -> Iterator[Listed]:
        """All that a listing can show, in the order in which they were stored."""
        return (Listed(*row) for row in self._shelf.summaries()) if self._shelf else iter(())

    def newest_first(self, wanted: Callable[[Listed], bool]) -> Iterator[Listed]:
        """Those of them that are wanted, the newest first."""
        # There may be a million: only when they were recorded is held of all, and what is shown is fetched again.
        found = ((each.summary.recorded_at, each.summary.key) for each in self.listed() if wanted(each))
        keys = [key for _, key in sorted(found, key=itemgetter(0), reverse=True)]
        for start in range(0, len(keys), _FETCHED_AT_ONCE):
            some = keys[start : start + _FETCHED_AT_ONCE]
            by_key = {each.summary.key: each for each in self._some(some)}
            yield from (by_key[key] for key in some if key in by_key)  # one may have been removed by now

    def of_key(self, key: str) -> Listed | None:
        """What a listing shows of one recording."""
        return next(self._some([key]), None)

    def _some(self, keys: Sequence[str]) -> Iterator[Listed]:
        return (Listed(*row) for row in self._shelf.summaries_of(keys)) if self._shelf else iter(())

    def to_look_through(self, beneath: CassetteLayer | None = None) -> Shelved:
        """All of them, and the recordings of a cassette beneath them."""
        return Shelved(self._shelf, () if beneath is None else beneath.packed())

    def keys(self) -> list[str]:
        return list(self._shelf.keys()) if self._shelf else []

    def read(self, key: str) -> Recording | None:
        """A recording, whole.

        Raises:
            Damaged: it can't be read; `UnknownVersion` if only another program can.
        """
        entry = self._shelf.get(key) if self._shelf else None
        return None if entry is None else decode(entry, key)

    def find(self, prefixes: Sequence[str]) -> list[str]:
        """The key that begins with each of the prefixes.

        Raises:
            Mistake: it is not exactly one key, with every prefix of which that is true.
        """
        found = {prefix: self._beginning_with(prefix) for prefix in prefixes}
        problems = [_problem(prefix, matches) for prefix, matches in found.items() if len(matches) != 1]
        if problems:
            raise Mistake("\n".join(problems))
        return list(dict.fromkeys(key for (key,) in found.values()))

    def _beginning_with(self, prefix: str) -> list[str]:
        # What can't be printed may be no text at all to a database, and is the beginning of no key.
        if self._shelf is None or not prefix or not prefix.isprintable():
            return []
        return [prefix] if prefix in self._shelf.keys_from(prefix) else self._shelf.keys_from(prefix.lower())

    def put(self, recording: Recording) -> None:
        """Store a recording, in place of one of its key; only where a store was to be made."""
        if self._shelf:
            self._shelf.put(recording.key, encode(recording), summary_json(recording))

    def remove(self, key: str) -> None:
        if self._shelf:
            self._shelf.delete(key)

    def clear(self) -> int:
        """Remove all; how many there were."""
        return self._shelf.clear() if self._shelf else 0

    def volume_bytes(self) -> int:
        """What they take on disk, as `cache.size_limit` counts it."""
        return self._shelf.volume_bytes() if self._shelf else 0


def asked(recording: Recording) -> dict[str, Any]:
    """The request's body; empty where somebody has put in another kind of recording than the proxy does."""
    try:
        body = read_json(recording.request.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


@contextmanager
def recordings(config: Path | None) -> Iterator[Recordings]:
    """The recordings of a proxy with these settings, which may be running.

    Raises:
        Mistake: the settings or the directory can't be used.
        ClickException: the disk or the database failed.
    """
    cache = settings_in_force(config).cache
    with opened(cache) as found:
        yield found


@contextmanager
def opened(cache: CacheSettings, *, make: bool = False) -> Iterator[Recordings]:
    """As `recordings`, with settings that have been read already; `make` a store where there is none."""
    try:
        shelf = Shelf.open(cache.directory, cache.size_limit) if make or holds_store(cache.directory) else None
    except UnusableDirectory as error:
        raise Mistake(str(error)) from error
    try:
        yield Recordings(cache, shelf)
    except ShelfTrouble as trouble:
        raise click.ClickException(f"cache.directory {cache.directory}: {trouble}") from trouble
    finally:
        if shelf is not None:
            shelf.close()


def cassette_of(cache: CacheSettings) -> CassetteLayer | None:
    """The cassette that a proxy with these settings would play.

    Raises:
        Mistake: it can't be used.
    """
    try:
        return None if cache.cassette is None else CassetteLayer.read(cache.cassette)
    except CassetteError as error:
        raise Mistake(f"cache.cassette: {error}") from error


def _problem(prefix: str, matches: Sequence[str]) -> str:
    if not matches:
        return f"{prefix!r}: no recording has a key that begins so; `reprise cache ls` shows the keys"
    return f"{prefix!r}: the keys of {len(matches)} recordings begin so; give more of its digits"
