"""Stores that are full before anything is measured: recordings of the benchmark's own questions, made without asking.

The rule: each is what the proxy would have made of that question and its answer, but for the times, so asking is a hit.
"""

import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

from benchmarks import questions
from benchmarks.questions import Question
from proxy.canonical import canonical_body
from proxy.key import SHARED_SCOPE, cache_key
from proxy.recording import Head, RecordedRequest, Recording, Timeline, Usage
from proxy.store.codec import encode, summary
from proxy.store.directory import DATABASE
from proxy.store.disk import Shelf

UPSTREAM_NAME = "benchmark"
"""The `upstream.name` of a proxy for which they are hits; what else the key depends on is as by default."""

_FIRST, _APART = 8_000_000_000, 10_000_000  # questions that no scenario asks by itself; of one seed, and of the next
_HEAD_US, _GAP_US = 5000, 200  # as an upstream on this machine answers

# Of the fields of every answer those that a recording keeps.
_KEPT_FIELDS = ((b"openai-processing-ms", b"5"), (b"openai-version", b"2020-10-01"))

_AT_ONCE = 10_000  # rows; 15 MB, and half a second of one core
_UNLIMITED_BYTES = 2**62
# Nobody has it open, and one that was broken off is made anew: there is nothing to undo, and nothing to wait for.
_IN_A_HURRY = ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -500000")  # 500 MB
_AS_IT_WAS = "PRAGMA journal_mode = WAL"
_INSERT = "INSERT INTO Cache (key, raw, store_time, access_time, tag, mode, value) VALUES (?1, 1, ?2, ?2, ?3, 1, ?4)"


_Row = tuple[str, float, bytes, bytes]


def fill(directory: Path, count: int, seed: int = 0) -> None:
    """Put recordings of that many plain questions into a store that nobody has open, made if it is not there.

    Raises:
        UnusableDirectory: there can be no store in that directory.
        sqlite3.IntegrityError: it was filled with this seed before; another one has other questions.
    """
    Shelf.open(directory, _UNLIMITED_BYTES).close()
    with closing(sqlite3.connect(directory / DATABASE, isolation_level=None)) as connection:
        for pragma in _IN_A_HURRY:
            connection.execute(pragma)
        connection.execute("BEGIN EXCLUSIVE")
        for rows in _made(numbers(count, seed)):
            connection.executemany(_INSERT, rows)
        connection.execute("COMMIT")
        connection.execute(_AS_IT_WAS)


def numbers(count: int, seed: int = 0) -> range:
    """The numbers of the questions that `fill` records, in their order in the store."""
    first = _FIRST + seed * _APART
    return range(first, first + count)


def recordings(of: Iterable[int], frames: int = 0) -> Iterator[Recording]:
    """Recordings of the questions of these numbers; with `frames` of streamed answers, which came all at once."""
    # Their canonical bodies differ in one number of ten digits, and to find each anew takes as long as all the rest.
    before, _, after = canonical_body(Question(0, frames).body()).text.partition(b"%010d" % 0)
    now_s = time.time()
    for each in of:
        yield _recording(each, frames, before + b"%010d" % each + after, now_s)


def _recording(number: int, frames: int, canonical: bytes, now_s: float) -> Recording:
    request = RecordedRequest("POST", questions.PATH.decode(), canonical)
    body = questions.stream_body(number, frames) if frames else questions.plain_body(number)
    content_type = b"text/event-stream; charset=utf-8" if frames else b"application/json"
    headers = ((b"Content-Type", content_type), (b"x-request-id", b"req_%010d" % number), *_KEPT_FIELDS)
    return Recording(
        key=cache_key(request, upstream=UPSTREAM_NAME, scope=SHARED_SCOPE),
        recorded_at=now_s,
        request=request,
        head=Head(200, "OK", headers),
        body=body,
        timeline=_timeline(len(body), frames),
        check="done" if frames else "json",
        stream=bool(frames),
        model="gpt-4o-mini",
        usage=None if frames else Usage(190, 60),
    )


def _timeline(body_bytes: int, frames: int) -> Timeline:
    of_frames = [questions.FRAME_BYTES] * frames
    lengths = array("I", (*of_frames, body_bytes - sum(of_frames)))
    return Timeline(_HEAD_US, lengths, array("Q", (_HEAD_US + _GAP_US * (turn + 1) for turn in range(len(lengths)))))


def _made(of: range) -> Iterator[list[_Row]]:
    """The rows of these questions, part by part; where there are several by as many processes as there are cores."""
    parts = [of[start : start + _AT_ONCE] for start in range(0, len(of), _AT_ONCE)]
    if len(parts) == 1:
        yield _rows(*parts)
        return
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as makers:
        yield from makers.map(_rows, parts)


def _rows(of: range) -> list[_Row]:
    return [(each.key, each.recorded_at, summary(each).to_json(), encode(each)) for each in recordings(of)]
