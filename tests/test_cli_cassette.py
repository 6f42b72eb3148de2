"""`reprise cache export` and `import`: recordings from one store to another, by way of files."""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from proxy.cassette import read_cassette, write_cassette
from proxy.commands import cache_export
from proxy.recording import Recording
from proxy.store.codec import decode
from proxy.store.disk import Shelf
from proxy.store.summary import summary
from tests.commands import Ended, connect, reprise, running
from tests.conftest import StartProxy
from tests.exchanges import word, words
from tests.harness import ANSWER, CHAT, PROMPT, ScriptedUpstream, plain, request_bytes
from tests.oracle import EXPORT
from tests.recordings import recording
from tests.shelves import MIB, noise, put

KEY = "sk-1234567890abcdefABCDEF"


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with closing(Shelf.open(tmp_path / ".reprise", 16 * MIB)) as opened:
        yield opened


@pytest.fixture
def three(shelf: Shelf) -> list[Recording]:
    """In the order of their keys."""
    hello = recording("hello", prompt="Greet a friend")._replace(model="gpt-4o")
    several = [recording("sea", prompt="Sing of the sea"), hello, recording("old", recorded_at=1.5)]
    put(shelf, *several)
    return sorted(several, key=lambda one: one.key)


def cache(*arguments: object, at: Path, **settings: Any) -> Ended:
    return reprise("cache", *arguments, at=at, **settings)


def recorded(directory: Path) -> list[Recording]:
    """What a store holds, in the order of the keys."""
    with closing(Shelf.open(directory, 16 * MIB)) as shelf:
        entries = {key: shelf.get(key) for key in sorted(shelf.keys())}
        return [decode(entry, key) for key, entry in entries.items() if entry is not None]


def contents(cassette: Path) -> object:
    if cassette.is_file():
        return cassette.read_bytes()
    return {path.name: path.read_bytes() for path in cassette.iterdir()}


@pytest.mark.parametrize("name", ["chat", "chat.tar.gz", "chat.tgz"])
def test_what_is_exported_can_be_imported_elsewhere(tmp_path: Path, three: list[Recording], name: str) -> None:
    """The same recordings, and an export of these is the same cassette."""
    exported = cache("export", name, at=tmp_path)
    imported = cache("import", name, at=tmp_path, cache__directory="other")
    (tmp_path / "again").mkdir()
    again = cache("export", f"again/{name}", at=tmp_path, cache__directory="other")

    assert exported == (0, f"Exported 3 recordings to {name}.\n", "")
    assert imported == (0, "Imported 3 recordings into other.\n", "")
    assert list(read_cassette(tmp_path / name)) == recorded(tmp_path / "other") == three
    assert (tmp_path / name).is_dir() == (name == "chat")
    assert again.code == 0
    assert contents(tmp_path / name) == contents(tmp_path / "again" / name)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((), "sea hello old"),
        (("--model", "gpt-4o"), "hello"),
        (("--text", "SEA"), "sea"),
        (("--older-than", "20000d"), "old"),
        (("--newer-than", "20000d"), "sea hello"),
        (("--model", "none"), ""),
    ],
)
def test_export_filters_as_ls_does(
    tmp_path: Path, three: list[Recording], arguments: tuple[str, ...], found: str
) -> None:
    """By the same options."""
    ended = cache("export", "chat", *arguments, at=tmp_path)

    names = {recording(name).key for name in found.split()}
    assert ended.code == 0
    if names:
        assert {one.key for one in read_cassette(tmp_path / "chat")} == names
    else:
        assert ended.out == "There is nothing to export.\n"
        assert not (tmp_path / "chat").exists()


def test_export_takes_secrets_out_and_says_where_they_were(tmp_path: Path, shelf: Shelf) -> None:
    """By key, place and kind, never what they were; and what becomes of the key."""
    asked = recording("asked", prompt=f"My key is {KEY}, my address ann@acme.com")
    answered = recording("answered", [f'data: {{"choices":[{{"delta":{{"content":"{KEY}"}}}}]}}\n\n'.encode()])
    put(shelf, asked, answered)

    ended = cache("export", "chat", at=tmp_path)

    said = ended.out.splitlines()
    assert said[:2] == ["Exported 2 recordings to chat.", "Scrubbed 3 secrets:"]
    assert sorted(said[2:5]) == sorted(
        (
            f"  {answered.key[:12]}  1 api_key  body",
            f"  {asked.key[:12]}  1 api_key  /request/body/messages/0/content",
            f"  {asked.key[:12]}  1 email  /request/body/messages/0/content",
        )
    )
    assert said[5].startswith("Warning: the request of 1 recording was scrubbed. Its key stays")
    assert (ended.code, ended.err, len(said)) == (0, "", 6)
    written = b"".join(path.read_bytes() for path in (tmp_path / "chat").iterdir())
    assert b"1234" not in written
    assert b"acme" not in written
    assert {one.key for one in read_cassette(tmp_path / "chat")} == {asked.key, answered.key}


def test_export_and_import_tell_programs_what_they_did(tmp_path: Path, shelf: Shelf) -> None:
    """The same facts, as JSON."""
    one = recording(prompt=KEY)
    put(shelf, one)

    exported = orjson.loads(cache("export", "chat", "--json", at=tmp_path).out)
    imported = orjson.loads(cache("import", "chat", "--json", at=tmp_path).out)

    where = "/request/body/messages/0/content"
    assert exported == {
        "cassette": "chat",
        "exported": 1,
        "left_out": [],
        "scrubbed": [{"key": one.key, "where": where, "kind": "api_key", "times": 1}],
        "asked_otherwise": [one.key],
    }
    assert imported == {"directory": ".reprise", "imported": 1, "replaced": 1, "gave_way": 0}


def test_export_leaves_secrets_in_where_that_is_asked_for(tmp_path: Path, shelf: Shelf) -> None:
    """To move recordings from one store to another, byte for byte."""
    put(shelf, one := recording(prompt=KEY))

    ended = cache("export", "chat.tar.gz", "--no-scrub", at=tmp_path)

    assert ended.out == "Exported 1 recording to chat.tar.gz.\n"
    assert list(read_cassette(tmp_path / "chat.tar.gz")) == [one]


def test_a_pattern_of_the_settings_is_a_secret_too(tmp_path: Path, shelf: Shelf) -> None:
    """And one that is none is a mistake."""
    put(shelf, recording(prompt="Customer 4711"))

    ended = cache("export", "chat", at=tmp_path, cache__scrub="Customer (?P<secret>[0-9]+)")
    refused = cache("export", "chat", at=tmp_path, cache__scrub="(")

    assert "1 custom" in ended.out
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("REPRISE_CACHE__SCRUB: expected a regular expression such as ACME-[0-9]{8}")


def test_a_damaged_recording_is_left_out_and_named(tmp_path: Path, shelf: Shelf, three: list[Recording]) -> None:
    """The others are exported, and the exit code says that there was a fault."""
    bad, *others = three
    entry = shelf.get(bad.key)
    assert entry is not None
    shelf.put(bad.key, entry[:-1], summary(bad).to_json())

    ended = cache("export", "chat", at=tmp_path)

    assert ended.code == 1
    assert ended.out.splitlines()[0] == f"left out {bad.key}: it is not as long as it says"
    assert list(read_cassette(tmp_path / "chat")) == others


def test_what_can_not_be_searched_for_secrets_is_left_out(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And named; it would be better not exported than with a secret in it."""
    monkeypatch.setattr("proxy.cassette.shapes._PATIENCE_S", 0.05)
    trap, one = recording("trap", prompt="z" * 5000), recording("one")
    put(shelf, trap, one)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRISE_CACHE__SCRUB", "(z+)+y")

    ended = CliRunner().invoke(cache_export.command, ["chat"], standalone_mode=False)

    assert ended.return_value == 1
    assert ended.stdout.startswith(f"left out {trap.key}: to search it for secrets takes too long")
    assert list(read_cassette(tmp_path / "chat")) == [one]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "none"), "none: it can't be read (No such file or directory). Nothing was imported."),
        (
            ("import", "cassettes"),
            "cassettes: no recording is in it; name the directory that has its .json files. Nothing was imported.",
        ),
        (("export", "file"), "file: there is a file of that name; name a directory"),
        (("export", "none/chat.tgz"), "none/chat.tgz: it can't be written (No such file or directory)"),
    ],
)
def test_a_place_that_is_none_is_a_mistake(
    tmp_path: Path, three: list[Recording], arguments: tuple[str, ...], said: str
) -> None:
    """Of the user's, in one sentence."""
    (tmp_path / "file").write_text("")
    write_cassette(tmp_path / "cassettes" / "chat", three)

    assert cache(*arguments, at=tmp_path) == (2, "", f"Error: {said}\n")


def test_of_a_cassette_with_a_fault_nothing_is_imported(tmp_path: Path) -> None:
    """Not even what stands before it, and no store is made for it."""
    several = sorted((recording(str(number)) for number in range(4)), key=lambda one: one.key)
    write_cassette(tmp_path / "chat", several)
    path = tmp_path / "chat" / f"{several[-1].key}.json"
    path.write_bytes(path.read_bytes().replace(b'"cassette_version": 1', b'"cassette_version": 9'))

    ended = cache("import", "chat", at=tmp_path)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(
        f"Error: chat/{path.name}: its cassette_version is 9, and this program reads version 1;"
    )
    assert ended.err.endswith(". Nothing was imported.\n")
    assert not (tmp_path / ".reprise").exists()


def test_import_says_what_had_to_give_way(tmp_path: Path) -> None:
    """A cassette may be larger than the store."""
    several = sorted((recording(str(number), [noise(MIB // 2)]) for number in range(5)), key=lambda one: one.key)
    write_cassette(tmp_path / "chat", several)

    ended = cache("import", "chat", at=tmp_path, cache__size_limit="2MiB", cache__max_recording_size="1MiB")

    assert ended.code == 0
    assert ended.lines[0] == "Imported 5 recordings into .reprise."
    left = 5 - int(ended.lines[1].split()[0])
    assert ended.lines[1].endswith("stored longest ago, had to give way, since cache.size_limit is 2MiB.")
    assert recorded(tmp_path / ".reprise") == several[-left:]


async def test_what_is_imported_beside_a_running_proxy_is_a_hit(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """At once, and what was removed before is there again."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy()
    assert await words(proxy.ask()) == ["MISS"]
    await proxy.app.stop()
    store = str(tmp_path / "store")
    assert cache("export", "chat", at=tmp_path, cache__directory=store).code == 0
    assert cache("clear", "--yes", at=tmp_path, cache__directory=store).code == 0
    proxy = await start_proxy(cache__mode="replay")
    assert (await proxy.ask()).status == 504

    assert cache("import", "chat", at=tmp_path, cache__directory=store).code == 0

    assert await word(proxy.ask()) == "HIT"


async def test_serve_takes_cassettes_by_their_options(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """What one run has recorded another one plays, with no store and no upstream; several workers, too."""
    upstream.will_send(plain(ANSWER))
    said = []
    for number, workers in enumerate((1, 1, 2)):
        options = ("--record-to", "chat") if number == 0 else ("--cassette", "chat", "--mode", "replay")
        given = {"server__port": 0, "server__workers": workers, "upstream__name": "ours"}
        given |= {"cache__directory": f"store-{number}", "upstream__base_url": upstream.base_url}
        async with running("serve", *options, at=tmp_path, **given) as command:
            base_url = (await command.line()).removeprefix(EXPORT)
            connection = await connect(base_url)
            connection.send(request())
            response = await connection.response()
            said.append((response.get("x-cache-status"), await response.body()))
            await connection.close()
            command.send(signal.SIGTERM)
            assert (await command.end()).code == 0

    assert said == [("MISS", ANSWER), ("HIT", ANSWER), ("HIT", ANSWER)]
    assert upstream.requests_seen == 1


def request() -> bytes:
    return request_bytes("POST", CHAT, [("Content-Type", "application/json")], orjson.dumps(PROMPT))


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_refuses_a_cassette_that_is_none(tmp_path: Path, workers: int) -> None:
    """Before it listens to anybody."""
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "notes.json").write_text("{}")

    ended = reprise("serve", "--port", 0, "--cassette", "chat", at=tmp_path, server__workers=workers)

    assert (ended.code, ended.out) == (2, "")
    assert "cache.cassette: chat/notes.json: it is not named after the key of a recording" in ended.err
