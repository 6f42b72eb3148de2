"""No request has its answer given to another one that the upstream would have read differently, seen from outside."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import orjson
import pytest

from proxy.store.reading import RECORDING_DAMAGED
from tests.conftest import Log, StartProxy
from tests.exchanges import key_of, store_of, until
from tests.harness import CHAT, Barrier, Proxy, Received, Response, ScriptedUpstream, plain, request_bytes
from tests.lookalikes import like, tree, written
from tests.reference_json import NotJson, read
from tests.shelves import plant

JSON = ("Content-Type", "application/json")
TARGETS = [CHAT] * 6 + [f"{CHAT}?", f"{CHAT}?a=1&b=2", f"{CHAT}?b=2&a=1", "/v1/completions"]
CALLERS = [("Authorization", "Bearer sk-a")] * 4 + [
    ("Authorization", "bearer sk-a"),
    ("Api-Key", "sk-a"),
    ("Cookie", "sk-a"),
]
Fields = list[tuple[str, str]]
BETAS: list[Fields] = [[]] * 6 + [
    [("OpenAI-Beta", "")],
    [("OpenAI-Beta", "a")],
    [("openai_beta", "a")],
    [("OpenAI-Beta", "a"), ("OpenAI-Beta", "b")],
    [("OpenAI-Beta", "a, b")],
    [("OpenAI-Beta", "a"), ("Connection", "openai-beta")],
]
SETS: list[Fields] = [[]] * 6 + [[("X-Reprise-Namespace", "1")], [("X-Reprise-Sample", "1")]]
PARTS_OF_THE_KEY = ["authorization", "api-key", "cookie", "openai-beta", "openai_beta", "x-set"]


class Telltale:
    """Lets the upstream answer each request with its number, when it may."""

    def __init__(self, upstream: ScriptedUpstream, answers: int) -> None:
        self._upstream = upstream
        self._barriers = [Barrier() for _ in range(answers)]
        for number, barrier in enumerate(self._barriers):
            upstream.will_send(barrier, plain(b'{"made_for":%d}' % number))

    def answer(self, further: int) -> None:
        """Answer those that wait, and so many more."""
        for barrier in self._barriers[: self._upstream.requests_seen + further]:
            barrier.release()

    async def made_for(self, response: Response) -> Received:
        """The request that an answer was made for."""
        return self._upstream.received[int(str((await response.json())["made_for"]))]


@dataclass(frozen=True)
class Asked:
    """A request to a cached route."""

    body: bytes
    target: str = CHAT
    fields: Sequence[tuple[str, str]] = ()

    async def send(self, proxy: Proxy) -> Response:
        return await proxy.send("POST", self.target, [JSON, *self.fields], self.body)

    def check(self, word: str | None, made_for: Received) -> None:
        """Hold the request that the answer was made for against this one."""
        assert made_for.request_line == f"POST {self.target} HTTP/1.1"
        assert parts_of_the_key(made_for) == parts_of_the_key(Received(request_bytes("POST", "/", self.fields), b""))
        if word in ("HIT", "JOINED"):
            assert said(made_for.body) == said(self.body)
        else:
            assert made_for.body == self.body


def parts_of_the_key(received: Received) -> list[list[str]]:
    nominated = received.header("connection")
    return [[] if name in nominated else received.header(name) for name in PARTS_OF_THE_KEY]


def said(body: bytes) -> str:
    """What a body says if it can be read in one way only; else it is nothing but itself."""
    with suppress(NotJson):
        reading = read(body)
        if not reading.doubts:
            return reading.said
    return repr(body)


def round_of(random: Random, requests: int) -> list[Asked]:
    """Requests that look alike; most differ in their bodies, some in the rest."""
    first = tree(random)
    bodies = [written(first, random), *(written(like(first, random), random) for _ in range(requests - 1))]
    rests = [(random.choice(TARGETS), fields(random)) for _ in range(2)]
    return [Asked(body, *random.choices(rests, [3, 1])[0]) for body in bodies]


def fields(random: Random) -> Fields:
    own = random.choice(SETS)
    # Noise to the proxy, so that the upstream can tell whose set it is.
    return [random.choice(CALLERS), *random.choice(BETAS), *own, *(("X-Set", f"{name} {value}") for name, value in own)]


async def test_what_is_replayed_was_made_for_a_request_that_says_the_same(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """One after the other, hundreds of requests that are hard to tell apart."""
    proxy, telltale, told = await start_proxy(cache__scope="credential"), Telltale(upstream, 600), Counter[str | None]()
    telltale.answer(600)
    random = Random(1)  # noqa: S311 - no secret

    for _ in range(100):
        for asked in round_of(random, 5):
            response = await asked.send(proxy)
            told[response.get("x-cache-status")] += 1
            asked.check(response.get("x-cache-status"), await telltale.made_for(response))

    assert set(told) == {"MISS", "HIT", "BYPASS"}
    assert min(told.values()) > 30


async def test_what_is_shared_was_made_for_a_request_that_says_the_same(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """At a time."""
    proxy, telltale, told = await start_proxy(cache__scope="credential"), Telltale(upstream, 500), Counter[str | None]()
    random = Random(2)  # noqa: S311 - no secret

    for _ in range(40):
        together = round_of(random, 6)
        sending = [asyncio.create_task(asked.send(proxy)) for asked in together]
        await until(lambda: proxy.app._traffic.active + sum(task.done() for task in sending) == len(sending))  # noqa: B023
        telltale.answer(len(sending))
        for asked, response in zip(together, await asyncio.gather(*sending), strict=True):
            told[response.get("x-cache-status")] += 1
            asked.check(response.get("x-cache-status"), await telltale.made_for(response))

    assert {"MISS", "JOINED", "BYPASS"} <= set(told)
    assert told["JOINED"] > 30


# Attacks: requests made so that a victim's gets their answer


@dataclass(frozen=True)
class Attack:
    """What an attacker does to the victim's request."""

    before: bytes = b""
    after: bytes = b""
    replace: tuple[bytes, bytes] = (b"", b"")
    encoding: str = "utf-8"
    fields: Sequence[tuple[str, str]] = (JSON,)
    method: str = "POST"
    target: str = CHAT
    version: str = "1.1"
    chunked: Sequence[bytes] = field(default=())
    """The pieces of the framing around the body: before it, behind it."""

    def raw(self, body: bytes) -> bytes:
        body = self.before + body.replace(*self.replace).decode().encode(self.encoding) + self.after
        if self.chunked:
            begin, end = self.chunked
            head = request_bytes(self.method, self.target, [*self.fields, ("Transfer-Encoding", "chunked")])
            return head + b"%x%b\r\n%b\r\n0\r\n%b\r\n" % (len(body), begin, body, end)
        return request_bytes(self.method, self.target, self.fields, body, self.version)


def with_header(name: str, value: str, *others: tuple[str, str]) -> Attack:
    return Attack(fields=(JSON, (name, value), *others))


def with_type(*types: str) -> Attack:
    return Attack(fields=[("Content-Type", each) for each in types])


ATTACKS: Mapping[str, Attack] = {
    "a name twice, last": Attack(replace=(b"}", b',"model":"x"}')),
    "a name twice, first": Attack(replace=(b"{", b'{"model":"x",')),
    "a name twice, escaped": Attack(replace=(b"}", b',"mode\\u006c":"x"}')),
    "a name twice, in capitals": Attack(replace=(b"}", b',"MODEL":"x"}')),
    "a name twice, to a reader in C": Attack(replace=(b"}", b',"model\\u0000":"x"}')),
    "another number": Attack(replace=(b"1.0", b"1")),
    "a byte order mark": Attack(before=b"\xef\xbb\xbf"),
    "UTF-16": Attack(encoding="utf-16"),
    "UTF-16 without a mark": Attack(encoding="utf-16-le"),
    "UTF-32": Attack(encoding="utf-32-be"),
    "UTF-16, said": Attack(encoding="utf-16", fields=[("Content-Type", "application/json; charset=utf-16")]),
    "a second document": Attack(after=b'{"model":"x"}'),
    "a second line": Attack(after=b'\n{"model":"x"}'),
    "NUL behind it": Attack(after=b"\0"),
    "text behind it": Attack(after=b"x"),
    "a comment before it": Attack(before=b"/**/"),
    "no type": with_type(),
    "another type": with_type("text/plain"),
    "a form": with_type("application/x-www-form-urlencoded"),
    "two types": with_type("application/json", "text/plain"),
    "two types in one": with_type("application/json, text/plain"),
    "two types behind a parameter": with_type("application/json; x=y, text/plain"),
    "another charset": with_type("application/json; charset=utf-7"),
    "another charset, the long way": with_type("application/json; charset*=utf-7"),
    "another charset, quoted": with_type('application/json; charset="utf\\-7"'),
    "a type of its own": with_type("application/vnd.api+json"),
    "the charset it has": with_type("application/json; charset=utf-8"),
    "compressed": with_header("Content-Encoding", "gzip"),
    "compressed twice": with_header("Content-Encoding", "identity, gzip"),
    "compressed, taken away": with_header("Content-Encoding", "gzip", ("Connection", "content-encoding")),
    "another type, taken away": Attack(fields=[("Content-Type", "text/plain"), ("Connection", "content-type")]),
    "another method": with_header("X-HTTP-Method-Override", "GET"),
    "another method to CGI": with_header("X_HTTP_METHOD_OVERRIDE", "GET"),
    "another method, taken away": with_header("X-Http-Method", "GET", ("Connection", "x-http-method")),
    "another target": with_header("X-Original-URL", "/v1/models"),
    "a beta": with_header("OpenAI-Beta", "x"),
    "an empty beta": with_header("OpenAI-Beta", ""),
    "a beta to CGI": with_header("OpenAI_Beta", "x"),
    "a beta, taken away": with_header("OpenAI-Beta", "x", ("Connection", "openai-beta")),
    "a beta, taken away in a list": with_header("OpenAI-Beta", "x", ("Connection", "close, OPENAI-BETA ,te")),
    "a beta, not quite taken away": with_header("OpenAI-Beta", "x", ("Connection", '"openai-beta"')),
    "a beta on a folded line": with_header("X-Other", "a\r\n OpenAI-Beta: x"),
    "a beta behind a blank": with_header("OpenAI-Beta ", "x"),
    "a beta in a trailer": Attack(chunked=[b"", b"OpenAI-Beta: x\r\n"]),
    "a namespace": with_header("X-Reprise-Namespace", "x"),
    "a namespace, taken away": with_header("X-Reprise-Namespace", "x", ("Connection", "x-reprise-namespace")),
    "a sample": with_header("X-Reprise-Sample", "1"),
    "chunks": Attack(chunked=[b"", b""]),
    "chunks with extensions": Attack(chunked=[b";a=b", b""]),
    "chunks and a length": with_header("Transfer-Encoding", "chunked"),
    "two lengths": with_header("Content-Length", "2"),
    "an invitation": with_header("Expect", "100-continue"),
    "another expectation": with_header("Expect", "magic"),
    "HTTP/1.0": Attack(version="1.0"),
    "HTTP/1.2": Attack(version="1.2"),
    "another host": with_header("Host", "evil.test"),
    **{
        f"the target {target}": Attack(target=target)
        for target in (
            *(
                f"{CHAT}/",
                f"{CHAT};x",
                f"{CHAT}?",
                f"{CHAT}?a=1",
                f"{CHAT}%20",
                f"{CHAT}%00",
                f"{CHAT}#x",
                f"{CHAT}?#x",
            ),
            *("/v1//chat/completions", "//v1/chat/completions", "/v1/%63hat/completions", "/v1/chat%2Fcompletions"),
            *("/v1/./chat/completions", "/v1/x/../chat/completions", "/V1/chat/completions", "/v1\\chat/completions"),
            *("http://evil.test/v1/chat/completions", "/v1/completions", "/v1/responses", "*"),
        )
    },
    **{
        f"the method {method}": Attack(method=method) for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "post")
    },
    "the method HEAD": Attack(method="HEAD"),
}
PLAIN_TYPES = [["application/json"], ["application/json; charset=utf-8"]]
NOISE = {"host", "content-length", "accept-encoding", "content-type"}


async def strike(proxy: Proxy, attack: Attack, body: bytes) -> None:
    """Send it, and take what comes."""
    connection = await proxy.connect()
    connection.send(attack.raw(body))
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        response = await connection.response(attack.method)
        if response.status == 100:
            response = await connection.response(attack.method)
        await response.body()


@pytest.mark.parametrize("at_once", [False, True], ids=["before", "at the same time"])
async def test_an_attack_has_no_victim(at_once: bool, proxy: Proxy, upstream: ScriptedUpstream) -> None:  # noqa: FBT001
    """Whoever asks honestly is answered by what the upstream said to that very question, and so is the next one."""
    telltale = Telltale(upstream, 3 * len(ATTACKS))

    for name, attack in ATTACKS.items():
        body = orjson.dumps({"model": "m", "attack": name, "temperature": 1.0})
        before = upstream.requests_seen
        striking = asyncio.create_task(strike(proxy, attack, body))
        if at_once:
            await until(lambda: upstream.requests_seen > before or striking.done())  # noqa: B023
        else:
            telltale.answer(1)
            await striking
        asking = asyncio.create_task(Asked(body).send(proxy))
        await until(lambda: proxy.app._traffic.active + striking.done() + asking.done() == 2)  # noqa: B023
        telltale.answer(2)
        await striking

        for answer in (await asking, await Asked(body).send(proxy)):
            made_for = await telltale.made_for(answer)
            others = {line.split(b":")[0].decode().lower() for line in made_for.head.strip().split(b"\r\n")[1:]} - NOISE
            assert (made_for.request_line, said(made_for.body)) == (f"POST {CHAT} HTTP/1.1", said(body)), name
            assert (others, made_for.header("content-type") in PLAIN_TYPES) == (set(), True), name
        assert answer.get("x-cache-status") == "HIT", name


async def test_recordings_that_have_changed_places_answer_nothing(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path, log: Log
) -> None:
    """An entry names its key, and whoever moves its row to another one has only damaged it."""
    proxy, telltale = await start_proxy(cache__memory_limit=0), Telltale(upstream, 4)
    telltale.answer(4)
    both = [Asked(b'{"model":"%d"}' % number) for number in range(2)]
    keys = []
    for asked in both:
        response = await asked.send(proxy)
        keys.append(key_of(response))
        await response.body()
    await until(lambda: not store_of(proxy)._waiting)

    for key, moved_to in ((keys[0], "between"), (keys[1], keys[0]), ("between", keys[1])):
        plant(tmp_path / "store", "UPDATE Cache SET key = ? WHERE key = ?", moved_to, key)

    for expected in ("MISS", "HIT"):
        for asked in both:
            response = await asked.send(proxy)
            assert response.get("x-cache-status") == expected
            asked.check("MISS", await telltale.made_for(response))
    assert [line["key"] for line in log.lines(RECORDING_DAMAGED)] == keys
