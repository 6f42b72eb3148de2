"""Which requests share an answer, seen from outside: only those that no JSON reader and no upstream can tell apart."""

import orjson
import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import key_of, recording_of, word, words
from tests.harness import ANSWER, CHAT, PROMPT, STREAM, Proxy, ScriptedUpstream, plain, stream

BODY = b'{"model":"m","messages":[{"role":"user","content":"caf\xc3\xa9 / \xf0\x9f\x98\x80"}],"temperature":1,"n":1}'

SAME = {
    "member order": b'{"n":1,"temperature":1,"messages":[{"content":"caf\xc3\xa9 / \xf0\x9f\x98\x80","role":"user"}],'
    b'"model":"m"}',
    "white space": b'\n{ "model" :\t"m" , "messages":[ {"role":"user","content":"caf\xc3\xa9 / \xf0\x9f\x98\x80"} ],'
    b'\r\n"temperature":1,"n":1} ',
    "escapes": b'{"m\\u006fdel":"\\u006D","messages":[{"role":"user","content":"caf\\u00e9 \\/ \\ud83d\\ude00"}],'
    b'"temperature":1,"n":1}',
}
OTHER = {
    "a number with a fraction": BODY.replace(b'"n":1', b'"n":1.0'),
    "a number with an exponent": BODY.replace(b'"n":1', b'"n":1e0'),
    "another number": BODY.replace(b'"temperature":1', b'"temperature":1.1'),
    "null for a number": BODY.replace(b'"n":1', b'"n":null'),
    "true for a number": BODY.replace(b'"n":1', b'"n":true'),
    "text for a number": BODY.replace(b'"n":1', b'"n":"1"'),
    "absent, not the default": BODY.replace(b',"n":1', b""),
    "another member": BODY.replace(b'"n":1', b'"n":1,"user":"u"'),
    "an unknown member": BODY.replace(b'"n":1', b'"n":1,"x":{}'),
    "a seed": BODY.replace(b'"n":1', b'"n":1,"seed":0'),
    "store": BODY.replace(b'"n":1', b'"n":1,"store":false'),
    "metadata": BODY.replace(b'"n":1', b'"n":1,"metadata":{}'),
    "the stream flag": BODY.replace(b'"n":1', b'"n":1,"stream":false'),
    "a null stream flag": BODY.replace(b'"n":1', b'"n":1,"stream":null'),
    "another model": BODY.replace(b'"m"', b'"M"'),
    "a blank": BODY.replace(b"caf", b" caf"),
    "the other normal form": BODY.replace(b"caf\xc3\xa9", b"cafe\xcc\x81"),
    "a part list for a text": BODY.replace(
        b'"caf\xc3\xa9 / \xf0\x9f\x98\x80"', b'[{"type":"text","text":"caf\xc3\xa9 / \xf0\x9f\x98\x80"}]'
    ),
}


async def test_what_no_reader_can_tell_apart_is_a_hit(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Member order, white space and escapes say nothing."""
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask(BODY))

    told = {name: await word(proxy.ask(body)) for name, body in SAME.items()}

    assert told == dict.fromkeys(SAME, "HIT")
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("length", [1, 40_000])
async def test_what_is_asked_again_byte_for_byte_is_recorded_in_the_same_form(
    length: int, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The second time its body is known by its digest, and has not been read when the answer comes."""
    asked = b' {"user": "%b", "messages": [] }' % (b"u" * length)
    upstream.will_send(plain(ANSWER))
    upstream.will_send(plain(b'{"anew":1}'))
    first = await proxy.ask(asked)
    await first.body()

    again = await proxy.ask(asked, headers={"Cache-Control": "no-cache"})
    await again.body()

    assert (key_of(again), again.get("x-cache-status")) == (key_of(first), "REFRESH")
    assert (await log.line(1))["stored"]
    recording = await recording_of(proxy, again)
    assert recording.body == b'{"anew":1}'
    assert recording.request.body == b'{"messages":[],"user":"%b"}' % (b"u" * length)
    assert await word(proxy.ask(asked)) == "HIT"


async def test_what_any_reader_could_tell_apart_is_a_miss(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Each of them has an answer of its own, and reaches the upstream as it was written."""
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask(BODY))

    told = {name: await word(proxy.ask(body)) for name, body in OTHER.items()}

    assert told == dict.fromkeys(OTHER, "MISS")
    assert [received.body for received in upstream.received] == [BODY, *OTHER.values()]
    assert {name: await word(proxy.ask(body)) for name, body in OTHER.items()} == dict.fromkeys(OTHER, "HIT")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"9007199254740992", b"9007199254740993"),
        (b"18446744073709551614", b"18446744073709551615"),
        (b"0", b"-0"),
        (b"0.1", b"0.10"),
        (b"1e2", b"1E2"),
        (b"0.1", b"0.1000000000000000055"),
    ],
)
async def test_numbers_are_told_apart_as_they_are_spelled(
    one: bytes, other: bytes, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Some reader could: a double holds 53 bits, and an upstream may keep more."""
    upstream.will_send(plain(ANSWER))

    first, second = await proxy.ask(b'{"seed":%b}' % one), await proxy.ask(b'{"seed":%b}' % other)

    assert [first.get("x-cache-status"), second.get("x-cache-status")] == ["MISS", "MISS"]
    assert key_of(first) != key_of(second)


async def test_a_plain_and_a_streamed_answer_are_two(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """An SDK that is given the one for the other yields nothing, and no error."""
    upstream.will_send(plain(ANSWER))
    upstream.will_send(*stream())
    streamed = {**PROMPT, "stream": True}
    assert await words(proxy.ask(), proxy.ask(streamed)) == ["MISS", "MISS"]

    assert [await (await proxy.ask(asked)).body() for asked in (PROMPT, streamed)] == [ANSWER, STREAM]
    assert await word(proxy.ask({**streamed, "stream_options": {"include_usage": True}})) == "MISS"


async def test_path_and_query_are_part_of_the_key(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """To the letter, as they travel upstream."""
    upstream.will_send(plain(ANSWER))
    targets = [CHAT, "/v1/completions", f"{CHAT}?", f"{CHAT}?a=1&b=2", f"{CHAT}?b=2&a=1", f"{CHAT}?a=1&b=%32"]

    assert await words(*(proxy.ask(PROMPT, target) for target in targets)) == ["MISS"] * len(targets)
    assert await words(*(proxy.ask(PROMPT, target) for target in targets)) == ["HIT"] * len(targets)
    assert [received.request_line for received in upstream.received] == [
        f"POST {target} HTTP/1.1" for target in targets
    ]


NOISE = {
    "Authorization": "Bearer sk-another",
    "User-Agent": "another/1.0",
    "Accept": "text/event-stream",
    "Accept-Encoding": "gzip, br",
    "X-Stainless-Lang": "python",
    "X-Stainless-Retry-Count": "1",
    "Idempotency-Key": "another",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "X-Client-Request-Id": "another",
    "Cookie": "session=another",
    "OpenAI-Organization": "org-another",
    "Content-Type": "application/json; charset=UTF-8",
    "Content-Encoding": "identity",
    "Connection": "close",
}


async def test_client_noise_is_no_part_of_the_key(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """In a shared store it does not matter who asks, with what, or how often already."""
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask())

    assert {name: await word(proxy.ask(headers={name: NOISE[name]})) for name in NOISE} == dict.fromkeys(NOISE, "HIT")
    assert await word(proxy.ask(headers=NOISE)) == "HIT"


async def test_vary_headers_are_part_of_the_key(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Absent is not empty, two lines are not one, and the header travels upstream like any other."""
    proxy = await start_proxy(cache__vary=["OpenAI-Beta", "x-team"])
    upstream.will_send(plain(ANSWER))
    json = ("Content-Type", "application/json")
    asked: list[list[tuple[str, str]]] = [
        [],
        [("openai-beta", "")],
        [("OpenAI-Beta", "assistants=v2")],
        [("OpenAI-Beta", "assistants=v1")],
        [("OpenAI-Beta", "a"), ("OpenAI-Beta", "b")],
        [("OpenAI-Beta", "a, b")],
        [("X-Team", "assistants=v2")],
        [("OpenAI-Beta", "assistants=v2"), ("X-Team", "red")],
    ]
    body = orjson.dumps(PROMPT)

    for told in ("MISS", "HIT"):
        askings = (proxy.send("POST", CHAT, [json, *fields], body) for fields in asked)
        assert await words(*askings) == [told] * len(asked)
    assert [received.header("openai-beta") for received in upstream.received[2:5]] == [
        ["assistants=v2"],
        ["assistants=v1"],
        ["a", "b"],
    ]
    other_case = [json, ("OPENAI-BETA", "assistants=v2")]
    assert await word(proxy.send("POST", CHAT, other_case, body)) == "HIT"


async def test_a_beta_header_is_part_of_the_key_by_default(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It changes what the API does."""
    upstream.will_send(plain(ANSWER))
    beta = {"OpenAI-Beta": "assistants=v2"}

    assert await words(proxy.ask(), proxy.ask(headers=beta), proxy.ask(headers=beta)) == ["MISS", "MISS", "HIT"]


async def test_what_connection_takes_away_makes_no_difference(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """The upstream does not see it, so its answer can't depend on it."""
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask())

    taken_away = {"OpenAI-Beta": "assistants=v2", "Connection": "openai-beta"}

    assert await word(proxy.ask(headers=taken_away)) == "HIT"


async def test_in_the_scope_of_credentials_each_caller_has_its_own(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Credentials, organization and project tell callers apart; all else does so no more than elsewhere."""
    proxy = await start_proxy(cache__scope="credential")
    upstream.will_send(plain(ANSWER))
    callers: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer sk-other"},
        {"Authorization": "bearer sk-CANARY"},
        {"Api-Key": "sk-CANARY"},
        {"X-Api-Key": "sk-CANARY"},
        {"X-Goog-Api-Key": "sk-CANARY"},
        {"OpenAI-Organization": "org"},
        {"OpenAI-Project": "org"},
        {"OpenAI-Organization": "org", "OpenAI-Project": "org"},
    ]

    for told in ("MISS", "HIT"):
        assert await words(*(proxy.ask(headers=caller) for caller in callers)) == [told] * len(callers)
    assert (
        await word(proxy.ask(headers={"User-Agent": "another/1.0", "Idempotency-Key": "a", "Cookie": "a=b"})) == "HIT"
    )
    assert upstream.requests_seen == len(callers)


async def test_in_the_scope_of_credentials_the_key_tells_nothing(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Nobody finds what another has asked by asking it without a credential."""
    proxy = await start_proxy(cache__scope="credential")
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask())
    fields = [("Content-Type", "application/json"), ("Cache-Control", "only-if-cached")]

    assert (await proxy.send("POST", CHAT, fields, orjson.dumps(PROMPT))).status == 504


async def test_ignored_members_make_no_difference(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """They still travel upstream; what stands next to them still counts."""
    proxy = await start_proxy(cache__ignore=["/user", "/metadata/run", "/messages/0/id", "/a~1b"])
    upstream.will_send(plain(ANSWER))
    first = {**PROMPT, "user": "a", "metadata": {"run": 1, "team": "red"}, "a/b": 1}

    assert await word(proxy.ask(first)) == "MISS"
    assert upstream.received[0].body == orjson.dumps(first)
    assert await word(proxy.ask({**first, "user": "b", "metadata": {"team": "red", "run": [2]}, "a/b": 2})) == "HIT"
    assert await word(proxy.ask({**PROMPT, "metadata": {"team": "red"}})) == "HIT"
    assert await word(proxy.ask({**first, "metadata": {"run": 1, "team": "blue"}})) == "MISS"
    assert await word(proxy.ask({**first, "messages": [{"role": "user", "content": "Say hello.", "id": 7}]})) == "HIT"


async def test_a_named_upstream_may_move(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Its name stands for it in the key; without one its address does."""
    upstream.will_send(plain(ANSWER))
    elsewhere = upstream.base_url.replace("/v1", "/elsewhere/v1")
    named = await start_proxy(upstream__name="openai")
    named_elsewhere = await start_proxy(upstream__name="openai", upstream__base_url=elsewhere)
    unnamed = await start_proxy()
    unnamed_elsewhere = await start_proxy(upstream__base_url=elsewhere)

    keys = [key_of(await proxy.ask()) for proxy in (named, named_elsewhere, unnamed, unnamed_elsewhere)]

    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
