"""Cassettes: recordings in files that can be committed and reviewed, a directory or a `.tar.gz` of it.

    for recording in read_cassette(Path("cassettes/chat")): ...
    write_recording(Path("cassettes/chat"), recording)

The rule: what is wrong with a cassette is a `CassetteError` that names the file. Everything here blocks.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from proxy.cassette.archive import read_archive, write_archive
from proxy.cassette.directory import make_directory, read_directory, write_pair
from proxy.cassette.document import OtherVersion, pair_of, recording_of
from proxy.cassette.names import DOCUMENT, CassetteError, name_of
from proxy.recording import Recording
from proxy.store.metadata import Damaged

__all__ = ["CassetteError", "is_archive", "make_directory", "read_cassette", "write_cassette", "write_recording"]

_ARCHIVE_ENDINGS = (".tar.gz", ".tgz")


def is_archive(path: Path) -> bool:
    """Whether a cassette of that name is written as an archive; what is read is what is there."""
    return path.name.endswith(_ARCHIVE_ENDINGS) and not path.is_dir()


def read_cassette(path: Path) -> Iterator[Recording]:
    """The recordings of a cassette, one at a time, so that no more than one is in memory.

    Raises:
        CassetteError: a file of it can't be read, is damaged, is none of a cassette's, or is one of another version.
    """
    for key, pair in read_directory(path) if path.is_dir() else read_archive(path):
        try:
            yield recording_of(key, pair)
        except OtherVersion as version:
            advice = "use the reprise that wrote it, or record it anew"
            raise CassetteError(f"{path / name_of(key, DOCUMENT)}: {version}; {advice}") from version
        except Damaged as damage:
            raise CassetteError(f"{path / name_of(key, DOCUMENT)}: {damage}; restore or remove it") from damage


def write_cassette(path: Path, recordings: Iterable[Recording]) -> None:
    """Write recordings, which come in the order of their keys.

    An archive is written as a whole. Into a directory they are written one by one, each in place of an older one of its
    key; what else is there stays.

    Raises:
        CassetteError: it can't be written.
    """
    try:
        if is_archive(path):
            write_archive(path, ((recording.key, pair_of(recording)) for recording in recordings))
            return
        make_directory(path)
        for recording in recordings:
            write_recording(path, recording)
    except OSError as error:
        raise CassetteError(f"{path}: it can't be written ({error.strerror})") from error


def write_recording(directory: Path, recording: Recording) -> None:
    """Write one recording into a directory, in place of an older one of its key: whole, or not at all.

    Raises:
        CassetteError: it can't be written.
    """
    try:
        write_pair(directory, recording.key, pair_of(recording))
    except OSError as error:
        raise CassetteError(f"{directory}: it can't be written ({error.strerror})") from error
