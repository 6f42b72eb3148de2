"""What goes into a cassette holds no secrets, and is in all else what was recorded."""

import json
import struct
import time
from array import array
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cassette.scrubbing import Scrubbed, Scrubber
from proxy.cassette.shapes import SearchTooLong
from proxy.recording import Head, Recording
from tests.recordings import recording, recordings

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA1c7+9z5Pad7OejecsQ0buvJGHPn\n-----END RSA PRIVATE KEY-----"
SECRETS = [
    ("api_key", "sk-1234567890abcdefABCDEF1234567890abcdefABCDEF12"),
    ("api_key", "sk-proj-abc_DEF-123456789012345678901234567890"),
    ("api_key", "sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789-AA"),
    ("api_key", "sk-or-v1-0123456789abcdef0123456789abcdef"),
    ("api_key", "gsk_abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ"),
    ("api_key", "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"),
    ("api_key", "ghp_0123456789abcdefABCDEF0123456789abcd"),
    ("api_key", "github_pat_11ABCDEFG0123456789_abcdefghijklmnop"),
    ("api_key", "AIzaSyA0123456789abcdefghijklmnopqrstuv"),
    ("api_key", "AKIAIOSFODNN7EXAMPLE"),
    ("api_key", "xoxb-123456789012-abcdefghijkl"),
    ("api_key", "sk_live_0123456789abcdefABCDEF01"),
    ("jwt", JWT),
    ("jwt", f"_-{JWT}"),
    ("private_key", PEM),
    ("private_key", "-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA1c7+9z5Pad7OejecsQ0buvJGHPn"),
    ("email", "maria.lopez+test@mail.acme.co.uk"),
]
BEARER = "Authorization: Bearer 0123456789abcdef-ABCDEF"
NO_SECRETS = [
    "the risk-assessment-for-everyone-at-home",
    "a bearer of responsibilities",
    "someone@example.com, a@b.example.org, test@localhost.localhost, x@y.test",
    "react@18.2.0 and @decorated and a @ b.com",
    "sk-short",
    "fw_update_firmware_version, pk_customer_order_id and npm_config_registry_url",
    "eyJust.a.word",
    "-----BEGIN PUBLIC KEY-----\nMIIEowIBAAKCAQEA\n-----END PUBLIC KEY-----",
]


def scrub(one: Recording, *more: str) -> Scrubbed:
    return Scrubber(more, time.thread_time).scrub(one)


def asking(text: str) -> Recording:
    body = orjson.dumps({"messages": [{"content": text, "role": "user"}], "model": "m"}, option=orjson.OPT_SORT_KEYS)
    one = recording("asked")
    return one._replace(request=one.request._replace(body=body))


def answering(*frames: bytes) -> Recording:
    return recording("answered", frames)


def content(text: str, index: int = 0) -> bytes:
    choice = {"index": index, "delta": {"content": text}}
    return b"data: " + orjson.dumps({"id": "c-1", "choices": [choice]}) + b"\n\n"


def contents(body: bytes, index: int = 0) -> str:
    events = [orjson.loads(line.removeprefix(b"data: ")) for line in body.splitlines() if line.startswith(b"data: {")]
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"]["content"] for choice in choices)


@pytest.mark.parametrize(("kind", "secret"), SECRETS)
def test_a_secret_in_a_request_is_hidden_and_named_by_its_place(kind: str, secret: str) -> None:
    """Letters become x, digits 0; the key stays, since it is what was asked that is answered."""
    one = asking(f"Mine is:\n{secret}. Say nothing!")

    scrubbed = scrub(one)

    said = orjson.loads(scrubbed.recording.request.body)["messages"][0]["content"]
    assert said.startswith("Mine is:\n")
    assert len(said) == len(f"Mine is:\n{secret}. Say nothing!")
    assert not set(said.removeprefix("Mine is:\n").partition(". Say")[0]) & set("abcdefABCDEF123456789")
    assert scrubbed.findings == [(one.key, "/request/body/messages/0/content", kind, 1)]
    assert scrubbed.recording.key == one.key
    assert scrubbed.is_asked_otherwise


def test_of_a_header_only_the_token_is_hidden() -> None:
    """What it is a token of is no secret."""
    scrubbed = scrub(asking(BEARER))

    assert b'"Authorization: Bearer 0000000000xxxxxx-xxxxxx"' in scrubbed.recording.request.body
    assert [finding.kind for finding in scrubbed.findings] == ["bearer_token"]


@pytest.mark.parametrize("text", NO_SECRETS)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    """Words, versions, addresses that are nobody's, and keys that are meant to be public."""
    one = asking(text)

    assert scrub(one) == (one, [])


def test_a_secret_in_the_name_of_a_member_is_not_in_the_report() -> None:
    """Nor anywhere else."""
    one = recording()._replace(request=recording().request._replace(body=b'{"a":{"m@acme.com":{"b/c":"n@acme.com"}}}'))

    scrubbed = scrub(one)

    assert scrubbed.recording.request.body == b'{"a":{"x@xxxx.xxx":{"b/c":"x@xxxx.xxx"}}}'
    assert [finding[1:] for finding in scrubbed.findings] == [
        ("/request/body/a/x@xxxx.xxx", "email", 1),
        ("/request/body/a/x@xxxx.xxx/b~1c", "email", 1),
    ]


def test_whatever_else_of_a_recording_is_shown_is_looked_at() -> None:
    """Names of sets, header fields, models."""
    secret = "sk-1234567890abcdefABCDEF"
    one = recording()
    one = one._replace(
        request=one.request._replace(path=f"/v1/{secret}", namespace="ann@acme.com", vary=(("x-team", secret),)),
        head=Head(200, secret, ((b"x-request-id", secret.encode()),)),
        model=f"ft:{secret}",
    )

    scrubbed = scrub(one)

    assert secret not in repr(scrubbed)
    assert {finding.where for finding in scrubbed.findings} == {
        *("/request/path", "/request/namespace", "/request/vary", "/response/reason", "/response/headers", "/model"),
    }


# Answers


def test_a_plain_answer_keeps_its_bytes_around_a_secret() -> None:
    """Its white space and its escapes, and its length."""
    secret = b"ann@acme.com"
    body = b'{ "choices": [ {"message" : {"content":"\\u00fc \\/ \\nann\\u0040acme.com, %b"}} ], "n":1e2 }' % secret
    one = answering(body)._replace(stream=False, check="json")

    scrubbed = scrub(one)

    hidden = body.replace(secret, b"xxx@xxxx.xxx").replace(b"ann\\u0040acme", b"xxx\\u0040xxxx")
    assert scrubbed.recording.body == hidden.replace(b"\\u0040xxxx.com", b"\\u0040xxxx.xxx")
    assert scrubbed.findings == [(one.key, "body", "email", 2)]
    assert not scrubbed.is_asked_otherwise


@pytest.mark.parametrize(("kind", "secret"), SECRETS)
def test_a_secret_in_json_within_a_string_is_hidden_and_leaves_it_json(kind: str, secret: str) -> None:
    """As arguments of tools are, a line of their own each."""
    arguments = orjson.dumps({"text": f"first\n{secret}\nlast"}).decode()
    body = orjson.dumps({"choices": [{"message": {"tool_calls": [{"function": {"arguments": arguments}}]}}]})
    one = answering(body)._replace(stream=False, check="json")

    scrubbed = scrub(one)

    (choice,) = orjson.loads(scrubbed.recording.body)["choices"]
    text = orjson.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])["text"]
    assert (text[:6], text[-5:], len(text)) == ("first\n", "\nlast", len(f"first\n{secret}\nlast"))
    assert not set(text[6:-5]) & set("abcdefghijklmABCDEFGHIJKLM123456789")
    assert [finding.kind for finding in scrubbed.findings] == [kind]


@pytest.mark.parametrize("before", ["是", "🙂", "<", "\x7f"])
@pytest.mark.parametrize(("kind", "secret"), SECRETS)
def test_a_secret_behind_an_escape_is_hidden_and_leaves_it_one(kind: str, secret: str, before: str) -> None:
    """JSON within a string has often been written in ASCII alone."""
    escape = "".join(f"\\u{unit:04x}" for (unit,) in struct.iter_unpack(">H", before.encode("utf-16-be")))
    arguments = f'{{"text": "{escape}{json.dumps(secret)[1:-1]}{escape}"}}'
    body = orjson.dumps({"choices": [{"message": {"tool_calls": [{"function": {"arguments": arguments}}]}}]})

    scrubbed = scrub(answering(body))
    again = scrub(scrubbed.recording)

    (choice,) = orjson.loads(scrubbed.recording.body)["choices"]
    text = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])["text"]
    assert (text[: len(before)], text[-len(before) :]) == (before, before)
    assert secret[8:] not in text
    assert [finding.kind for finding in scrubbed.findings] == [kind]
    assert (again.findings, again.recording) == ([], scrubbed.recording)


@pytest.mark.parametrize(("kind", "secret"), [each for each in SECRETS if each[0] in ("api_key", "jwt")])
def test_a_secret_in_an_encoded_query_is_hidden(kind: str, secret: str) -> None:
    """What stands before it there ends with a letter or a digit: `key%3Dsk-...`."""
    body = orjson.dumps({"choices": [{"message": {"content": f"https://x.test/?next=%2Fa%3Fkey%3D{secret}%26b"}}]})

    scrubbed = scrub(answering(body))

    assert [finding.kind for finding in scrubbed.findings] == [kind]
    assert secret[8:].encode() not in scrubbed.recording.body
    assert scrub(scrubbed.recording).findings == []


def test_an_escaped_letter_is_hidden_in_as_many_bytes() -> None:
    """However it is spelled."""
    body = rb'{"a":"\u0061nn4\u0031@acme.com"}'

    scrubbed = scrub(answering(body)._replace(stream=False))

    assert scrubbed.recording.body == rb'{"a":"\u0078xx0\u0030@xxxx.xxx"}'


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4), (7, 8), tuple(range(1, 25))])
def test_a_secret_that_is_streamed_in_pieces_is_hidden_in_each(cuts: tuple[int, ...]) -> None:
    """As answers mostly come; frames keep their lengths, and another choice in between its own text."""
    text = "Ask ann@acme.com, please."
    starts = (0, *cuts)
    pieces = [text[start:end] for start, end in zip(starts, (*cuts, None), strict=True)]
    frames = [frame for piece in pieces for frame in (content(piece), content("no@", 1))] + [b"data: [DONE]\n\n"]
    one = answering(*frames)

    scrubbed = scrub(one)

    assert contents(scrubbed.recording.body) == "Ask xxx@xxxx.xxx, please."
    assert contents(scrubbed.recording.body, 1) == "no@" * len(pieces)
    assert scrubbed.findings == [(one.key, "body", "email", 1)]
    assert scrubbed.recording.timeline == one.timeline
    assert len(scrubbed.recording.body) == len(one.body)


def test_the_stream_of_a_response_is_scrubbed_too() -> None:
    """The pieces, and the whole text that follows them."""
    deltas = [{"type": "response.output_text.delta", "item_id": "i", "delta": part} for part in ("ann@ac", "me.com")]
    events = [*deltas, {"type": "response.output_text.done", "item_id": "i", "text": "ann@acme.com"}]
    one = answering(*(b"event: x\ndata: " + orjson.dumps(event) + b"\n\n" for event in events))

    scrubbed = scrub(one)

    assert b'"xxx@xx"' in scrubbed.recording.body
    assert b'"xx.xxx"' in scrubbed.recording.body
    assert b'"xxx@xxxx.xxx"' in scrubbed.recording.body


def token(text: str, *instead: str) -> dict[str, Any]:
    def spelled(each: str) -> dict[str, Any]:
        return {"token": each, "logprob": -0.5, "bytes": list(each.encode())}

    return {**spelled(text), "top_logprobs": [spelled(each) for each in (text, *instead)]}


PARTS = ("Ask ", "ann", "@ac", "me", ".com", ", please")


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("name", ["content", "refusal"])
def test_a_secret_is_hidden_in_the_tokens_of_an_answer_too(name: str, streamed: bool) -> None:  # noqa: FBT001
    """In each of them, in its bytes, and in what nearly stood there; the others stay as they are."""
    listed = [token(part, " Ann") for part in PARTS]
    groups = [listed[:2], listed[2:3], listed[3:]] if streamed else [listed]
    answers = [orjson.dumps({"choices": [{"index": 0, "logprobs": {name: group}}]}) for group in groups]
    one = answering(*(b"data: " + answer + b"\n\n" for answer in answers) if streamed else answers)

    body = scrub(one).recording.body

    shown = [orjson.loads(line.removeprefix(b"data: ")) for line in body.splitlines() if line]
    tokens = [each for answer in shown for each in answer["choices"][0]["logprobs"][name]]
    assert [each["token"] for each in tokens] == ["Ask ", "xxx", "@xx", "xx", ".xxx", ", please"]
    assert (tokens[0], tokens[-1]) == (listed[0], listed[-1])
    assert tokens[1]["bytes"] == [48, 120, 120]
    assert [each["token"] for each in tokens[1]["top_logprobs"]] == ["xxx", " xxx"]
    assert [each["bytes"] for each in tokens[1]["top_logprobs"]] == [[48, 120, 120], [48, 48, 120, 120]]
    assert len(body) == len(one.body)


def test_a_secret_that_nearly_stood_in_an_answer_is_hidden() -> None:
    """What stands there is none."""
    body = orjson.dumps({"choices": [{"logprobs": {"content": [token("nobody", "ann@acme.com")]}}]})

    (shown,) = orjson.loads(scrub(answering(body)).recording.body)["choices"][0]["logprobs"]["content"]

    nearly = shown["top_logprobs"]
    assert (shown["token"], shown["bytes"]) == ("nobody", list(b"nobody"))
    assert [each["token"] for each in nearly] == ["nobody", "xxx@xxxx.xxx"]
    assert not set(nearly[1]["bytes"]) - {48, 120}


def test_a_secret_is_hidden_in_the_tokens_of_completions() -> None:
    """Two lists side by side."""
    nearly = [{part: -0.5, "Ann": -1.5} for part in PARTS]
    body = orjson.dumps({"choices": [{"text": "", "logprobs": {"tokens": PARTS, "top_logprobs": nearly}}]})

    shown = orjson.loads(scrub(answering(body)).recording.body)["choices"][0]["logprobs"]

    assert shown["tokens"] == ["Ask ", "xxx", "@xx", "xx", ".xxx", ", please"]
    assert shown["top_logprobs"][2] == {"@xx": -0.5, "xxx": -1.5}
    assert shown["top_logprobs"][0] == nearly[0]


def test_a_secret_is_hidden_in_the_tokens_of_a_response() -> None:
    """As they come, and in the whole text that follows them."""
    deltas = [{"type": "x.delta", "item_id": "i", "delta": part, "logprobs": [token(part)]} for part in PARTS]
    done = {"type": "x.done", "item_id": "i", "text": "".join(PARTS), "logprobs": [token(part) for part in PARTS]}
    one = answering(*(b"data: " + orjson.dumps(event) + b"\n\n" for event in (*deltas, done)))

    body = scrub(one).recording.body

    for secret in (b'"ann"', b"@ac", b'"me"', b".com", b"97,110,110", b"109,101"):
        assert secret not in body
    assert body.count(b'"token":"xxx"') == 4
    assert body.count(b'"bytes":[48,120,120]') == 4
    assert len(body) == len(one.body)


def test_what_is_no_json_is_looked_at_as_text() -> None:
    """Comments of a stream, for example."""
    one = answering(b": for ann@acme.com\n\n", b"data: [DONE]\n\n")

    assert scrub(one).recording.body == b": for xxx@xxxx.xxx\n\ndata: [DONE]\n\n"


def test_half_an_emoji_keeps_no_secret_from_being_found() -> None:
    """Some servers cut texts by UTF-16 units."""
    frames = [content("ann@ac"), rb'data: {"choices":[{"index":0,"delta":{"content":"me.com \ud83d"}}]}' + b"\n\n"]

    assert b"acme" not in (scrubbed := scrub(answering(*frames))).recording.body
    assert rb"xx.xxx \ud83d" in scrubbed.recording.body


# More shapes


def test_the_users_own_shapes_are_hidden_too() -> None:
    """All that matches, or the group that is called secret."""
    one = asking("Customer 4711-0815 of Müller, code: open sesame!")

    scrubbed = scrub(one, r"[0-9]{4}-[0-9]{4}", "Müller", "code: (?P<secret>[a-z ]+)", "x*")

    said = orjson.loads(scrubbed.recording.request.body)["messages"][0]["content"]
    assert said == "Customer 0000-0000 of xxxxxxx, code: xxxx xxxxxx!"
    assert scrubbed.findings == [(one.key, "/request/body/messages/0/content", "custom", 3)]


def test_an_expression_that_takes_for_ever_leaves_nothing_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is better not shown than not searched."""
    monkeypatch.setattr("proxy.cassette.shapes._PATIENCE_S", 0.05)

    with pytest.raises(SearchTooLong, match="try simpler expressions in"):
        scrub(asking("a" * 5000), "(a+)+b")


def test_patience_is_that_for_one_recording_however_many_texts_it_has() -> None:
    """And the next one gets as much again."""
    work = count()
    scrubber = Scrubber((), lambda: float(next(work)))

    with pytest.raises(SearchTooLong):
        scrubber.scrub(answering(orjson.dumps([f"number {number}" for number in range(20)])))

    scrubber.scrub(answering(orjson.dumps(["number 21", "number 22"])))


# Whatever comes


@settings(deadline=None)
@given(one=recordings())
def test_anything_can_be_scrubbed_and_keeps_its_measures(one: Recording) -> None:
    """As long as it was, in the same frames; and what was scrubbed once has nothing more to scrub."""
    once = scrub(one).recording

    assert len(once.body) == len(one.body)
    assert (once.key, once.timeline, once.usage) == (one.key, one.timeline, one.usage)
    assert scrub(once) == (once, [])


@settings(deadline=None)
@given(before=st.text(max_size=20), after=st.text(max_size=20), secret=st.sampled_from([s for _, s in SECRETS]))
def test_no_secret_is_left_between_any_texts(before: str, after: str, secret: str) -> None:
    """Where it is a word of its own, in a request as in an answer; the rest is as it was."""
    text = f"{before} {secret} {after}"
    asked = asking(text)
    one = asked._replace(body=asked.request.body, stream=False, timeline=asked.timeline._replace(lengths=array("I")))

    scrubbed = scrub(one).recording

    assert secret not in orjson.loads(scrubbed.request.body)["messages"][0]["content"]
    assert scrubbed.body == scrubbed.request.body
    assert len(scrubbed.body) == len(one.body)


@pytest.mark.parametrize(
    "hostile",
    [
        *("-----BEGIN PRIVATE KEY-----" * 20_000, "a." * 100_000 + "@", "sk-" * 100_000, "eyJ" * 100_000),
        *("bearer " * 50_000, "bearer " + " " * 200_000, "a@" + "a." * 100_000, "a@example." * 30_000),
        *("SG." * 100_000, "A" * 500_000, "-eyJ" * 250_000, "-eyJ" * 250_000 + ".eyJ", "eyJaaaaaaaa." * 100_000),
        *("\\neyJ" * 200_000, "-----BEGIN PRIVATE KEY-----" + " a" * 500_000, "Bearer " + "-bearer" * 200_000),
        *("-----BEGIN " + "A " * 500_000, "-sk-" * 250_000, "a-eyJ" * 100_000 + ".eyJaaaaaaaaa"),
    ],
    ids=lambda hostile: hostile[:10],
)
def test_no_text_takes_long(hostile: str) -> None:
    """An answer may hold what somebody has made up for it; the time of a test is the bound."""
    scrub(asking(hostile))
