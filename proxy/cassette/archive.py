"""A cassette as a `.tar.gz` of its files. Everything here blocks.

The rule: it is read as if an enemy had packed it. Nothing is unpacked onto the disk, and a member that is anything but
a file under its plain name is refused before it is read. What is packed is the same byte for byte whoever packs it.
"""

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from gzip import BadGzipFile, GzipFile
from pathlib import Path

from proxy.cassette.directory import being_written
from proxy.cassette.document import Pair
from proxy.cassette.names import BODY, DOCUMENT, LARGEST_FILE_BYTES, CassetteError, key_and_kind, name_of

_BLOCK = tarfile.BLOCKSIZE
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_NOTES = (tarfile.XHDTYPE, tarfile.XGLTYPE)  # on the members behind them, times and the like: git and macOS add them
_LARGEST_PADDING_BYTES = 1024 * 1024  # behind the end; tar fills up its last record, of 10 KiB
_MODE = 0o644
_LEVEL = 6

# Files that wait for the other one of their recording. Of those packed in the order of their names no two ever wait.
_WAITING_BYTES = LARGEST_FILE_BYTES

_ANEW = "pack it anew (tar --sort=name -C DIRECTORY -czf FILE .)"


def read_archive(path: Path) -> Iterator[tuple[str, Pair]]:
    """Each recording's key and files, one at a time, in the order in which they are whole.

    A `.body` file by itself is passed over, as in a directory.

    Raises:
        CassetteError: it can't be read, or a member of it is none of a cassette's.
    """
    halves: dict[str, dict[str, bytes]] = {}
    whole: set[str] = set()
    waiting_bytes = 0
    for key, kind, content in _parts(path):
        found = halves.setdefault(key, {})
        if kind in found or key in whole:
            raise CassetteError(f"{path}: {name_of(key, kind)} is in it twice")
        found[kind] = content
        waiting_bytes += len(content) + _BLOCK
        if len(found) > 1:
            del halves[key]
            whole.add(key)
            waiting_bytes -= sum(len(each) + _BLOCK for each in found.values())
            yield key, Pair(found[DOCUMENT], found[BODY])
        elif waiting_bytes > _WAITING_BYTES:
            raise CassetteError(f"{path}: the two files of its recordings are too far from each other; {_ANEW}")
    for key, found in halves.items():
        if DOCUMENT in found:
            raise CassetteError(f"{path}: {name_of(key, BODY)} is missing, and a recording is two files")


def write_archive(path: Path, pairs: Iterable[tuple[str, Pair]]) -> None:
    """Pack recordings, which come in the order of their keys; the archive is there when it is whole.

    Raises:
        OSError: it can't be written.
    """
    with (
        being_written(path) as file,
        # No name and no time in its head.
        GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as packed,
    ):
        for key, pair in pairs:
            _pack(packed, name_of(key, BODY), pair.body)
            _pack(packed, name_of(key, DOCUMENT), pair.document)
        packed.write(bytes(2 * _BLOCK))


def _pack(packed: GzipFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of nobody, and of 1970
    member.size, member.mode = len(content), _MODE
    packed.write(member.tobuf(tarfile.USTAR_FORMAT))
    packed.write(content)
    packed.write(bytes(-len(content) % _BLOCK))


def _parts(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Key, kind and content of each file of a cassette."""
    try:
        # Not tarfile's own reading, which takes what stands before a member (its long name, its notes) into memory
        # whatever its size, and keeps all members.
        with GzipFile(path, "rb") as packed:
            while (member := _next(packed)) is not None:
                yield from _part(path, member, packed)
    except (tarfile.HeaderError, EOFError, zlib.error, BadGzipFile) as error:
        raise CassetteError(f"{path}: it is no whole .tar.gz file ({error})") from error
    except OSError as error:
        raise CassetteError(f"{path}: it can't be read ({error.strerror})") from error


def _next(packed: GzipFile) -> tarfile.TarInfo | None:
    header = packed.read(_BLOCK)
    if header != bytes(_BLOCK):
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    if len(packed.read(_LARGEST_PADDING_BYTES)) == _LARGEST_PADDING_BYTES:
        raise EOFError("it does not end where it says")
    return None  # and its checksum, which stands at its end, was right


def _part(path: Path, member: tarfile.TarInfo, packed: GzipFile) -> Iterator[tuple[str, str, bytes]]:
    name = member.name.removeprefix("./")
    if member.isdir() and name == ".":
        return
    is_note = member.type in _NOTES
    if not is_note and (member.type not in _FILES or "/" in name):
        raise CassetteError(f"{path}: {name!r} in it is no plain file, and a cassette holds nothing else; {_ANEW}")
    if not 0 <= member.size <= LARGEST_FILE_BYTES:
        raise CassetteError(f"{path}: {name!r} in it is larger than any recording, {member.size:,} bytes")
    try:
        found = None if is_note else key_and_kind(name)
    except CassetteError as error:
        raise CassetteError(f"{path}: {name!r}: {error}") from error
    content = packed.read(member.size + -member.size % _BLOCK)
    if len(content) < member.size:
        raise EOFError(f"{name!r} is cut off")
    if found is not None:
        yield *found, content[: member.size]
