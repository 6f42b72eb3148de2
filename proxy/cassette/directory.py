"""A cassette as a directory of files. Everything here blocks.

The rule: a recording is there whole or not at all, whoever writes at the same time and whenever it is killed. What
makes it one is its `.json` file, which comes last.
"""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from proxy.cassette.document import Pair
from proxy.cassette.names import BODY, DOCUMENT, LARGEST_FILE_BYTES, CassetteError, key_and_kind, name_of
from proxy.store.directory import LOCK_TIMEOUT_S

_RETRY_S = 0.005


def read_directory(directory: Path) -> Iterator[tuple[str, Pair]]:
    """Each recording's key and files, in the order of the keys, one at a time.

    A `.body` file by itself is passed over: whoever wrote it was killed before there was a recording.

    Raises:
        CassetteError: a file can't be read, or is none of a cassette's.
    """
    for key in _keys(directory):
        if (pair := _pair(directory, key)) is not None:
            yield key, pair


def make_directory(directory: Path) -> None:
    """See to it that recordings can be written there.

    Raises:
        CassetteError: they can't.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CassetteError(f"{directory}: there is a file of that name; name a directory") from error
    except OSError as error:
        raise CassetteError(f"{directory}: it can't be made ({error.strerror}); name another one") from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise CassetteError(f"{directory}: it can't be read and written; try chmod u+rwx {directory}")


def write_pair(directory: Path, key: str, pair: Pair) -> None:
    """Write a recording, in place of an older one of its key.

    Raises:
        OSError: it can't be written.
    """
    document, body = directory / name_of(key, DOCUMENT), directory / name_of(key, BODY)
    # Or the body of one could meet the document of another who writes there.
    with (
        _locked(directory, fcntl.LOCK_EX),
        being_written(document) as described,
        being_written(body) as answered,  # which has its name first
    ):
        for file, content in ((described, pair.document), (answered, pair.body)):
            file.write(content)
            file.flush()  # what can't be written is to take nothing away
        document.unlink(missing_ok=True)  # from here on there is none, and not one with another's body


@contextmanager
def being_written(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which has its name when it is whole; what fails within leaves nothing. Raises `OSError`."""
    written = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with written.open("xb") as file:
            yield file
        written.replace(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def _keys(directory: Path) -> list[str]:
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - names are all that is asked for
    except OSError as error:
        raise CassetteError(f"{directory}: it can't be read ({error.strerror})") from error
    keys = []
    for name in names:
        try:
            found = key_and_kind(name)
        except CassetteError as error:
            raise CassetteError(f"{directory / name}: {error}") from error
        if found and found[1] == DOCUMENT:
            keys.append(found[0])
    return keys


def _pair(directory: Path, key: str) -> Pair | None:
    """The files of one recording; None if it is gone, and was there a moment ago."""
    document, body = directory / name_of(key, DOCUMENT), directory / name_of(key, BODY)
    try:
        # While somebody writes, there is a moment without a document, and one with another's body.
        with _locked(directory, fcntl.LOCK_SH):
            return Pair(_read(document), _read(body)) if os.path.lexists(document) else None
    except OSError as error:
        raise CassetteError(f"{directory}: it can't be read ({error.strerror})") from error


def _read(path: Path) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # to open a pipe would wait for whoever writes to it
            raise CassetteError(f"{path}: it is no file")
        if facts.st_size > LARGEST_FILE_BYTES:
            raise CassetteError(f"{path}: it is larger than any recording, {facts.st_size:,} bytes")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CassetteError(f"{path}: it is missing, and a recording is two files; restore or remove both") from error
    except OSError as error:
        raise CassetteError(f"{path}: it can't be read ({error.strerror})") from error


@contextmanager
def _locked(directory: Path, way: int) -> Iterator[None]:
    """Keep out others that write there, with `LOCK_EX` also those that read; they are waited for. Raises `OSError`."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(held, directory, way)
        yield
    finally:
        os.close(held)


def _lock(held: int, directory: Path, way: int) -> None:
    until_s = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(held, way | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until_s:
                raise TimeoutError(error.errno, "it is held by a process that has stopped", str(directory)) from error
            time.sleep(_RETRY_S)
        except OSError:  # a file system that knows no locks: whoever is alone there needs none
            return
        else:
            return
