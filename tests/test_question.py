"""When a request is a question that can be answered again, and what of it is kept."""

import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admission import Controls
from proxy.canonical import Uncacheable
from proxy.question import KeyRules, Premise, Question, Questions
from proxy.recording import Headers, RecordedRequest

CHAT = "/v1/chat/completions"
JSON: Headers = ((b"Content-Type", b"application/json"),)
BODY = b'{"model": "m-1", "messages": []}'

SHARED = KeyRules(upstream="u", per_credential=False, vary=("openai-beta",), ignore=())
APART = KeyRules(upstream="u", per_credential=True, vary=("openai-beta",), ignore=())


def ask(
    fields: Headers = (),
    *,
    rules: KeyRules = SHARED,
    target: str = CHAT,
    controls: Controls = Controls(),  # noqa: B008 - a value, never changed
    **body: Any,
) -> Question:
    members = {"model": "m-1", "messages": [], **body}
    return rules.question("POST", target, (*JSON, *fields), controls, orjson.dumps(members))


def why_not(fields: Headers, body: bytes = BODY) -> str:
    with pytest.raises(Uncacheable) as refused:
        SHARED.question("POST", CHAT, fields, Controls(), body)
    return refused.value.reason


@pytest.mark.parametrize(
    "value",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;Charset="UTF-8"',
        b"application/json ; charset = utf-8",
        b"application/json;charset=utf-8;",
        b"application/json;",
    ],
)
def test_json_in_utf_8_is_a_question(value: bytes) -> None:
    """However its type is spelled."""
    question = SHARED.question("POST", CHAT, ((b"CONTENT-TYPE", value),), Controls(), BODY)

    assert question.request.body == b'{"messages":[],"model":"m-1"}'


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"text/plain"],
        [b"multipart/form-data; boundary=x"],
        [b"application/jsonl"],
        [b"application/json, text/plain"],
        [b"application/json; charset=utf-8, text/plain"],
        [b"application/json", b"application/json"],
        [b"application/json; charset=utf-8", b"text/plain"],
        [b"text/plain; x=y", b"application/json"],
        [b"application/json; charset=utf-16"],
        [b"application/json; charset=latin-1; charset=utf-8"],
        [b"application/json; charset="],
        [b"application/json; charset"],
        [b"application/json; charset=utf-8; charset=utf-8"],
        [b"application/json; charset*=utf-7"],
        [b"application/json; charset*0=utf-; charset*1=7"],
        [b"application/json; x=y, text/plain"],
        [b'application/json; x="; charset=utf-8"'],
        [b"application/json; version=2"],
        [b"application/json+x"],
        [b"application/\xeajson"],
    ],
)
def test_what_is_not_surely_json_is_none(values: list[bytes]) -> None:
    """Another type, two of them, or another charset: servers would differ in what they read."""
    assert why_not(tuple((b"Content-Type", value) for value in values)) == "content_type"


@pytest.mark.parametrize("values", [[b"gzip"], [b"identity", b"gzip"], [b"zstd, identity"], [b"GZIP"]])
def test_a_compressed_body_is_none(values: list[bytes]) -> None:
    """It is passed on as it came; what is in it the upstream knows."""
    encoded = tuple((b"Content-Encoding", value) for value in values)

    assert why_not(JSON + encoded, b"\x1f\x8b") == "content_encoding"


@pytest.mark.parametrize(
    "name", [b"X-HTTP-Method-Override", b"x-http-method", b"X-Method-Override", b"x-original-url", b"X_Rewrite_URL"]
)
def test_a_request_that_a_header_makes_another_one_is_none(name: bytes) -> None:
    """A server that heeds it answers something else; unless it never sees it."""
    assert why_not((*JSON, (name, b"GET"))) == "override"
    assert ask(((name, b"GET"), (b"Connection", name))) == ask()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"\x1f\x8b\x08", "not_json"),
        (b"[]", "not_an_object"),
        (b'{"model":"a","model":"b"}', "ambiguous_json"),
        pytest.param(b'{"input":[' + b"[]," * 250_000 + b"[]]}", "too_many_values", id="half a million values"),
        (b'{"stream":1}', "stream_flag"),
        (b'{"background":true}', "stateful"),
        (b'{"conversation":"c"}', "stateful"),
    ],
)
def test_a_body_that_can_be_read_in_two_ways_is_none(body: bytes, reason: str) -> None:
    """So is one whose answer depends on more than itself."""
    assert why_not(JSON, body) == reason


def test_a_question_holds_what_its_answer_is_checked_and_stored_by() -> None:
    """The request in canonical form, and of its headers only those that it varies by."""
    fields = (
        (b"Authorization", b"Bearer sk-CANARY"),
        (b"Cookie", b"CANARY"),
        (b"OpenAI-Beta", b"caf\xe9"),
        (b"openai-beta", b"b"),
    )

    question = ask(fields, controls=Controls(namespace="n", sample=3), stream=True, n=2)

    assert question.request == RecordedRequest(
        method="POST",
        path=CHAT,
        body=b'{"messages":[],"model":"m-1","n":2,"stream":true}',
        vary=(("openai-beta", "caf\xe9"), ("openai-beta", "b")),
        namespace="n",
        sample=3,
    )
    assert (question.stream, question.model, question.choices_expected) == (True, "m-1", 2)
    assert "CANARY" not in repr(ask(fields, rules=APART))


@pytest.mark.parametrize("model", [None, 5, ["m"], {"id": "m"}])
def test_a_model_that_is_no_text_has_no_name(model: object) -> None:
    """The upstream will have its say about it."""
    assert ask(model=model).model is None


def test_each_prompt_of_a_completion_is_a_choice() -> None:
    """Also where the route comes with a query."""
    assert ask(target="/v1/completions?x", prompt=["a", "b"], n=2).choices_expected == 4
    assert ask(target=CHAT, prompt=["a", "b"], n=2).choices_expected == 2


def test_a_query_tells_requests_apart_and_is_not_kept() -> None:
    """It may hold a credential."""
    plain, asked = ask(), ask(target=f"{CHAT}?key=sk-CANARY&x=%2F")

    assert asked.key != plain.key
    assert ask(target=f"{CHAT}?key=sk-CANARY&x=/").key != asked.key
    assert asked.request == plain.request


DIFFERENT: list[Callable[[], Question]] = [
    ask,
    lambda: ask(target="/v1/responses"),
    lambda: ask(stream=True),
    lambda: ask(stream=False),
    lambda: ask(rules=KeyRules("other", per_credential=False, vary=(), ignore=())),
    lambda: ask(controls=Controls(namespace="n")),
    lambda: ask(controls=Controls(sample=1)),
    lambda: ask(((b"OpenAI-Beta", b""),)),
    lambda: ask(((b"OpenAI-Beta", b"a"),)),
    lambda: ask(((b"OpenAI-Beta", b"a"), (b"OpenAI-Beta", b"b"))),
    lambda: ask(((b"OpenAI-Beta", b"a,b"),)),
    lambda: ask(rules=APART),
    lambda: ask(((b"Authorization", b"Bearer a"),), rules=APART),
    lambda: ask(((b"Authorization", b"bearer a"),), rules=APART),
    lambda: ask(((b"api-key", b"Bearer a"),), rules=APART),
    lambda: ask(((b"Authorization", b"Bearer a"), (b"OpenAI-Project", b"p")), rules=APART),
    lambda: ask(((b"Authorization", b"Bearer a"), (b"OpenAI-Organization", b"p")), rules=APART),
]


def test_whatever_can_change_an_answer_changes_the_key() -> None:
    """Each of these requests is another one."""
    keys = {question().key for question in DIFFERENT}

    assert len(keys) == len(DIFFERENT)


@pytest.mark.parametrize(
    "fields",
    [
        ((b"User-Agent", b"x"), (b"X-Stainless-Lang", b"python"), (b"Idempotency-Key", b"x"), (b"traceparent", b"x")),
        ((b"Authorization", b"Bearer a"), (b"Accept-Encoding", b"gzip"), (b"Cache-Control", b"max-age=1")),
        ((b"OpenAI-Organization", b"a"), (b"Host", b"x"), (b"Connection", b"keep-alive")),
    ],
)
def test_the_noise_of_a_client_does_not(fields: Headers) -> None:
    """Nor who asks, where the store is shared."""
    assert ask(fields).key == ask().key


def test_what_is_to_be_ignored_is_no_part_of_it() -> None:
    """Neither of the key nor of what is kept; but the flag that tells how to read the answer still counts."""
    rules = KeyRules("u", per_credential=False, vary=(), ignore=(("user",), ("stream",)))
    one, other = ask(rules=rules, user="a", stream=True), ask(rules=rules, user="b", stream=True)

    assert one == other
    assert one.stream
    assert b"user" not in one.request.body


@pytest.mark.parametrize(
    ("rules", "fields"),
    [
        (SHARED, ((b"OpenAI-Beta", b"a"), (b"Connection", b"OpenAI-Beta"))),
        (APART, ((b"X-Api-Key", b"a"), (b"Connection", b"close, x-api-key"))),
    ],
)
def test_a_header_that_stays_behind_tells_nothing_apart(rules: KeyRules, fields: Headers) -> None:
    """What `Connection` names the upstream will not see, so its answer is the one to a request without it."""
    assert ask(fields, rules=rules) == ask(rules=rules)
    assert ask(fields[:1], rules=rules).key != ask(rules=rules).key


def premise(*, rules: KeyRules = SHARED, target: str = CHAT, controls: Controls = Controls()) -> Premise:  # noqa: B008 - a value, never changed
    return rules.premise("POST", target, JSON, controls)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([CHAT, f"{CHAT}?a", "/v1/completions"]),
            st.integers(0, 1),
            st.sampled_from([BODY, b'{"messages":[],"model":"m-1"}', b'{"user":"a","n":2}', b'{"user":"b","n":2}']),
        ),
        max_size=8,
    )
)
def test_a_body_that_was_read_before_says_the_same(asked: list[tuple[str, int, bytes]]) -> None:
    """On its own premise, and whatever else has been read."""
    rules = KeyRules("u", per_credential=False, vary=(), ignore=(("user",),))
    questions = Questions(rules.ignore)

    for target, sample, body in (*asked, *asked):
        controls = Controls(sample=sample)
        again = questions.question(premise(rules=rules, target=target, controls=controls), body)
        once = rules.question("POST", target, JSON, controls, body)

        assert (again.key, again.stream, again.model) == (once.key, once.stream, once.model)
        assert (again.choices_expected, again.request) == (once.choices_expected, once.request)


def test_a_body_that_was_read_before_is_known_by_its_digest() -> None:
    """Its question is found without it, and what is recorded of it is made when there is an answer to record."""
    questions, digest = Questions(()), sha256(BODY).digest()
    assert questions.gist(premise(), digest) is None

    first, again = questions.question(premise(), BODY), questions.question(premise(), BODY)

    gist = questions.gist(premise(), digest)
    assert gist
    assert (gist.key, gist.stream, gist.model) == (first.key, False, "m-1")
    assert questions.gist(premise(controls=Controls(sample=1)), digest) is None
    assert (first.unread_bytes, again.unread_bytes) == (0, len(BODY))
    assert again.request == first.request


def test_a_body_without_a_key_is_refused_each_time() -> None:
    """It is not remembered."""
    questions = Questions(())

    for _ in range(2):
        with pytest.raises(Uncacheable, match="object"):
            questions.question(premise(), b"[]")
    assert questions.gist(premise(), sha256(b"[]").digest()) is None


def test_no_client_can_fill_the_memory_with_questions() -> None:
    """Neither with long ones nor with many."""
    questions = Questions(())
    named = orjson.dumps({"model": "m" * 300})
    long_way = premise(target=f"{CHAT}?{'x' * 1024}")

    questions.question(premise(), named)
    questions.question(long_way, BODY)
    assert questions.gist(premise(), sha256(named).digest()) is None
    assert questions.gist(long_way, sha256(BODY).digest()) is None

    for number in range(2049):
        questions.question(premise(), b'{"n":%d}' % number)
    assert questions.gist(premise(), sha256(b'{"n":2048}').digest())
    assert questions.gist(premise(), sha256(b'{"n":0}').digest()) is None


@pytest.mark.parametrize("prompt_bytes", [100, 5_000, 200_000])
def test_what_is_kept_of_a_question_takes_no_more_than_its_length(prompt_bytes: int) -> None:
    """Or the limit of the memory tier would be one of a tenth of what it holds."""
    body = orjson.dumps({"messages": [{"content": "x" * prompt_bytes, "role": "user"}], "model": "m"})
    SHARED.question("POST", CHAT, JSON, Controls(), body)  # what is loaded once counts for none
    taken = []
    tracemalloc.start()
    try:
        for _ in range(5):  # other threads may take some meanwhile, but not each time
            before, _ = tracemalloc.get_traced_memory()
            kept = SHARED.question("POST", CHAT, JSON, Controls(), body).request
            after, _ = tracemalloc.get_traced_memory()
            taken.append(after - before)
            held = len(kept.body)
            del kept
    finally:
        tracemalloc.stop()

    assert min(taken) < held + 2048
