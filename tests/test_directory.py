"""The store's directory: one that won't do is refused, and its operator is told what to do."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store import directory as directory_module
from proxy.store.directory import UnusableDirectory
from proxy.store.disk import Shelf
from tests.recordings import recording
from tests.shelves import HOLD_THE_LOCK, MIB, another_process, plant, put, rest_of

NOBODY = 65534


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_nobody_else_may_read_what_is_recorded(tmp_path: Path) -> None:
    """A directory of ours is closed to others; in one that is open to them the files are closed."""
    (tmp_path / "open").mkdir(mode=0o755)

    for name in ("new/store", "open"):
        with closing(Shelf.open(tmp_path / name, MIB)) as shelf:
            put(shelf, recording())
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / name).glob("cache.db*")}
        assert modes == dict.fromkeys(("cache.db", "cache.db-wal", "cache.db-shm"), 0o600)

    assert (tmp_path / "new/store").stat().st_mode & 0o777 == 0o700


def test_a_directory_of_its_own_is_kept_out_of_git(tmp_path: Path) -> None:
    """A directory that holds other things as well is left to its owner."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes").touch()

    for name in ("own", "project"):
        Shelf.open(tmp_path / name, MIB).close()

    assert (tmp_path / "own" / ".gitignore").read_text() == "*\n"
    assert not (tmp_path / "project" / ".gitignore").exists()


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_world_writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def make_garbage(path: Path) -> None:
    path.mkdir()
    (path / "cache.db").write_bytes(b"this is no database, whatever its name may say" * 100)


def make_database_of_somebody_else(path: Path) -> None:
    path.mkdir()
    plant(path, "CREATE TABLE addresses (name, street)")


def make_link(path: Path) -> None:
    path.mkdir()
    Shelf.open(path.parent / "elsewhere", MIB).close()
    (path / "cache.db").symlink_to(path.parent / "elsewhere" / "cache.db")


def make_planted_settings(path: Path) -> None:
    Shelf.open(path, MIB).close()
    plant(path, "INSERT INTO Settings VALUES ('_directory', '/etc')")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (make_file, "there is a file of that name"),
        (make_world_writable, "everybody may write to it; try chmod o-w"),
        (make_garbage, "can't be used .*not a database.*move it away"),
        (make_database_of_somebody_else, "belongs to something else"),
        (make_link, "can't be used"),
        (make_planted_settings, "belongs to something else"),
    ],
)
def test_a_directory_that_will_not_do_is_refused(directory: Path, make: Callable[[Path], None], what: str) -> None:
    """The operator is told which directory it is, what is wrong with it, and what to do."""
    make(directory)

    with pytest.raises(UnusableDirectory, match=what) as refused:
        Shelf.open(directory, MIB)

    assert str(refused.value).startswith(f"cache.directory {directory}: ")


def test_a_directory_of_somebody_else_is_refused(directory: Path) -> None:
    """Whoever owns it could put there what he likes."""
    if os.geteuid() == 0:
        directory.mkdir()
        os.chown(directory, NOBODY, NOBODY)
    else:
        directory = Path("/usr")

    with pytest.raises(UnusableDirectory, match="belongs to another user"):
        Shelf.open(directory, MIB)


def test_a_directory_below_a_file_or_with_a_variable_in_its_name_is_refused(tmp_path: Path) -> None:
    """Neither becomes a traceback, nor a directory somewhere else."""
    (tmp_path / "file").touch()

    with pytest.raises(UnusableDirectory, match="Not a directory"):
        Shelf.open(tmp_path / "file" / "store", MIB)
    with pytest.raises(UnusableDirectory, match="variable"):
        Shelf.open(tmp_path / "$HOME", MIB)


OPEN_AS_AN_ORDINARY_USER = """
import os, sys
from pathlib import Path
from proxy.store.directory import UnusableDirectory
from proxy.store.disk import Shelf
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
print("ready", flush=True)
try:
    Shelf.open(Path(sys.argv[1]), 2**20)
except UnusableDirectory as refused:
    print(refused)
"""


@pytest.fixture
def public_place() -> Iterator[Path]:
    """Unlike pytest's directories one that any user can reach."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("mode", [0o500, 0o300])
def test_a_directory_that_can_not_be_read_and_written_is_refused(public_place: Path, mode: int) -> None:
    """Even where it belongs to the right user, who is told how to open it."""
    directory = public_place / "store"
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    directory.chmod(mode)

    with another_process(OPEN_AS_AN_ORDINARY_USER, directory) as process:
        said = rest_of(process)

    assert said == f"cache.directory {directory}: it can't be read and written; try chmod u+rwx {directory}.\n"


def test_a_database_that_somebody_holds_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for as long as diskcache would, which is a minute."""
    monkeypatch.setattr(directory_module, "LOCK_TIMEOUT_S", 0.1)
    Shelf.open(directory, MIB).close()

    with (
        another_process(HOLD_THE_LOCK, directory / "cache.db"),
        pytest.raises(UnusableDirectory, match=r"locked.*end the program that holds it"),
    ):
        Shelf.open(directory, MIB)
