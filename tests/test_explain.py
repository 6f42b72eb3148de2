"""`reprise explain`: the key of a request, what went into it, and whether it is recorded."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.cassette import write_cassette
from proxy.recording import RecordedRequest, Recording
from proxy.store.disk import Shelf
from tests.commands import Ended, bytes_of, reprise
from tests.conftest import StartProxy
from tests.exchanges import key_of
from tests.harness import PROMPT, ScriptedUpstream, plain
from tests.recordings import recording
from tests.shelves import MIB, put

BODY = orjson.dumps(PROMPT)


def explain(*arguments: object, at: Path, body: bytes = BODY, **settings: object) -> Ended:
    return reprise("explain", "-", *arguments, at=at, stdin=body, **settings)


def facts(*arguments: object, at: Path, body: bytes = BODY, **settings: object) -> dict[str, Any]:
    """What it says to a program."""
    ended = explain("--json", *arguments, at=at, body=body, **settings)
    assert ended.code == 0, ended.err
    document: dict[str, Any] = orjson.loads(ended.out)
    return document


async def test_its_key_is_the_one_that_the_proxy_uses(
    tmp_path: Path, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """With everything that takes part in it: vary headers, namespace, sample, credential, what is ignored."""
    upstream.will_send(plain(b"{}"))
    proxy = await start_proxy(cache__scope="credential", cache__ignore="/user", cache__vary="openai-beta,x-team")
    sent = {"Authorization": "Bearer sk-CANARY", "X-Team": "blue", "X-Reprise-Namespace": "n", "X-Reprise-Sample": "3"}
    response = await proxy.ask({**PROMPT, "user": "ada"}, headers=sent)
    await response.body()

    arguments = ("--header", "authorization: Bearer sk-CANARY", "--header", "x-team: blue", "--namespace", "n")
    settings = {"cache__scope": "credential", "cache__ignore": "/user", "cache__vary": "openai-beta,x-team"}
    settings["upstream__base_url"] = upstream.base_url
    explained = facts(*arguments, "--sample", 3, at=tmp_path, body=orjson.dumps({**PROMPT, "user": "bob"}), **settings)

    assert explained["key"] == key_of(response)
    assert explained["scope"] == "credential"


def test_it_shows_what_went_into_the_key(tmp_path: Path) -> None:
    """The canonical form with each number as it is spelled, and every rule that had something to do."""
    body = b'{"user": "ada", "temperature": 1.0, "model": "m", "top_p": 1e0, "metadata": {"run": 7}}'
    arguments = ("--header", "OpenAI-Beta: assistants=v2", "--header", "X-Other: 1")

    ended = explain(*arguments, at=tmp_path, body=body, cache__ignore="/metadata/run,/user,/seed")

    top, _, canonical = ended.out.partition("\n\n")
    shown = {line[:10].strip(): line[11:] for line in top.splitlines()}
    assert shown.pop("key").isalnum()
    assert shown == {
        "request": "POST /v1/chat/completions",
        "upstream": "https://api.openai.com/v1",
        "scope": "shared",
        "namespace": "-",
        "sample": "0",
        "vary": "openai-beta: assistants=v2",
        "left out": "/metadata/run, /user",
        "model": "m",
        "stream": "no",
        "recorded": "no",
    }
    assert canonical == '{\n  "metadata": {},\n  "model": "m",\n  "temperature": 1.0,\n  "top_p": 1e0\n}\n'


def test_it_shows_which_rules_have_changed_the_key(tmp_path: Path) -> None:
    """How often each of them, and what came of it; those that had nothing to do are left out."""
    body = orjson.dumps({**PROMPT, "user": "run-7", "messages": [{"content": "1999, 2000"}, {"content": "2001"}]})
    rules = [
        {"pointer": "/messages/*/content", "pattern": r"\d{4}", "replace": "YEAR"},
        {"pointer": "/user", "pattern": "run-(.)", "replace": ""},
        {"pointer": "/model", "pattern": "x", "replace": "y"},
    ]
    settings = {"cache__normalize": orjson.dumps(rules).decode(), "cache__ignore": "/messages/*/name,/model"}

    told = facts(at=tmp_path, body=body, **settings)
    shown = explain(at=tmp_path, body=body, **settings).out

    assert told["left_out"] == ["/model"]
    assert told["normalized"] == [{**rules[0], "texts": 2, "matches": 3}, {**rules[1], "texts": 1, "matches": 1}]
    assert orjson.loads(told["canonical"]) == {
        "messages": [{"content": "YEAR, YEAR"}, {"content": "YEAR"}],
        "user": "",
    }
    assert (
        "left out   /model\n"
        r"normalized /messages/*/content: \d{4} -> YEAR (3 matches in 2 texts)"
        "\n"
        "normalized /user: run-(.) -> nothing (1 match in 1 text)\n"
    ) in shown


def test_it_shows_no_rules_where_none_had_anything_to_do(tmp_path: Path) -> None:
    """Nor where there are none."""
    assert facts(at=tmp_path)["normalized"] == []
    assert "normalized" not in explain(at=tmp_path).out


def test_it_writes_nothing_that_could_steer_a_terminal(tmp_path: Path) -> None:
    """A body may come from anywhere."""
    ended = explain(at=tmp_path, body='{"model":"a\u009b31m","input":"b\u202ec"}'.encode())

    assert "\\u009b" in ended.out
    assert "\\u202e" in ended.out
    assert ended.out.replace("\n", "").isprintable()


def test_it_reads_a_file_and_makes_no_store(tmp_path: Path) -> None:
    """Looking at a request leaves no trace."""
    (tmp_path / "body.json").write_bytes(BODY)

    from_file = bytes_of("explain", "body.json", at=tmp_path).decode()

    assert from_file == explain(at=tmp_path).out
    assert [path.name for path in tmp_path.iterdir()] == ["body.json"]


@pytest.mark.parametrize(
    ("arguments", "body", "reason"),
    [
        ((), b"{", "not_json"),
        ((), b"[]", "not_an_object"),
        ((), b'{"a":1,"a":2}', "ambiguous_json"),
        ((), b'{"model":"m","background":true}', "stateful"),
        ((), b'{"model":"m","stream":"yes"}', "stream_flag"),
        (("--header", "content-type: text/plain"), b"{}", "content_type"),
        (("--path", "/v1/files"), b"{}", "route"),
    ],
)
def test_it_says_why_a_request_is_not_cached(
    tmp_path: Path, arguments: tuple[str, ...], body: bytes, reason: str
) -> None:
    """In the word that `Cache-Status` has for it, and in a sentence. That is an answer, so the exit code is 0."""
    told = facts(*arguments, at=tmp_path, body=body)

    assert told == {"cacheable": False, "reason": reason, "message": told["message"]}
    assert len(told["message"]) > len(reason)


def test_it_says_so_to_a_person_too(tmp_path: Path) -> None:
    """In one line."""
    ended = explain(at=tmp_path, body=b'{"a":1,"a":2}')

    assert ended == (0, "not cacheable (ambiguous_json): a name appears twice in one object\n", "")


@pytest.fixture
def recorded(tmp_path: Path) -> Recording:
    """The request that the tests ask about, recorded long ago."""
    key = facts(at=tmp_path)["key"]
    one = recording(recorded_at=1_000_000_000.0)._replace(key=key)
    shelf = Shelf.open(tmp_path / ".reprise", MIB)
    put(shelf, one)
    shelf.close()
    return one


def test_it_says_whether_the_request_is_recorded(tmp_path: Path, recorded: Recording) -> None:
    """How old it is, how large, of which model, and whether it still answers."""
    stale, fresh = facts(at=tmp_path)["recording"], facts(at=tmp_path, cache__ttl=0)["recording"]

    assert stale == {
        "recorded_at": recorded.recorded_at,
        "age_s": stale["age_s"],
        "stored_bytes": stale["stored_bytes"],
        "model": recorded.model,
        "fresh": False,
        "damage": None,
    }
    assert stale["age_s"] > 365 * 86_400
    assert fresh["fresh"] is True
    assert "d ago, " in explain(at=tmp_path, cache__ttl=0).out
    assert "stale: older than cache.ttl" in explain(at=tmp_path).out


def near(*changes: tuple[bytes, bytes], name: str = "one", at: Path) -> str:
    """Record a request that is spelled a bit otherwise, to the same upstream; its key."""
    body = BODY
    for before, after in changes:
        assert before in body
        body = body.replace(before, after)
    explained = facts(at=at, body=body)
    one = recording(name)
    request = one.request._replace(body=explained["canonical"].encode(), vary=(), namespace="", sample=0)
    shelf = Shelf.open(at / ".reprise", MIB)
    put(shelf, one._replace(key=explained["key"], request=request))
    shelf.close()
    return str(explained["key"])


def test_it_says_which_recording_comes_nearest(tmp_path: Path) -> None:
    """To a person and to a program, with both values."""
    near((b"Say hello.", b"Sing a song."), name="far", at=tmp_path)
    key = near((b"hello", b"hallo"), (b'"model"', b'"seed":7,"model"'), at=tmp_path)

    told = facts(at=tmp_path)

    assert told["recording"] is None
    assert told["nearest"] == {
        "key": key,
        "asked_otherwise": False,
        "differences": [
            {"where": "/messages/0/content", "recorded": "Say hallo.", "asked": "Say hello.", "character": 6},
            {"where": "/seed", "recorded": "7", "asked": None, "character": None},
        ],
        "more": 0,
    }
    assert (
        "recorded   no\n"
        f"nearest    {key[:12]}\n"
        "           `/messages/0/content` differs at character 6: recorded `Say hallo.`, asked `Say hello.`\n"
        "           `/seed`: recorded `7`, asked nothing\n\n"
    ) in explain(at=tmp_path).out


def test_it_says_when_only_the_upstream_is_another_one(tmp_path: Path) -> None:
    """That is part of the key, and no recording tells which one it was."""
    key = near(at=tmp_path)

    told = facts("--upstream", "http://127.0.0.1:11434/v1", at=tmp_path)
    shown = explain("--upstream", "http://127.0.0.1:11434/v1", at=tmp_path).out

    assert told["nearest"] == {"key": key, "asked_otherwise": True, "differences": [], "more": 0}
    assert f"nearest    {key[:12]}, asked with another upstream.name, query or cache.scope" in shown


def test_it_names_none_where_callers_are_kept_apart(tmp_path: Path) -> None:
    """A recording does not say whose it is."""
    near((b"hello", b"hallo"), at=tmp_path)

    told = facts("--header", "authorization: Bearer sk-CANARY", at=tmp_path, cache__scope="credential")

    assert told["nearest"] is None


def test_it_says_that_a_recording_is_damaged(tmp_path: Path, recorded: Recording) -> None:
    """It answers nothing, and the user may wonder why."""
    shelf = Shelf.open(tmp_path / ".reprise", MIB)
    entry = shelf.get(recorded.key)
    assert entry is not None
    shelf.put(recorded.key, entry[:-1], b"{}")
    shelf.close()

    assert "recorded   damaged: it is not as long as it says\n" in explain(at=tmp_path).out


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("--sample", "many"), {}, "Error: X-Reprise-Sample takes "),
        (("--namespace", "a b"), {}, "Error: X-Reprise-Namespace takes "),
        (("--path", "/v2/chat/completions"), {}, "Error: Only paths under /v1/ "),
        (("--header", "sk-CANARY"), {}, "Error: --header: expected a name, a colon and a value"),
        ((), {"cache__scope": "credential"}, "Error: cache.scope is credential, "),
        ((), {"cache__ttl": "soon"}, "REPRISE_CACHE__TTL: expected a duration "),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], settings: dict[str, Any], said: str
) -> None:
    """With exit code 2; what could be a credential is not repeated."""
    ended = explain(*arguments, at=tmp_path, **settings)

    assert ended.err.startswith(said)
    assert "CANARY" not in ended.err
    assert (ended.code, ended.out) == (2, "")


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """It is named."""
    ended = reprise("explain", "none.json", at=tmp_path)

    assert "'none.json': No such file or directory" in ended.err
    assert (ended.code, ended.out) == (2, "")


def test_the_upstream_takes_part(tmp_path: Path) -> None:
    """A proxy that was started with another one keeps its recordings apart."""
    assert facts("--upstream", "http://127.0.0.1:11434/v1", at=tmp_path)["key"] != facts(at=tmp_path)["key"]


def test_a_credential_takes_part_and_is_not_shown(tmp_path: Path) -> None:
    """Neither to a person nor to a program."""
    mine, yours = ("--header", "authorization: Bearer sk-CANARY"), ("--header", "authorization: Bearer sk-OTHER")

    shown = explain(*mine, at=tmp_path, cache__scope="credential").out
    my_facts = facts(*mine, at=tmp_path, cache__scope="credential")
    your_facts = facts(*yours, at=tmp_path, cache__scope="credential")

    assert my_facts["key"] != your_facts["key"]
    assert "CANARY" not in shown + str(my_facts)


def test_it_looks_into_the_cassette_as_well(tmp_path: Path) -> None:
    """As a proxy with these settings would; there need be no store."""
    asked = facts(at=tmp_path)
    request = RecordedRequest("POST", "/v1/chat/completions", asked["canonical"].encode())
    one = recording(recorded_at=time.time() - 7200)._replace(key=asked["key"], request=request)
    write_cassette(tmp_path / "chat", [one])

    found = explain(at=tmp_path, cache__cassette="chat")
    missed = explain(at=tmp_path, body=orjson.dumps({**PROMPT, "seed": 1}), cache__cassette="chat")
    refused = explain(at=tmp_path, cache__cassette="none")

    assert "recorded   2h ago, in chat\n" in found.out
    assert f"nearest    {one.key[:12]}\n" in missed.out
    assert "/seed" in missed.out
    assert facts(at=tmp_path, cache__cassette="chat")["in_cassette"]
    assert (refused.code, refused.err) == (
        2,
        "Error: cache.cassette: none: it can't be read (No such file or directory)\n",
    )


def test_what_the_cassette_has_as_well_is_not_stale(tmp_path: Path) -> None:
    """As it is to the proxy."""
    key = near(at=tmp_path)
    write_cassette(tmp_path / "chat", [recording()._replace(key=key)])

    assert "stale: older than cache.ttl" in explain(at=tmp_path, cache__ttl="1s").out
    assert "stale" not in explain(at=tmp_path, cache__ttl="1s", cache__cassette="chat").out
