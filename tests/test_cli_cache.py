"""`reprise cache`: what is recorded, what is in a recording, and how some or all of them go."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.recording import RecordedRequest, Recording, Usage
from proxy.store.disk import Shelf
from proxy.store.summary import summary
from tests.commands import Ended, bytes_of, environment, on_terminal, reprise
from tests.conftest import StartProxy
from tests.exchanges import word
from tests.harness import ANSWER, PATIENCE_S, ScriptedUpstream, plain
from tests.oracle import eventually, keys_on_disk
from tests.recordings import recording
from tests.shelves import MIB, noise, put

HOUR_S, DAY_S = 3600.0, 86400.0

STREAMED = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n',
    'data: {"choices":[{"index":0,"delta":{"content":"lo, Émile"}}]}\n\n'.encode(),
    b"data: [DONE]\n\n",
)
VECTOR = b'{"object":"list","data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":5}}'


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    opened = Shelf.open(tmp_path / ".reprise", 16 * MIB)
    yield opened
    opened.close()


@pytest.fixture
def sea(shelf: Shelf) -> Recording:
    """A song of ten days ago, replayed three times."""
    one = recording(
        "sea", prompt="Sing of the [bold]sea[/bold] \\u001b[31m", recorded_at=time.time() - 10 * DAY_S
    )._replace(
        model="gpt-4o",
        usage=Usage(100, 20),
    )
    put(shelf, one)
    shelf.count_hits({one.key: 3})
    return one


@pytest.fixture
def hello(shelf: Shelf) -> Recording:
    """A greeting of two hours ago."""
    one = recording("hello", STREAMED, prompt="Greet a friend", recorded_at=time.time() - 2 * HOUR_S)
    put(shelf, one)
    return one


@pytest.fixture
def vector(shelf: Shelf) -> Recording:
    """A plain answer of just now."""
    one = recording("vector", [VECTOR], recorded_at=time.time())._replace(
        request=RecordedRequest("POST", "/v1/embeddings", b'{"input":"A \\"word\\"","model":"embed"}'),
        stream=False,
        check="json",
        model="embed",
        usage=Usage(5, 0),
    )
    put(shelf, one)
    return one


Three = tuple[Recording, Recording, Recording]


@pytest.fixture
def three(sea: Recording, hello: Recording, vector: Recording) -> Three:
    """The newest first."""
    return vector, hello, sea


def cache(*arguments: object, at: Path, **settings: Any) -> Ended:
    return reprise("cache", *arguments, at=at, **settings)


def rows(*arguments: object, at: Path) -> list[dict[str, Any]]:
    """What `ls` says to a program."""
    ended = cache("ls", "--json", *arguments, at=at)
    assert ended.code == 0, ended.err
    listed: list[dict[str, Any]] = orjson.loads(ended.out)
    return listed


def keys(*arguments: object, at: Path) -> list[str]:
    return [row["key"] for row in rows(*arguments, at=at)]


def damage(shelf: Shelf, one: Recording) -> None:
    entry = shelf.get(one.key)
    assert entry is not None
    shelf.put(one.key, entry[:-1], b"{}")


def alike(shelf: Shelf) -> tuple[Recording, Recording]:
    """Two recordings whose keys begin alike."""
    one, other = (recording()._replace(key="abcd" + digit * 60) for digit in "12")
    put(shelf, one, other)
    return one, other


# ls


def test_ls_shows_the_newest_first_in_columns(tmp_path: Path, three: Three) -> None:
    """A line each, of which a script can count on the columns; then how many, and how full the store is."""
    ended = cache("ls", at=tmp_path)

    head, *lines, footer = ended.lines
    assert head.split() == [
        "KEY",
        "AGE",
        "MODEL",
        "ROUTE",
        "KIND",
        "SIZE",
        "FRAMES",
        "TIME",
        "TOKENS",
        "HITS",
        "PROMPT",
    ]
    assert [line[:12] for line in lines] == [one.key[:12] for one in three]
    assert " ".join(lines[1].split()).startswith(f"{three[1].key[:12]} 2h gpt-4o-mini chat/completions stream ")
    assert lines[1].rstrip().endswith(" 3  290 ms     9+2     0  Greet a friend")
    assert " ".join(lines[0].split())[12:].strip().endswith('1 250 ms 5+0 0 A "word"')
    assert footer.startswith("3 recordings, ")
    assert footer.endswith(" of cache.size_limit, 1GiB.")
    assert (ended.code, ended.err) == (0, "")


def test_ls_away_from_a_terminal_has_no_colours_and_cuts_nothing_off(
    tmp_path: Path, shelf: Shelf, sea: Recording
) -> None:
    """However long a line becomes; what looks like markup or a control sequence is text."""
    put(shelf, recording("long")._replace(model="m" * 200))

    ended = cache("ls", at=tmp_path)

    assert "m" * 200 in ended.out
    assert "Sing of the [bold]sea[/bold] [31m" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("columns", [72, 80, 100, 200])
def test_ls_fits_the_terminal(tmp_path: Path, three: Three, columns: int) -> None:
    """What matters most stays whole: the key to copy, the model, the beginning of the prompt."""
    ended = on_terminal("cache", "ls", at=tmp_path, columns=columns)

    table = ended.lines[:4]
    assert all(len(line) <= columns for line in table)
    assert [line[:12] for line in table[1:]] == [one.key[:12] for one in three]
    assert "gpt-4o-mini" in table[2]
    assert "Greet a friend" in table[2]


def test_ls_tells_programs_all_it_knows(tmp_path: Path, hello: Recording) -> None:
    """One array of objects, with the numbers as numbers."""
    (row,) = rows(at=tmp_path)

    expected = {
        "key": hello.key,
        "recorded_at": hello.recorded_at,
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "gpt-4o-mini",
        "stream": True,
        "status": 200,
        "body_bytes": len(hello.body),
        "frames": 3,
        "duration_s": 0.29,
        "input_tokens": 9,
        "output_tokens": 2,
        "namespace": "tests",
        "sample": 2,
        "prompt": "Greet a friend",
        "hits": 0,
    }
    assert row == {**expected, "age_s": row["age_s"], "stored_bytes": row["stored_bytes"]}
    assert row["age_s"] >= 2 * HOUR_S
    assert row["stored_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--model", "gpt-4*"), "hello sea"),
        (("--model", "gpt-4o"), "sea"),
        (("--older-than", "1h"), "hello sea"),
        (("--newer-than", "3h"), "vector hello"),
        (("--newer-than", "3h", "--older-than", "60m"), "hello"),
        (("--limit", "2"), "vector hello"),
        (("--text", "greet A"), "hello"),
        (("--text", "HELLO, ÉMILE"), "hello"),
        (("--text", 'a "word"'), "vector"),
        (("--text", "embedding"), "vector"),
        (("--text", "messages"), ""),
        (("--text", "s", "--model", "gpt-*", "--limit", "1"), "hello"),
    ],
)
def test_ls_filters(tmp_path: Path, three: Three, arguments: tuple[str, ...], found: str) -> None:
    """By model, age, and text of the request or the answer, also where that was streamed in pieces."""
    names = dict(zip((one.key for one in three), ("vector", "hello", "sea"), strict=True))

    assert [names[key] for key in keys(*arguments, at=tmp_path)] == found.split()


def test_ls_passes_over_damaged_recordings_in_search_of_a_text(
    tmp_path: Path, shelf: Shelf, sea: Recording, hello: Recording
) -> None:
    """`verify` is there to complain of them."""
    entry = shelf.get(sea.key)
    assert entry is not None
    shelf.put(sea.key, entry[:-1], summary(sea).to_json())

    assert keys("--text", "e", at=tmp_path) == [hello.key]


# Where nothing is recorded


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ls",), "Nothing is recorded in .reprise.\n"),
        (("ls", "--json"), "[]\n"),
        (("stats",), "Nothing is recorded in .reprise.\n"),
        (("verify",), "Nothing is recorded in .reprise.\n"),
        (("clear", "--yes"), "Removed 0 recordings.\n"),
    ],
)
def test_where_nothing_was_recorded_nothing_is_made(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """It is no error, and no reason to make a directory."""
    ended = cache(*arguments, at=tmp_path)

    assert ended == (0, said, "")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_other_things_is_left_alone(tmp_path: Path) -> None:
    """Somebody's mistake in the settings leaves nothing behind in it."""
    (tmp_path / "photos").mkdir()

    ended = cache("ls", at=tmp_path, cache__directory="photos")

    assert ended == (0, "Nothing is recorded in photos.\n", "")
    assert list((tmp_path / "photos").iterdir()) == []


# show


def test_show_prints_what_was_asked_and_answered(tmp_path: Path, hello: Recording) -> None:
    """The facts, the prompt, and the text of the stream in one piece; the beginning of the key is enough."""
    ended = cache("show", hello.key[:7].upper(), at=tmp_path)

    facts, _, said = ended.out.partition("\n\nPrompt\n")
    lines = [" ".join(line.split()) for line in facts.splitlines()]
    assert lines[0] == f"key {hello.key}"
    assert lines[1].startswith("recorded 2")
    assert lines[1].endswith(", 2h ago")
    assert lines[2:] == [
        "request POST /v1/chat/completions",
        "openai-beta: x=1",
        "set namespace tests, sample 2",
        "model gpt-4o-mini",
        "answer 200 OK",
        "Content-Type: text/event-stream; charset=utf-8",
        "x-request-id: req_1",
        "usage 9 tokens in, 2 out",
        f"frames 3 frames, {len(hello.body)} B",
        "timing head after 240 ms, first frame after 250 ms, last after 290 ms",
        "finished done",
        lines[-1],
    ]
    assert lines[-1].startswith("stored ")
    assert lines[-1].endswith(", replayed 0 times")
    assert said == "[user]\nGreet a friend\n\nAnswer\nHello, Émile\n"


def test_show_writes_nothing_that_could_steer_a_terminal(tmp_path: Path, shelf: Shelf) -> None:
    """An answer may hold anything."""
    put(shelf, recording("bad", ['data: {"choices":[{"delta":{"content":"\\u001b[2J\u202e"}}]}\n\n'.encode()]))

    ended = cache("show", recording("bad").key, at=tmp_path)

    assert ended.out.endswith("Answer\n\\u001b[2J\\u202e\n")


def test_show_raw_gives_the_bytes_that_came(tmp_path: Path, shelf: Shelf) -> None:
    """Exactly those, whatever they are."""
    one = recording("bytes", [bytes(range(256)), b"\r\n\xff"])
    put(shelf, one)

    assert bytes_of("cache", "show", one.key, "--raw", at=tmp_path) == one.body


def test_show_tells_programs_all_of_it(tmp_path: Path, sea: Recording) -> None:
    """Metadata, request and body, and when each frame came."""
    document = orjson.loads(cache("show", sea.key, "--json", at=tmp_path).out)

    assert document == {
        "key": sea.key,
        "recorded_at": sea.recorded_at,
        "model": "gpt-4o",
        "stream": True,
        "check": "done",
        "usage": {"input_tokens": 100, "output_tokens": 20},
        "stored_bytes": document["stored_bytes"],
        "hits": 3,
        "request": {
            "method": "POST",
            "path": "/v1/chat/completions",
            "vary": [["openai-beta", "x=1"]],
            "namespace": "tests",
            "sample": 2,
            "body": sea.request.body.decode(),
        },
        "response": {
            "status": 200,
            "reason": "OK",
            "headers": [["Content-Type", "text/event-stream; charset=utf-8"], ["x-request-id", "req_1"]],
            "body": sea.body.decode(),
        },
        "timeline": {
            "head_us": 240_000,
            "lengths": list(sea.timeline.lengths),
            "arrived_us": [250_000, 270_000, 290_000],
        },
    }


def test_show_shows_requests_of_every_kind(tmp_path: Path, shelf: Shelf) -> None:
    """Messages with parts and tool calls, and a lone surrogate in the path."""
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]},
        ]
    }
    one = recording("kinds")
    put(shelf, one._replace(request=one.request._replace(path="/v1/\udcff", body=orjson.dumps(body)), model=None))

    out = cache("show", one.key, at=tmp_path).out

    assert "POST /v1/\\udcff\n" in out
    assert '[user]\nWhat is this?\n(image_url)\n\n[assistant]\n\n[{"function": {"name": "look"}}]\n' in out


def test_show_takes_whatever_is_there(tmp_path: Path, shelf: Shelf) -> None:
    """A recording of another origin, and of a clock that was far off."""
    one = recording("odd", [], recorded_at=2.0**39)
    put(shelf, one._replace(request=one.request._replace(body=b"\xff"), usage=None, model=None))

    shown, told = cache("show", one.key, at=tmp_path), cache("show", one.key, "--json", at=tmp_path)

    assert " 549755813888 s after 1970, 0s ago\n" in shown.out
    assert orjson.loads(told.out)["request"]["body"] == "\ufffd"
    assert (shown.code, told.code) == (0, 0)
    assert keys("--text", "x", at=tmp_path) == []


def test_show_of_a_damaged_recording_is_a_fault(tmp_path: Path, shelf: Shelf, hello: Recording) -> None:
    """Which is not the user's: exit code 1."""
    damage(shelf, hello)

    ended = cache("show", hello.key, at=tmp_path)

    assert ended == (1, "", f"Error: {hello.key} can't be shown: it is not as long as it says\n")


# rm and clear


def test_rm_removes_the_recordings_that_are_named(tmp_path: Path, shelf: Shelf, three: Three) -> None:
    """By the whole key or its beginning."""
    vector, hello, sea = three

    ended = cache("rm", vector.key, sea.key[:6], sea.key[:8], at=tmp_path)

    assert ended == (0, "Removed 2 recordings.\n", "")
    assert list(shelf.keys()) == [hello.key]


@pytest.mark.parametrize("command", ["rm", "show"])
@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("abcd", "Error: 'abcd': the keys of 2 recordings begin so; give more of its digits\n"),
        ("beef", "Error: 'beef': no recording has a key that begins so; `reprise cache ls` shows the keys\n"),
        ("", "Error: '': no recording has a key that begins so; `reprise cache ls` shows the keys\n"),
    ],
)
def test_a_key_that_is_not_one_recording_is_a_mistake(
    tmp_path: Path, shelf: Shelf, command: str, prefix: str, said: str
) -> None:
    """It is named, and nothing is removed, not even what was named rightly."""
    one, other = alike(shelf)
    rightly = [one.key] if command == "rm" else []

    ended = cache(command, *rightly, prefix, at=tmp_path)

    assert ended == (2, "", said)
    assert list(shelf.keys()) == [one.key, other.key]


def test_clear_asks_on_a_terminal(tmp_path: Path, shelf: Shelf, three: Three) -> None:
    """And takes only a yes for one."""
    no = on_terminal("cache", "clear", at=tmp_path, typed="n\n")
    left = shelf.count
    yes = on_terminal("cache", "clear", at=tmp_path, typed="y\n")

    assert "Remove 3 recordings from .reprise? [y/N]: " in no.out
    assert no.out.endswith("Nothing was removed.\n")
    assert yes.out.endswith("Removed 3 recordings.\n")
    assert (no.code, left, yes.code, shelf.count) == (0, 3, 0, 0)


def test_clear_needs_a_yes_where_it_can_not_ask(tmp_path: Path, shelf: Shelf, hello: Recording) -> None:
    """A script says so, or it is a mistake."""
    unsaid = cache("clear", at=tmp_path)
    left = list(shelf.keys())
    said = cache("clear", "--yes", at=tmp_path)

    assert unsaid == (2, "", "Error: there is nobody to ask here; say --yes to remove all recordings\n")
    assert left == [hello.key]
    assert said == (0, "Removed 1 recording.\n", "")
    assert shelf.count == 0


async def test_what_is_removed_beside_a_running_proxy_is_asked_for_anew(
    tmp_path: Path, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """The proxy has it in memory, and lets go of it."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy()
    assert [await word(proxy.ask()), await word(proxy.ask())] == ["MISS", "HIT"]

    directory = {"cache__directory": str(tmp_path / "store")}
    await eventually(lambda: keys_on_disk(tmp_path))
    (row,) = orjson.loads((await asyncio.to_thread(cache, "ls", "--json", at=tmp_path, **directory)).out)
    removed = await asyncio.to_thread(cache, "rm", row["key"], at=tmp_path, **directory)

    assert removed.code == 0
    async with asyncio.timeout(PATIENCE_S):
        while await word(proxy.ask()) != "MISS":
            pass
    assert upstream.requests_seen == 2


# stats


def test_stats_sum_up_what_was_saved(tmp_path: Path, three: Three, shelf: Shelf) -> None:
    """Each hit saves the tokens and the time that the recorded answer took."""
    put(shelf, recording("again")._replace(model="gpt-4o", usage=None))
    shelf.count_hits({three[0].key: 2})

    told = orjson.loads(cache("stats", "--json", at=tmp_path).out)

    sums = {
        each["model"]: (each["recordings"], each["hits"], each["tokens_recorded"], each["tokens_saved"])
        for each in told["models"]
    }
    assert sums == {"gpt-4o": (2, 3, 120, 360), "embed": (1, 2, 5, 10), "gpt-4o-mini": (1, 0, 11, 0)}
    assert list(sums) == ["gpt-4o", "embed", "gpt-4o-mini"]
    assert told["models"][0]["upstream_seconds_saved"] == pytest.approx(3 * 0.29)
    assert (told["recordings"], told["hits"], told["tokens_saved"]) == (4, 5, 370)
    assert told["upstream_seconds_saved"] == pytest.approx(3 * 0.29 + 2 * 0.25)
    assert told["size_limit_bytes"] == 1024**3
    assert told["used_bytes"] > 0


def test_stats_show_how_full_the_store_is(tmp_path: Path, three: Three) -> None:
    """A bar, and a line a model with the sum of all."""
    used = orjson.loads(cache("stats", "--json", at=tmp_path).out)["used_bytes"]

    ended = cache("stats", at=tmp_path, cache__size_limit=2 * used, cache__max_recording_size=1)

    head, bar, _, columns, *lines = ended.lines
    assert head == "3 recordings in .reprise"
    assert bar.startswith(f"[{'#' * 20}{'-' * 20}] ")
    assert bar.endswith(", 50.0%")
    assert columns.split() == ["MODEL", "RECORDINGS", "HITS", "TOKENS", "TOKENS", "SAVED", "UPSTREAM", "TIME", "SAVED"]
    assert [line.split() for line in lines] == [
        ["gpt-4o", "1", "3", "120", "360", "870", "ms"],
        ["embed", "1", "0", "5", "0", "-"],
        ["gpt-4o-mini", "1", "0", "11", "0", "-"],
        ["all", "3", "3", "136", "360", "870", "ms"],
    ]


# verify


def test_verify_finds_no_fault_with_whole_recordings(tmp_path: Path, three: Three) -> None:
    """Exit code 0."""
    assert cache("verify", at=tmp_path) == (0, "3 recordings: 3 sound, 0 damaged, 0 of another version.\n", "")


def test_verify_names_what_is_damaged(tmp_path: Path, shelf: Shelf, three: Three) -> None:
    """Exit code 1; what another version of this program wrote is not damaged. It only looks."""
    _, hello, sea = three
    damage(shelf, hello)
    entry = shelf.get(sea.key)
    assert entry is not None
    shelf.put(sea.key, entry[:9] + b"\x02" + entry[10:], b"{}")

    shown, told = cache("verify", at=tmp_path), cache("verify", "--json", at=tmp_path)

    reason, version = "it is not as long as it says", "its format is version 2, this program reads version 1"
    assert shown.lines == [
        f"damaged {hello.key}: {reason}",
        f"of another version {sea.key}: {version}",
        "3 recordings: 1 sound, 1 damaged, 1 of another version.",
    ]
    assert orjson.loads(told.out) == {
        "recordings": 3,
        "damaged": [{"key": hello.key, "reason": reason}],
        "of_another_version": [{"key": sea.key, "reason": version}],
    }
    assert (shown.code, told.code) == (1, 1)
    assert sorted(shelf.keys()) == sorted(one.key for one in three)


def test_verify_goes_on_where_the_database_is_damaged(tmp_path: Path, shelf: Shelf) -> None:
    """What can't be read for that reason is named with the rest."""
    many = [recording(f"{number}", [noise(20_000)]) for number in range(20)]
    put(shelf, *many)
    shelf.close()
    database = tmp_path / ".reprise" / "cache.db"
    damaged = bytearray(database.read_bytes())
    middle = len(damaged) // 2 // 4096 * 4096
    damaged[middle : middle + 4 * 4096] = bytes(4 * 4096)
    database.write_bytes(damaged)

    told = cache("verify", "--json", at=tmp_path)

    found = orjson.loads(told.out)
    assert found["recordings"] == 20
    assert 0 < len(found["damaged"]) < 20
    assert told.code == 1


def test_verify_shows_how_far_it_is_on_a_terminal(tmp_path: Path, three: Three) -> None:
    """And away from one nothing but the result."""
    ended = on_terminal("cache", "verify", at=tmp_path)

    assert "Reading" in ended.out
    assert "100%" in ended.out
    assert ended.lines[-1] == "3 recordings: 3 sound, 0 damaged, 0 of another version."


# Mistakes and troubles


def file_for_a_directory(at: Path) -> None:
    (at / ".reprise").touch()


def closed_directory(at: Path) -> None:
    (at / ".reprise").mkdir(mode=0)


def something_else(at: Path) -> None:
    (at / ".reprise").mkdir()
    (at / ".reprise" / "cache.db").write_text("not a database, but long enough to be taken for one" * 100)


@pytest.mark.parametrize("make", [file_for_a_directory, closed_directory, something_else])
def test_a_directory_that_can_not_be_used_is_a_mistake(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """It is named, with a way out."""
    make(tmp_path)

    ended = cache("ls", at=tmp_path)

    assert ended.err.startswith("Error: cache.directory ")
    assert len(ended.err.splitlines()) == 1
    assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ls", "--config", "none.yaml"), "--config: none.yaml: no such file or directory\n"),
        (("ls", "--older-than", "soon"), "expected a duration such as 30s or 7d, got 'soon'\n"),
        (("ls", "--limit", "0"), "0 is not in the range x>=1.\n"),
        (("show", "ab", "--raw", "--json"), "Error: --raw and --json are two ways to show it; take one\n"),
        (("rm",), "Missing argument 'KEY...'.\n"),
        (("list",), "No such command 'list'."),
    ],
)
def test_a_mistake_is_told_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """On stderr, with exit code 2."""
    ended = cache(*arguments, at=tmp_path)

    assert said in ended.err
    assert (ended.code, ended.out) == (2, "")


def test_the_settings_say_where_to_look(tmp_path: Path, hello: Recording) -> None:
    """As for the proxy itself."""
    (tmp_path / ".reprise").rename(tmp_path / "elsewhere")
    (tmp_path / "mine.yaml").write_text("cache: {directory: elsewhere}\n")

    assert keys("--config", "mine.yaml", at=tmp_path) == [hello.key]


def test_a_reader_who_has_seen_enough_ends_it_quietly(tmp_path: Path, three: Three) -> None:
    """As other tools end when `head -1` has its line; 1 would say that a fault was found."""
    reader, unread = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "proxy", "cache", "ls"]

    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdout=unread, stderr=subprocess.PIPE, check=False, timeout=60
    )

    os.close(unread)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("code", ["ascii", "latin-1"])
def test_a_character_set_that_lacks_a_character_is_no_obstacle(tmp_path: Path, shelf: Shelf, code: str) -> None:
    """It is written out."""
    put(shelf, recording(prompt="日本語"))
    command = [sys.executable, "-m", "proxy", "cache", "ls"]

    done = subprocess.run(
        command, cwd=tmp_path, env={**environment(), "PYTHONIOENCODING": code}, capture_output=True, check=True
    )

    assert rb"\u65e5\u672c\u8a9e" in done.stdout
