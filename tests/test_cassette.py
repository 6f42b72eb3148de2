"""Cassettes: recordings in files for people and version control, which give back the same recordings."""

import errno
import fcntl
import gzip
import io
import os
import resource
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cassette import CassetteError, read_cassette, write_cassette, write_recording
from proxy.cassette.document import pair_of, recording_of
from proxy.recording import RecordedRequest, Recording
from proxy.store.metadata import Damaged
from tests.recordings import EVENTS, key_of, recording, recordings, timeline

ONE, TWO = (recording(name) for name in ("one", "two"))
DOCUMENT = """{
  "cassette_version": 1,
  "check": "done",
  "key": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
  "model": "gpt-4o-mini",
  "recorded_at": 1700000000.25,
  "request": {
    "body": {
      "messages": [
        {
          "content": "Grüße",
          "role": "user"
        }
      ],
      "model": "gpt-4o-mini",
      "stream": true
    },
    "method": "POST",
    "namespace": "tests",
    "path": "/v1/chat/completions",
    "sample": 2,
    "vary": [
      [
        "openai-beta",
        "x=1"
      ]
    ]
  },
  "response": {
    "body_bytes": 87,
    "body_sha256": "BODY_SHA256",
    "headers": [
      [
        "Content-Type",
        "text/event-stream; charset=utf-8"
      ],
      [
        "x-request-id",
        "req_1"
      ]
    ],
    "reason": "OK",
    "status": 200
  },
  "stream": true,
  "timeline": {
    "frames": [
      "49+250000 24+20000 14+20000"
    ],
    "head_us": 240000
  },
  "usage": {
    "input_tokens": 9,
    "output_tokens": 2
  }
}
"""


def in_order(*several: Recording) -> list[Recording]:
    return sorted(several, key=lambda each: each.key)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# The format


def test_a_recording_is_two_files_of_which_one_can_be_reviewed(tmp_path: Path) -> None:
    """The request is JSON within JSON, members are sorted, and eight frames are a line."""
    one = recording("three", prompt="Grüße")
    one = one._replace(key=key_of("three"))

    write_recording(tmp_path, one)

    written = files(tmp_path)
    document = orjson.loads(written[f"{one.key}.json"])
    assert written.keys() == {f"{one.key}.json", f"{one.key}.body"}
    assert written[f"{one.key}.body"] == b"".join(EVENTS)
    expected = DOCUMENT.replace("BODY_SHA256", document["response"]["body_sha256"])
    expected = expected.replace(orjson.loads(expected)["key"], one.key)
    assert written[f"{one.key}.json"].decode() == expected


@settings(deadline=None)
@given(one=recordings())
def test_every_recording_comes_back_as_it_was(one: Recording) -> None:
    """Whatever is in it, and the files of what came back are the same bytes again."""
    pair = pair_of(one)

    back = recording_of(one.key, pair)

    assert back == one
    assert pair_of(back) == pair
    assert pair.document.endswith(b"}\n")
    pair.document.decode()


@settings(deadline=None)
@given(body=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_every_request_comes_back_byte_for_byte(body: object) -> None:
    """Also where numbers are not as a program would spell them."""
    try:
        asked = orjson.dumps({"a": body}, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer beyond 64 bits, which no request that is recorded holds
        asked = b'{"a": %d}' % 2**70
    one = ONE._replace(request=ONE.request._replace(body=asked))

    assert recording_of(one.key, pair_of(one)) == one


@pytest.mark.parametrize(
    ("body", "member"),
    [
        (b'{"a":1.0,"b":[true,null]}', "body"),
        (b'{"a":1.50}', "body_text"),
        (b'{"a":1,"a":1}', "body_text"),
        (b"[" * 250 + b"]" * 250, "body"),
        (b"[" * 253 + b"]" * 253, "body_text"),
        (b"", "body_text"),
        (b"\xff", "body_base64"),
    ],
)
def test_a_body_that_json_would_change_is_kept_as_text(body: bytes, member: str) -> None:
    """Or as base64, where it is no text."""
    one = ONE._replace(request=ONE.request._replace(body=body))

    pair = pair_of(one)

    assert member in orjson.loads(pair.document)["request"]
    assert recording_of(one.key, pair).request.body == body


def test_frames_that_came_before_the_one_before_them_are_kept() -> None:
    """A clock may have been wrong; the recording says what it said."""
    one = ONE._replace(body=b"ab", timeline=timeline([1, 1], [5, 3]))

    assert recording_of(one.key, pair_of(one)) == one


Change = Callable[[dict[str, dict[str, object]]], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda document: document.update(cassette_version=2), "its cassette_version is 2, and this program reads"),
        (lambda document: document.pop("cassette_version"), "its cassette_version is None"),
        (lambda document: document.update(key=TWO.key), "another key"),
        (lambda document: document.update(request=[]), "its request is no object"),
        (lambda document: document["request"].pop("body"), "no body"),
        (lambda document: document["request"].update(body_text=""), "more than one"),
        (lambda document: document["response"].update(body_bytes=1), "does not hold the bytes"),
        (lambda document: document["response"].update(body_sha256="0"), "does not hold the bytes"),
        (lambda document: document["response"].update(status=99), "status is not 200"),
        (lambda document: document["response"].update(status=201), "status is not 200"),
        (lambda document: document["response"].update(status=200.0), "status"),
        (lambda document: document["response"].update(headers=[["set-cookie", "a"]]), "no recording may keep"),
        (lambda document: document["response"].update(headers=[["content-type", "a\r\nb: c"]]), "can't be sent"),
        (lambda document: document["timeline"].update(frames=["1+1"]), "as long as its body"),
        (lambda document: document["timeline"].update(frames=["87"]), "not a length and a gap"),
        (lambda document: document["timeline"].update(frames=["87-5"]), "before it was asked for"),
        (lambda document: document["timeline"].update(frames=["9999999999+1"]), "endless"),
        (lambda document: document["timeline"].update(frames="87+1"), "no lines"),
        (lambda document: document["timeline"].update(frames=["0+1 87+1"]), "not a length and a gap"),
        (lambda document: document["timeline"].update(frames=["80+1 00+1 7+1"]), "not a length and a gap"),
        (lambda document: document["timeline"].update(frames=["80+1 7+8640000000001"]), "more than 100 days"),
        (lambda document: document["timeline"].update(frames=["80+9000000000000 7-9000000000000"]), "100 days"),
        (lambda document: document["timeline"].update(head_us=8640000000001), "more than 100 days"),
        (lambda document: document["timeline"].update(head_us=-1), "head_us"),
        (lambda document: document.update(usage={"input_tokens": 1}), "usage"),
        (lambda document: document.update(check="none"), "check"),
    ],
)
def test_what_is_wrong_with_a_document_is_said(change: Change, said: str) -> None:
    """None of it becomes a recording."""
    document, _ = pair_of(ONE)
    members = orjson.loads(document)
    change(members)

    with pytest.raises(Damaged, match=said):
        recording_of(ONE.key, pair_of(ONE)._replace(document=orjson.dumps(members)))


@pytest.mark.parametrize(
    ("member", "value"), [("body_base64", "é"), ("body_base64", "a"), ("body_text", 1), ("body_text", "\ud83d")]
)
def test_a_body_that_is_no_bytes_is_damage(member: str, value: object) -> None:
    """It was not written by us."""
    members = orjson.loads(pair_of(ONE).document)
    del members["request"]["body"]
    members["request"][member] = "SURROGATE" if value == "\ud83d" else value
    document = orjson.dumps(members).replace(b"SURROGATE", rb"\ud83d")

    with pytest.raises(Damaged, match="can't be made into bytes"):
        recording_of(ONE.key, pair_of(ONE)._replace(document=document))


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"cassette_version":1}'])
def test_what_is_no_document_is_damage(document: bytes) -> None:
    """Whatever somebody has put there."""
    with pytest.raises(Damaged):
        recording_of(ONE.key, pair_of(ONE)._replace(document=document))


# Directories and archives


@settings(deadline=None)
@given(several=st.lists(recordings(), max_size=4, unique_by=lambda one: one.key), packed=st.booleans())
def test_a_cassette_of_what_was_in_a_cassette_is_the_same_bytes(several: list[Recording], packed: bool) -> None:  # noqa: FBT001
    """And holds the same recordings, in the order of their keys."""
    with tempfile.TemporaryDirectory() as name:
        first, second = (Path(name) / (f"{each}.tar.gz" if packed else each) for each in ("first", "second"))
        write_cassette(first, in_order(*several))

        write_cassette(second, read_cassette(first))

        assert list(read_cassette(second)) == in_order(*several)
        same = (first.read_bytes(), second.read_bytes()) if packed else (files(first), files(second))
        assert same[0] == same[1]


def test_an_archive_holds_the_files_of_the_directory(tmp_path: Path) -> None:
    """Of nobody and of 1970, in the order of their names; any tar can unpack it."""
    directory, archive = tmp_path / "chat", tmp_path / "chat.tar.gz"
    for cassette in (directory, archive):
        write_cassette(cassette, in_order(ONE, TWO))

    with tarfile.open(archive) as packed:
        members = packed.getmembers()
        contents = {member.name: packed.extractfile(member).read() for member in members}  # type: ignore[union-attr]

    assert contents == files(directory)
    assert [member.name for member in members] == sorted(contents)
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_directory_that_somebody_packed_can_be_read(tmp_path: Path, form: int) -> None:
    """In whatever order and form, with the directory itself, hidden files and a README in it."""
    directory, archive = tmp_path / "chat", tmp_path / "chat.tar.gz"
    write_cassette(directory, in_order(ONE, TWO))
    (directory / "README.md").write_text("Ours.")
    (directory / ".gitattributes").write_text("*.body -text\n")
    notes = {"comment": "a note"} if form == tarfile.PAX_FORMAT else {}
    with tarfile.open(archive, "w:gz", format=form, pax_headers=notes) as packed:
        packed.add(directory, ".", recursive=False)
        for path in sorted(directory.iterdir(), reverse=True):
            packed.add(path, f"./{path.name}")

    assert in_order(*read_cassette(archive)) == in_order(*read_cassette(directory)) == in_order(ONE, TWO)


def test_a_recording_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    """What else is in the directory stays, and nothing else is left behind."""
    newer = recording("one", [b"data: [DONE]\n\n"])
    write_cassette(tmp_path, in_order(ONE, TWO))

    write_recording(tmp_path, newer)

    assert list(read_cassette(tmp_path)) == in_order(newer, TWO)
    assert len(files(tmp_path)) == 4


def test_what_somebody_writes_meanwhile_is_read_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a moment without a document; whoever reads waits for the end of it."""
    write_cassette(tmp_path, in_order(ONE, TWO))
    first, second = in_order(ONE, TWO)
    path = tmp_path / f"{second.key}.json"
    reading = read_cassette(tmp_path)
    assert next(reading) == first
    held, document = os.open(tmp_path, os.O_RDONLY), path.read_bytes()
    fcntl.flock(held, fcntl.LOCK_EX)
    path.unlink()

    def go_on(_delay_s: float) -> None:
        path.write_bytes(document)
        os.close(held)

    monkeypatch.setattr("time.sleep", go_on)

    assert list(reading) == [second]


def test_what_is_removed_meanwhile_is_passed_over(tmp_path: Path) -> None:
    """It was listed a moment ago."""
    write_cassette(tmp_path, in_order(ONE, TWO))
    first, second = in_order(ONE, TWO)
    reading = read_cassette(tmp_path)
    assert next(reading) == first

    for kind in ("json", "body"):
        (tmp_path / f"{second.key}.{kind}").unlink()

    assert list(reading) == []


def test_one_that_is_held_for_ever_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that was stopped while it wrote, for example."""
    monkeypatch.setattr("proxy.cassette.directory.LOCK_TIMEOUT_S", 0.01)
    write_recording(tmp_path, ONE)
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    with pytest.raises(CassetteError, match="it is held by a process that has stopped"):
        list(read_cassette(tmp_path))
    os.close(held)


def test_a_directory_without_locks_can_be_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none."""

    def flock(_held: int, _way: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)

    write_recording(tmp_path, ONE)

    assert list(read_cassette(tmp_path)) == [ONE]


def test_a_directory_that_nobody_may_write_can_be_read(tmp_path: Path) -> None:
    """As where it was checked out for reading alone."""
    write_recording(tmp_path, ONE)
    tmp_path.chmod(0o555)

    assert list(read_cassette(tmp_path)) == [ONE]
    tmp_path.chmod(0o755)


def test_a_writer_that_was_killed_leaves_no_recording(tmp_path: Path) -> None:
    """The body comes first, and by itself is none."""
    write_recording(tmp_path, ONE)
    (tmp_path / f"{ONE.key}.json").unlink()
    (tmp_path / f".{ONE.key}.json.12345678.part").write_bytes(b"{")

    assert list(read_cassette(tmp_path)) == []


@pytest.mark.parametrize("moment", [0, 1])
def test_a_writer_that_was_killed_leaves_no_mixture(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a body with the document of another one the whole cassette would be refused."""
    write_cassette(tmp_path, in_order(ONE, TWO))
    moments, replace_file = iter(range(2)), os.replace

    def replace_or_die(*names: Path) -> None:
        if next(moments) == moment:
            raise SystemExit
        replace_file(*names)

    monkeypatch.setattr("os.replace", replace_or_die)
    with pytest.raises(SystemExit):
        write_recording(tmp_path, recording("one", [b"data: [DONE]\n\n"]))

    assert TWO in list(read_cassette(tmp_path))


def test_what_can_not_be_written_takes_nothing_away(tmp_path: Path) -> None:
    """As where a disk is full: the older recording of its key stays."""
    write_recording(tmp_path, ONE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        for frames in ([b"data: [DONE]\n\n"], [bytes(1000)]):
            with pytest.raises(CassetteError, match="it can't be written"):
                write_recording(tmp_path, recording("one", frames))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(read_cassette(tmp_path)) == [ONE]
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (f"{ONE.key}.body", b"", f"{ONE.key}.json: its .body file does not hold"),
        (f"{ONE.key}.body", None, f"{ONE.key}.body: it is missing"),
        (f"{ONE.key}.json", b"{", f"{ONE.key}.json: it is not JSON"),
        (f"{ONE.key}.json", pair_of(TWO).document, f"{ONE.key}.json: it is the entry of another key"),
        ("notes.json", b"{}", "notes.json: it is not named after the key"),
        (f"{ONE.key.upper()}.body", b"", "it is not named after the key"),
    ],
)
def test_a_file_that_is_none_of_a_cassettes_is_named(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    """Whatever is wrong with it, somebody has to look."""
    write_recording(tmp_path, ONE)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(CassetteError, match=said):
        list(read_cassette(tmp_path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nor anything else read that is no file."""
    write_recording(tmp_path, ONE)
    (tmp_path / f"{ONE.key}.body").unlink()
    os.mkfifo(tmp_path / f"{ONE.key}.body")

    with pytest.raises(CassetteError, match="it is no file"):
        list(read_cassette(tmp_path))


def test_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """It is not damage, and nothing of it is guessed."""
    write_recording(tmp_path, ONE)
    path = tmp_path / f"{ONE.key}.json"
    path.write_bytes(path.read_bytes().replace(b'"cassette_version": 1', b'"cassette_version": 2'))

    with pytest.raises(CassetteError, match="cassette_version is 2, and this program reads version 1; use the reprise"):
        list(read_cassette(tmp_path))


# Archives that mean no good


def packed(*members: tuple[tarfile.TarInfo, bytes], end: bytes = bytes(1024)) -> bytes:
    raw = io.BytesIO()
    for member, content in members:
        raw.write(member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
    return gzip.compress(raw.getvalue() + end, mtime=0)


def member(name: str, content: bytes = b"", **facts: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info, content


DOCUMENT_OF_ONE, BODY_OF_ONE = (
    member(f"{ONE.key}.{kind}", content) for kind, content in zip(("json", "body"), pair_of(ONE), strict=True)
)


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (packed(member(f"../{ONE.key}.body")), "no plain file"),
        (packed(member(f"/etc/{ONE.key}.body")), "no plain file"),
        (packed(member(f"chat/{ONE.key}.body")), r"no plain file.*pack it anew \(tar .* \.\)$"),
        (packed(member(f"{ONE.key}.body", type=tarfile.SYMTYPE, linkname="/etc/passwd")), "no plain file"),
        (packed(member(f"{ONE.key}.body", type=tarfile.LNKTYPE, linkname="a")), "no plain file"),
        (packed(member(f"{ONE.key}.body", type=tarfile.CHRTYPE)), "no plain file"),
        (packed(member(f"{ONE.key}.body", type=tarfile.GNUTYPE_SPARSE)), "no plain file"),
        (packed(member("chat", type=tarfile.DIRTYPE)), "no plain file"),
        (packed(member("a", type=tarfile.GNUTYPE_LONGNAME)), "no plain file"),
        (packed(member(f"{ONE.key}.body", size=2**40)), "larger than any recording"),
        (packed(member("a", type=tarfile.XHDTYPE, size=2**40)), "larger than any recording"),
        (packed(member(f"{ONE.key}.body", size=100), end=b""), "no whole .tar.gz"),
        (packed(BODY_OF_ONE, DOCUMENT_OF_ONE, end=b""), "no whole .tar.gz"),
        (packed(BODY_OF_ONE, DOCUMENT_OF_ONE, end=bytes(2**21)), "no whole .tar.gz"),
        (packed(BODY_OF_ONE, DOCUMENT_OF_ONE)[:-8], "no whole .tar.gz"),
        (packed(BODY_OF_ONE, BODY_OF_ONE), "is in it twice"),
        (packed(BODY_OF_ONE, DOCUMENT_OF_ONE, BODY_OF_ONE), "is in it twice"),
        (packed(DOCUMENT_OF_ONE), f"{ONE.key}.body is missing"),
        (packed(member("notes.json")), "notes.json.*not named after the key"),
        (packed(member("\x1b[2J.json")), "not named after the key"),
        (b"", "no whole .tar.gz"),
        (b"PK\x03\x04", "no whole .tar.gz"),
        (gzip.compress(b"garbage" * 1000, mtime=0), "no whole .tar.gz"),
    ],
)
def test_an_archive_that_is_none_of_ours_is_refused(tmp_path: Path, archive: bytes, said: str) -> None:
    """Before anything of it is kept; nothing is ever unpacked onto the disk."""
    path = tmp_path / "chat.tar.gz"
    path.write_bytes(archive)

    with pytest.raises(CassetteError, match=said):
        list(read_cassette(path))

    assert list(tmp_path.iterdir()) == [path]


def test_files_that_wait_for_each_other_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an archive that is not in order no more is held than of the largest recording."""
    monkeypatch.setattr("proxy.cassette.archive._WAITING_BYTES", 2000)
    path = tmp_path / "chat.tar.gz"
    path.write_bytes(packed(*(member(f"{key_of(str(number))}.body", b"a" * 600) for number in range(2))))

    with pytest.raises(CassetteError, match="too far from each other"):
        list(read_cassette(path))


def test_what_fails_while_an_archive_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    """It is there whole or not at all."""
    path = tmp_path / "chat.tar.gz"
    write_cassette(path, [ONE])
    before = path.read_bytes()

    def failing() -> object:
        yield TWO
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_cassette(path, failing())  # type: ignore[arg-type]

    assert files(tmp_path) == {path.name: before}


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """With the reason."""
    (tmp_path / "file").write_text("")

    for cassette, said in (("file", "there is a file of that name"), ("none/chat.tar.gz", "it can't be written")):
        with pytest.raises(CassetteError, match=f"{cassette}: {said}"):
            write_cassette(tmp_path / cassette, [ONE])


def test_an_empty_request_is_a_request() -> None:
    """Nothing about a recording is taken for granted."""
    one = ONE._replace(request=RecordedRequest("", "", b""), body=b"", timeline=timeline([], []))

    assert recording_of(one.key, pair_of(one)) == one
