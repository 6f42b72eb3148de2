"""Bodies that are meant to cost more than they weigh: JSON that is deep, wide, long, or full of numbers."""

import asyncio
from hashlib import sha256

from aiohttp.streams import EMPTY_PAYLOAD

from proxy import events
from proxy.connection import ClientConnection
from tests.by_hand import served
from tests.conftest import Log, StartProxy
from tests.exchanges import until, words
from tests.harness import ANSWER, CHAT, Barrier, Proxy, ScriptedUpstream, chunk, plain, request_bytes, sse_head
from tests.raw import MiB, still_serves

JSON = [("Content-Type", "application/json")]

COSTLY = {
    "arrays without an end": b"[" * 100_000,
    "objects without an end": b'{"a":' * 100_000,
    "arrays within arrays": b"[" * 100_000 + b"]" * 100_000,
    "arrays in an object": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects within objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "just too deep to write": b'{"a":' * 255 + b"1" + b"}" * 255,
    "just too deep to read": b'{"a":' * 1025 + b"1" + b"}" * 1025,
    "as deep as one may read": b'{"a":' * 1023 + b"1" + b"}" * 1023,
    "both, in turns": b'{"a":[' * 50_000 + b"]}" * 50_000,
    "brackets that close": b"]" * 100_000,
    "a number of many digits": b'{"seed":' + b"9" * 200_000 + b"}",
    "a fraction of many digits": b'{"seed":0.' + b"1" * 200_000 + b"e-400}",
    "an endless exponent": b'{"seed":1e' + b"9" * 200_000 + b"}",
    "a number that is too small": b'{"seed":1e-99999}',
    "minus signs": b'{"seed":' + b"-" * 100_000 + b"1}",
    "no end of a text": b'{"a":"' + b"a" * 200_000,
    "backslashes": b'{"a":"' + b"\\" * 100_001 + b'"}',
    "half of a pair": b'{"a":"' + b"\\ud800" * 10_000 + b'"}',
    "bytes that are no text": b'{"a":"' + bytes(range(0x80, 0x100)) * 100 + b'"}',
    "NULs": bytes(100_000),
    "white space": b" " * 200_000,
    "commas": b"{" + b"," * 100_000 + b"}",
    "one name many times": b"{" + b",".join([b'"a":1'] * 20_000) + b"}",
}


async def test_costly_json_is_passed_on_and_nothing_more(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """Whatever it is, it is the upstream's to judge: it gets it unchanged, and no answer to it is recorded."""
    upstream.will_send(plain(ANSWER))

    heard = {form: await words(proxy.ask(body), proxy.ask(body)) for form, body in COSTLY.items()}

    assert heard == {form: ["BYPASS", "BYPASS"] for form in COSTLY}
    assert [received.body for received in upstream.received] == [body for body in COSTLY.values() for _ in range(2)]
    assert not log.lines(events.CRASHED)


WIDE = {
    "members": b"{" + b",".join(b'"%d":1' % number for number in range(20_000)) + b"}",
    "elements": b'{"input":[' + b",".join([b"1"] * 50_000) + b"]}",
    "empty arrays": b'{"input":[' + b",".join([b"[]"] * 50_000) + b"]}",
    "a text": b'{"input":"' + b"a" * 500_000 + b'"}',
    "escapes": b'{"input":"' + b"\\u0061" * 100_000 + b'"}',
    "a name": b'{"' + b"a" * 500_000 + b'":1}',
    "as deep as one may write": b'{"a":' * 254 + b"1" + b"}" * 254,
    "all that stands between": b'{"input":1' + b" \n\t\r" * 100_000 + b"}",
}


async def test_a_question_may_be_large(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """What has one reading only is a question like any other."""
    upstream.will_send(plain(ANSWER))

    heard = {form: await words(proxy.ask(body), proxy.ask(body)) for form, body in WIDE.items()}

    assert heard == {form: ["MISS", "HIT"] for form in WIDE}
    assert [received.body for received in upstream.received] == list(WIDE.values())


async def test_streams_flow_while_a_large_question_is_read(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """60 MiB take a while to read for the key; that is nobody else's time."""
    steps = [Barrier() for _ in range(2000)]
    upstream.will_send(sse_head(), *[part for step in steps for part in (step, chunk(b": step\n\n"))])
    upstream.will_send(plain(ANSWER))
    stream = await proxy.ask(b'{"stream":true}')
    image = b'{"role":"user","content":[{"type":"image_url","url":"' + b"A" * 58 * MiB + b'"}]}'
    short = b'{"role":"user","content":"Yes."}'
    body = b'{"messages":[' + b",".join([image, *[short] * 60_000]) + b"]}"
    connection = await proxy.connect()
    connection.send(request_bytes("POST", CHAT, JSON, body))
    asking = asyncio.create_task(connection.response())
    await until(lambda: len(served(proxy)) == 2)
    end = served(proxy)[1]
    assert isinstance(end, ClientConnection)

    while_it_is_read = 0
    for step in steps:
        is_here = end._newest_body is not EMPTY_PAYLOAD and end._newest_body.is_eof()
        is_asked = len(proxy.app._flights._by_key) == 2
        if is_asked:
            break
        step.release()
        assert await stream.next_chunk() == b": step\n\n"
        while_it_is_read += is_here

    assert while_it_is_read > 10
    assert (await asking).get("x-cache-status") == "MISS"
    assert sha256(upstream.received[1].body).digest() == sha256(body).digest()
    await stream.leave()


async def test_many_large_bodies_at_once_are_each_bounded(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """What a client says of the length of its body takes no memory before it comes."""
    proxy = await start_proxy()
    connections = [await proxy.connect() for _ in range(50)]
    for connection in connections:
        connection.send(request_bytes("POST", CHAT, [*JSON, ("Content-Length", str(64 * MiB))]))

    await still_serves(proxy, upstream)

    assert upstream.requests_seen == 1
