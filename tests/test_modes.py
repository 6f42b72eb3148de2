"""What `cache.mode`, a request's own `Cache-Control` and the age of a recording make of it (contract section 4)."""

from itertools import count

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.recording import Recording
from tests.conftest import Log, StartProxy
from tests.exchanges import keep_copy, recording_of, word
from tests.harness import (
    ANSWER,
    CHAT,
    PROMPT,
    Barrier,
    Proxy,
    Response,
    ScriptedUpstream,
    plain,
    request_bytes,
)

MODES = ("cache", "record", "replay", "passthrough")
TTL_S = 3600
AGES = {"nothing": None, "fresh": 60, "too old": 7200}
"""What is recorded, and how old it is."""

TABLE = {
    # mode: what is done on a hit, and on a miss
    "cache": ("replay", "record"),
    "record": ("record", "record"),
    "replay": ("replay", "refuse"),
    "passthrough": ("forward", "forward"),
}


def expected(mode: str, directives: frozenset[str], age_s: int | None) -> tuple[str, str | None]:
    """What the contract says is done, and in which word the client hears of it."""
    on_hit, on_miss = TABLE[mode]
    too_old = age_s is not None and age_s > TTL_S and mode != "replay"
    too_old_for_it = "max-age=30" in directives or ("max-age=3600" in directives and age_s == AGES["too old"])
    will_do = age_s is not None and not too_old and not too_old_for_it and "no-cache" not in directives
    action = on_hit if will_do else on_miss
    if "only-if-cached" in directives and action != "replay":
        action = "refuse"
    if "no-store" in directives and action == "record":
        action = "forward"
    if action in ("replay", "refuse"):
        return action, "HIT" if action == "replay" else None
    if mode == "cache" and "no-cache" not in directives:
        return action, "MISS" if age_s is None else "STALE"
    return action, "REFRESH" if action == "record" else "BYPASS"


DIRECTIVES = ["no-cache", "no-store", "only-if-cached", "max-age=30", "max-age=3600", "no-transform", 'x="a, no-store"']


@st.composite
def spelled(draw: st.DrawFn) -> tuple[frozenset[str], list[tuple[str, str]]]:
    """Some directives, and header lines that say them in one of many ways."""
    directives = draw(st.lists(st.sampled_from(DIRECTIVES), unique=True, max_size=4))
    cased = [directive.upper() if draw(st.booleans()) else directive for directive in directives]
    at = draw(st.integers(0, len(cased)))
    separator = draw(st.sampled_from([",", ", ", " ,\t"]))
    lines = [separator.join(part) for part in (cased[:at], cased[at:]) if part]
    return frozenset(directives), [(draw(st.sampled_from(["Cache-Control", "cache-control"])), line) for line in lines]


class Stage:
    """A proxy in one mode, and what is recorded for it anew for each example, under a namespace of its own."""

    def __init__(self, proxy: Proxy, recording: Recording, upstream: ScriptedUpstream) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self._recording = recording
        self._examples = count()

    def set(self, age_s: int | None) -> str:
        namespace = f"example-{next(self._examples)}"
        if age_s is not None:
            keep_copy(self.proxy, self._recording, namespace=namespace, age_s=age_s)
        return namespace

    async def ask(self, namespace: str, lines: list[tuple[str, str]]) -> Response:
        fields = [("Content-Type", "application/json"), ("X-Reprise-Namespace", namespace), *lines]
        return await self.proxy.send("POST", CHAT, fields, orjson.dumps(PROMPT))


@pytest.fixture(params=MODES)
async def stage(request: pytest.FixtureRequest, start_proxy: StartProxy, upstream: ScriptedUpstream) -> Stage:
    upstream.will_send(plain(ANSWER))
    recorder = await start_proxy()
    recording = await recording_of(recorder, await recorder.ask())
    await recorder.app.stop()
    proxy = await start_proxy(cache__mode=request.param, cache__ttl=TTL_S)
    return Stage(proxy, recording, upstream)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=spelled(), recorded=st.sampled_from(sorted(AGES)))
async def test_mode_and_directives_together_decide(
    stage: Stage, log: Log, asked: tuple[frozenset[str], list[tuple[str, str]]], recorded: str
) -> None:
    """Whatever is recorded, in whatever spelling, order and number of lines: the table and nothing else."""
    directives, lines = asked
    mode = stage.proxy.app._settings.cache.mode
    action, cache_word = expected(mode, directives, AGES[recorded])
    namespace = stage.set(AGES[recorded])
    before, logged = stage.upstream.requests_seen, len(log.lines())

    response = await stage.ask(namespace, lines)

    assert response.status == (504 if action == "refuse" else 200)
    assert response.get("x-cache-status") == cache_word
    if action == "refuse":
        assert response.get("x-should-retry") == "false"
        assert b'"replay_miss"' in await response.body()
    else:
        assert await response.body() == ANSWER
    assert stage.upstream.requests_seen - before == (action in ("record", "forward"))
    assert (await log.line(logged))["stored"] == (action == "record")


@pytest.mark.parametrize(
    ("mode", "directives", "later"),
    [
        ("cache", "", "found"),
        ("cache", "no-cache", "found"),
        ("cache", "no-store", "not found"),
        ("cache", "no-cache, no-store", "not found"),
        ("cache", "max-age=0", "found"),
        ("record", "", "found"),
        ("record", "no-cache", "found"),
        ("record", "no-store", "not found"),
        ("passthrough", "", "not found"),
        ("passthrough", "no-cache", "not found"),
    ],
)
async def test_what_is_recorded_is_there_for_the_next_proxy(
    mode: str, directives: str, later: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """And what is not recorded is not."""
    upstream.will_send(plain(ANSWER))
    first = await start_proxy(cache__mode=mode)
    assert (await first.ask(headers={"Cache-Control": directives})).status == 200
    await first.app.stop()

    second = await start_proxy(cache__mode="replay")

    assert (await second.ask()).status == (200 if later == "found" else 504)
    assert upstream.requests_seen == 1


NEWER = b'{"choices":[{"index":0,"message":{"content":"Newer"}}]}'


@pytest.mark.parametrize(("mode", "directives"), [("cache", "no-cache"), ("record", ""), ("cache", "max-age=0")])
async def test_what_is_fetched_again_takes_the_place_of_what_was_there(
    mode: str, directives: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """From then on the newer answer is replayed."""
    upstream.will_send(plain(ANSWER))
    first = await start_proxy()
    await word(first.ask())
    await first.app.stop()
    upstream.will_send(plain(NEWER))
    second = await start_proxy(cache__mode=mode)
    assert await (await second.ask(headers={"Cache-Control": directives})).body() == NEWER
    await second.app.stop()

    third = await start_proxy()

    hit = await third.ask()
    assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", NEWER)


@pytest.mark.parametrize("directives", ["no-cache", "max-age=0"])
async def test_what_is_fetched_again_in_vain_leaves_what_was_there(
    directives: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """An error is no recording, and drives none out."""
    upstream.will_send(plain(ANSWER))
    upstream.will_send(plain(b"{}", status=b"500 Internal Server Error"))
    await word(proxy.ask())

    failed = await proxy.ask(headers={"Cache-Control": directives})

    assert (failed.status, await failed.body()) == (500, b"{}")
    hit = await proxy.ask()
    assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", ANSWER)


async def test_no_store_takes_what_is_there(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It forbids to record, not to answer."""
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask())

    assert await word(proxy.ask(headers={"Cache-Control": "no-store"})) == "HIT"


async def test_only_if_cached_finds_what_is_on_disk_while_another_asks_anew(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """That a newer answer is on its way takes nothing away from the one that is there."""
    barrier = Barrier()
    upstream.will_send(plain(ANSWER))
    upstream.will_send(barrier, plain(NEWER))
    recorder = await start_proxy()
    await word(recorder.ask())
    await recorder.app.stop()
    proxy = await start_proxy()
    connection = await proxy.connect()
    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-cache")]
    connection.send(request_bytes("POST", CHAT, fields, orjson.dumps(PROMPT)))
    await barrier.reached.wait()

    old = await proxy.ask(headers={"Cache-Control": "only-if-cached"})

    assert (old.status, await old.body()) == (200, ANSWER)
    barrier.release()
    assert await (await connection.response()).body() == NEWER


@pytest.mark.parametrize(
    "line", ["max-age", "max-age=", "max-age=x", "max-age=-1", "max-age=1.5", "no-store, MAX-AGE=soon", "max-age=1s"]
)
async def test_an_age_that_is_no_number_is_refused(line: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """In OpenAI's form, and without asking the upstream."""
    response = await proxy.ask(headers={"Cache-Control": line})

    assert response.status == 400
    assert b'"bad_request"' in await response.body()
    assert upstream.requests_seen == 0
