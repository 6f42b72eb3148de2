"""A store's directory as tests need it: written to from outside, by other processes, and by those who mean no good."""

import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import shake_128
from pathlib import Path
from typing import Any

from proxy.recording import Recording
from proxy.store.codec import encode, summary
from proxy.store.disk import Shelf
from proxy.store.rows import Row
from tests.recordings import recording

ROOT = Path(__file__).parent.parent
MIB = 1024 * 1024


def put(shelf: Shelf, *recordings: Recording) -> None:
    for one in recordings:
        shelf.put(*row(one))


def row(one: Recording) -> Row:
    """What is stored of a recording."""
    return one.key, encode(one), summary(one).to_json()


def noise(size_bytes: int) -> bytes:
    """Bytes that can't be compressed."""
    return shake_128(b"noise").digest(size_bytes)


def written(name: str, number: int) -> Recording:
    """What a process of that name writes as its n-th recording."""
    return recording(f"{name} {number}", [b"data: %d" % number] * 300)


def plant(directory: Path, statement: str, *values: object) -> None:
    """Write to the database as somebody might who has access to the directory."""
    with closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as connection:
        connection.execute(statement, values)


def plant_row(directory: Path, key: object, *, raw: int = 1, mode: int = 1, **columns: object) -> None:
    names = {"key": key, "raw": raw, "mode": mode, "store_time": 0.0} | columns
    statement = f"INSERT INTO Cache ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - our own
    plant(directory, statement, *names.values())


class Mine:
    """Leaves a trace when somebody unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


@contextmanager
def another_process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a script, and has said its first line when this is entered."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def rest_of(process: subprocess.Popen[str]) -> str:
    """What a process says until it ends; unlike communicate() with what has been read ahead."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    said = process.stdout.read()
    assert process.wait() == 0
    return said


HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("ready", flush=True)
sys.stdin.read()
"""


def pickled_value(directory: Path, key: str, trace: Path) -> None:
    plant_row(directory, key, mode=4, value=pickle.dumps(Mine(trace)), tag=b"{}")


def pickled_file(directory: Path, key: str, trace: Path) -> None:
    (directory / "ab" / "cd").mkdir(parents=True)
    name = f"ab/cd/{'0' * 28}.val"
    (directory / name).write_bytes(pickle.dumps(Mine(trace)))
    plant_row(directory, key, mode=4, filename=name, size=10, tag=b"{}")


def text_value(directory: Path, key: str, _: Path) -> None:
    plant_row(directory, key, mode=1, value="text", tag=b"{}")


def text_file(directory: Path, key: str, trace: Path) -> None:
    plant_row(directory, key, mode=3, filename=str(trace.parent / "outside"), tag=b"{}")


def file_elsewhere(directory: Path, key: str, _: Path) -> None:
    plant_row(directory, key, mode=2, filename="../outside", size=10, tag=b"{}")


def number(directory: Path, key: str, _: Path) -> None:
    plant_row(directory, key, mode=1, value=7, tag=b"{}")


PLANTERS = (pickled_value, pickled_file, text_value, text_file, file_elsewhere, number)
