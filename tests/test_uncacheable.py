"""Requests without a key: what two readers could understand differently is passed on as it came, and forgotten."""

from collections.abc import Mapping
from gzip import compress

import orjson
import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import word, words
from tests.harness import ANSWER, CHAT, PROMPT, Proxy, ScriptedUpstream, plain

JSON = {"Content-Type": "application/json"}
UNCACHEABLE: dict[str, tuple[bytes, Mapping[str, str], str]] = {
    "not JSON": (b"model=m&stream=1", JSON, "not_json"),
    "nothing": (b"", JSON, "not_json"),
    "half of JSON": (b'{"model":"m"', JSON, "not_json"),
    "two documents": (b'{"model":"m"}{"model":"n"}', JSON, "not_json"),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"m"}', JSON, "not_json"),
    "UTF-16": ('{"model":"m"}'.encode("utf-16"), JSON, "not_json"),
    "invalid UTF-8": (b'{"model":"\xff"}', JSON, "not_json"),
    "half a character": (b'{"model":"\\ud83d"}', JSON, "not_json"),
    "no number": (b'{"n":NaN}', JSON, "not_json"),
    "a number beyond a double": (b'{"n":1e400}', JSON, "not_json"),
    "a list": (b"[1]", JSON, "not_an_object"),
    "a name twice": (b'{"model":"m","model":"n"}', JSON, "ambiguous_json"),
    "a name twice, once escaped": (b'{"model":"m","mode\\u006c":"n"}', JSON, "ambiguous_json"),
    "a name twice, deep within": (b'{"a":[{"b":{"c":1,"c":1}}]}', JSON, "ambiguous_json"),
    "a name in two cases": (b'{"model":"m","Model":"n"}', JSON, "ambiguous_json"),
    "an integer beyond 64 bits": (b'{"n":18446744073709551616}', JSON, "ambiguous_json"),
    "too deep": (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", JSON, "too_deep"),
    "a background request": (b'{"model":"m","background":true}', JSON, "stateful"),
    "a conversation": (b'{"model":"m","conversation":"conv_1"}', JSON, "stateful"),
    "a stream flag that is a text": (b'{"stream":"yes"}', JSON, "stream_flag"),
    "a stream flag that is a number": (b'{"stream":1}', JSON, "stream_flag"),
    "compressed": (compress(orjson.dumps(PROMPT)), {**JSON, "Content-Encoding": "gzip"}, "content_encoding"),
    "not even compressed": (b"not gzip", {**JSON, "Content-Encoding": "gzip"}, "content_encoding"),
    "said to be compressed": (orjson.dumps(PROMPT), {**JSON, "Content-Encoding": "br"}, "content_encoding"),
    "another type": (orjson.dumps(PROMPT), {"Content-Type": "text/plain"}, "content_type"),
    "no type": (orjson.dumps(PROMPT), {}, "content_type"),
    "another charset": (orjson.dumps(PROMPT), {"Content-Type": "application/json; charset=latin1"}, "content_type"),
    "a second type": (
        orjson.dumps(PROMPT),
        {"Content-Type": "application/json; x=y, text/plain"},
        "content_type",
    ),
    "another method": (orjson.dumps(PROMPT), {**JSON, "X-HTTP-Method-Override": "GET"}, "override"),
    "another target": (orjson.dumps(PROMPT), {**JSON, "X-Rewrite-URL": "/v1/models"}, "override"),
    "a form": (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n',
        {"Content-Type": "multipart/form-data; boundary=x"},
        "content_type",
    ),
}


@pytest.mark.parametrize("what", UNCACHEABLE)
async def test_what_has_no_key_is_forwarded_and_forgotten(
    what: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Byte for byte, with its content type and coding; and the client and the log are told why."""
    body, fields, reason = UNCACHEABLE[what]
    upstream.will_send(plain(ANSWER))

    answers = [await proxy.send("POST", CHAT, fields.items(), body) for _ in range(2)]

    assert [await answer.body() for answer in answers] == [ANSWER, ANSWER]
    assert [answer.get("x-cache-status") for answer in answers] == ["BYPASS", "BYPASS"]
    assert answers[0].get_all("cache-status") == [f"reprise; fwd=bypass; detail={reason}"]
    assert [received.body for received in upstream.received] == [body, body]
    for name in ("content-type", "content-encoding"):
        sent = [value for key, value in fields.items() if key.lower() == name]
        assert upstream.received[0].header(name) == sent
    line = await log.line()
    assert (line["cache"], line["stored"], line["not_stored_because"]) == ("BYPASS", False, reason)
    assert "key" not in line


async def test_what_is_asked_in_chunks_is_the_same_question(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Framing is a matter of one hop."""
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask())
    body = orjson.dumps(PROMPT)
    chunked = b"%x\r\n%b\r\n5\r\n%b\r\n0\r\n\r\n" % (len(body) - 5, body[:-5], body[-5:])

    connection = await proxy.connect()
    connection.send(
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    connection.send(chunked)

    assert (await connection.response()).get("x-cache-status") == "HIT"


async def test_a_long_question_is_keyed_like_a_short_one(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It is read in a thread, and neither its key nor its faults get lost there."""
    upstream.will_send(plain(ANSWER))
    long = b'{"model":"m","pad":"%b"}' % (b"x" * 300_000)
    spaced = long.replace(b'","', b'" , "')
    twice = long.replace(b'"pad"', b'"model"')

    assert await words(proxy.ask(long), proxy.ask(spaced), proxy.ask(twice)) == ["MISS", "HIT", "BYPASS"]
    assert [received.body for received in upstream.received] == [long, twice]


@pytest.mark.parametrize("route", ["/v1/images/generations", "/v1/chat/completions/", "/v1/chat", "/v1/files"])
async def test_other_routes_are_never_recorded(route: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Not even for a request that could have been one of ours."""
    upstream.will_send(plain(ANSWER))

    assert await words(proxy.ask(PROMPT, route), proxy.ask(PROMPT, route)) == ["BYPASS", "BYPASS"]
    assert upstream.requests_seen == 2


async def test_a_route_of_the_operators_choice_is_recorded(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """And no other one any more."""
    proxy = await start_proxy(cache__routes=["images/generations"])
    upstream.will_send(plain(ANSWER))

    images = [proxy.ask(PROMPT, "/v1/images/generations") for _ in range(2)]
    assert await words(*images, proxy.ask(), proxy.ask()) == ["MISS", "HIT", "BYPASS", "BYPASS"]


async def test_nothing_but_a_post_is_recorded(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Not even on a route whose POST is."""
    upstream.will_send(plain(ANSWER))

    for method in ("GET", "DELETE", "PUT", "PATCH"):
        answers = [await proxy.send(method, CHAT, [("Content-Type", "application/json")], b"{}") for _ in range(2)]
        assert [answer.get("x-cache-status") for answer in answers] == ["BYPASS", "BYPASS"]
    upstream.will_send(plain(ANSWER).removesuffix(ANSWER))
    heads = [await proxy.send("HEAD", CHAT) for _ in range(2)]
    assert [answer.get("x-cache-status") for answer in heads] == ["BYPASS", "BYPASS"]
    assert upstream.requests_seen == 10
