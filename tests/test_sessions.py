"""Sessions: within one, the n-th request for the same gets the n-th answer, when it is recorded and ever after."""

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BadRequest
from proxy.sessions import Sessions, Turn
from tests.conftest import StartProxy
from tests.exchanges import key_of, left, start_asking, take, until, word, words
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    settings,
    sse_head,
)

ANSWERS = [b'{"number":%d}' % number for number in range(6)]
BROKEN = b'{"error":{"message":"overloaded"}}'
ONE, OTHER = {"X-Reprise-Session": "one"}, {"X-Reprise-Session": "other"}


def will_number(upstream: ScriptedUpstream) -> None:
    """Each request gets an answer of its own."""
    for answer in ANSWERS:
        upstream.will_send(plain(answer))


async def told(response: Response) -> tuple[str | None, bytes]:
    return response.get("x-cache-status"), await response.body()


# What is counted


async def test_the_nth_request_gets_the_nth_answer(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """The first time they are recorded in their order, in every session after that they are replayed in it."""
    will_number(upstream)

    first = [await told(await proxy.ask(headers=ONE)) for _ in range(3)]
    again = [await told(await proxy.ask(headers=OTHER)) for _ in range(3)]

    assert first == [("MISS", answer) for answer in ANSWERS[:3]]
    assert again == [("HIT", answer) for answer in ANSWERS[:3]]
    assert upstream.requests_seen == 3


async def test_its_answers_are_the_samples_of_a_prompt(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Counted from 0, which is what is asked for without a session; its name is no part of a key."""
    will_number(upstream)
    keys = [key_of(await proxy.ask(headers=ONE)) for _ in range(3)]

    asked = [{}, {"X-Reprise-Sample": "1"}, {"X-Reprise-Sample": "2"}]
    found = [await proxy.ask(headers=headers) for headers in asked]

    assert [key_of(response) for response in found] == keys
    assert [await told(response) for response in found] == [("HIT", answer) for answer in ANSWERS[:3]]


async def test_each_prompt_is_counted_by_itself(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """A prompt is what has a key: however it is spelled, and whatever the rules take out of it."""
    rule = {"pointer": "/messages/*/content", "pattern": r"\d+", "replace": "N"}
    proxy = await start_proxy(cache__normalize=[rule], cache__ignore="/user")
    will_number(upstream)
    prompts = [
        orjson.dumps({"messages": [{"content": "Run 1"}], "user": "a"}),
        orjson.dumps({"messages": [{"content": "Hello"}]}),
        orjson.dumps({"user": "b", "messages": [{"content": "Run 2"}]}, option=orjson.OPT_INDENT_2),
        orjson.dumps({"messages": [{"content": "Hello"}]}),
    ]

    recorded = [await told(await proxy.ask(prompt, headers=ONE)) for prompt in prompts]
    replayed = [await told(await proxy.ask(prompts[number], headers=OTHER)) for number in (1, 3, 0, 2)]

    assert recorded == [("MISS", answer) for answer in ANSWERS[:4]]
    assert replayed == [("HIT", ANSWERS[number]) for number in (1, 3, 0, 2)]


async def test_namespaces_and_callers_are_counted_apart(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Where recordings are kept apart, so are their numbers."""
    proxy = await start_proxy(cache__scope="credential")
    will_number(upstream)
    mine = {**ONE, "Authorization": "Bearer sk-mine"}
    yours = {**ONE, "Authorization": "Bearer sk-yours"}
    apart = {**mine, "X-Reprise-Namespace": "apart"}

    assert await words(*(proxy.ask(headers=asked) for asked in (mine, yours, apart))) == ["MISS"] * 3
    plainly = [{name: value for name, value in asked.items() if name not in ONE} for asked in (mine, yours, apart)]
    assert [await told(await proxy.ask(headers=asked)) for asked in plainly] == [
        ("HIT", answer) for answer in ANSWERS[:3]
    ]


async def test_two_at_the_same_time_are_two(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """They ask for different answers, so neither joins the other; in two sessions they ask for the same one."""
    barriers = [Barrier(), Barrier()]
    for answer, barrier in zip(ANSWERS, barriers, strict=False):
        upstream.will_send(barrier, plain(answer))

    first = await start_asking(proxy, PROMPT, *ONE.items())
    await upstream.wait_until(lambda: upstream.requests_seen == 1)
    second = await start_asking(proxy, PROMPT, *ONE.items())
    await upstream.wait_until(lambda: upstream.requests_seen == 2)
    joined = await start_asking(proxy, PROMPT, *OTHER.items())
    await until(lambda: proxy.app._traffic.active == 3)
    for barrier in reversed(barriers):
        barrier.release()

    responses = [await connection.response("POST") for connection in (first, second, joined)]
    assert [await told(response) for response in responses] == [
        ("MISS", ANSWERS[0]),
        ("MISS", ANSWERS[1]),
        ("JOINED", ANSWERS[0]),
    ]
    assert upstream.requests_seen == 2


@pytest.mark.parametrize("fast_lane", ["true", "false"])
async def test_a_request_that_is_known_by_its_bytes_is_counted(
    fast_lane: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Nothing that is remembered of its head or its body says which answer it gets."""
    proxy = await start_proxy(server__fast_lane=fast_lane)
    will_number(upstream)
    await words(*(proxy.ask(headers=ONE) for _ in range(4)))
    for _ in range(3):
        await word(proxy.ask(headers={}))  # so that its body, and its key without a session, are known

    fields = [("Content-Type", "application/json"), *OTHER.items()]
    connection, found = await proxy.connect(), []
    for _ in range(4):
        connection.send(request_bytes("POST", CHAT, fields, orjson.dumps(PROMPT)))
        found.append(await told(await connection.response("POST")))

    assert found == [("HIT", answer) for answer in ANSWERS[:4]]
    assert not any(known.intake.controls.session for known in proxy.app._gateway.lane._known.values())


@pytest.mark.parametrize("length", [1, 40_000])
async def test_what_is_never_recorded_is_not_counted(length: int, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A request without a key, or one that is to leave no recording."""
    asked = {**PROMPT, "user": "u" * length}
    will_number(upstream)

    assert await words(
        proxy.ask(b"not JSON", headers=ONE),
        proxy.ask(asked, headers={**ONE, "Cache-Control": "no-store"}),
        proxy.ask(asked, headers=ONE),
        proxy.ask(asked, headers=ONE),
        proxy.ask(asked, headers={**OTHER, "Cache-Control": "no-store"}),
        proxy.ask(asked, headers=OTHER),
    ) == ["BYPASS", "MISS", "MISS", "MISS", "HIT", "HIT"]


# What becomes of a number


async def test_who_tries_again_after_an_error_asks_for_the_same_answer(
    proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """As SDKs do by themselves: what was recorded in the end has no gaps in it."""
    for status in (b"429 Too Many Requests", b"500 Internal Server Error"):
        upstream.will_send(plain(BROKEN, status=status))
    will_number(upstream)

    statuses = [(await proxy.ask(headers=ONE)).status for _ in range(4)]
    again = [await told(await proxy.ask(headers=OTHER)) for _ in range(2)]

    assert statuses == [429, 500, 200, 200]
    assert again == [("HIT", ANSWERS[0]), ("HIT", ANSWERS[1])]


async def test_who_leaves_has_asked_all_the_same(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Its answer is read to the end and recorded, so the next request is for another one, now and later."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD), chunk(DONE) + LAST_CHUNK)
    response = await proxy.ask(STREAMED, headers=ONE)
    await take(response, HELLO)
    await left(proxy, response)
    upstream.will_send(sse_head(), chunk(HELLO + HELLO + WORLD + DONE) + LAST_CHUNK)

    second = await told(await proxy.ask(STREAMED, headers=ONE))
    barrier.release()
    await proxy.app._flights.settle()

    assert second == ("MISS", HELLO + HELLO + WORLD + DONE)
    assert [await told(await proxy.ask(STREAMED, headers=OTHER)) for _ in range(2)] == [
        ("HIT", HELLO + WORLD + DONE),
        ("HIT", HELLO + HELLO + WORLD + DONE),
    ]


async def test_what_was_cancelled_is_asked_again(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Its client has left, nothing of it is kept, and the number is free for the next."""
    proxy = await start_proxy(cache__linger=0)
    upstream.will_send(sse_head(), chunk(HELLO), Barrier())
    response = await proxy.ask(STREAMED, headers=ONE)
    await take(response, HELLO)
    key = key_of(response)
    await left(proxy, response)
    await upstream.wait_until(lambda: upstream.connections == 0)
    upstream.will_send(sse_head(), chunk(WORLD + DONE) + LAST_CHUNK)

    again = await proxy.ask(STREAMED, headers=ONE)

    assert (key_of(again), await told(again)) == (key, ("MISS", WORLD + DONE))


@pytest.mark.parametrize("fault", ["cut-after=0", "cut-after=1", "error-event=1", "status=500"])
@pytest.mark.parametrize("source", ["MISS", "HIT"])
async def test_who_tries_again_after_a_fault_on_demand_asks_for_the_same_answer(
    fault: str, source: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Whether it was recorded before or is since then, and as often as it fails; then the next one is due."""
    proxy = await start_proxy(server__allow_faults="true")
    answers = [HELLO * number + WORLD + DONE for number in (1, 2)]
    for answer in answers:
        upstream.will_send(sse_head(), chunk(answer) + LAST_CHUNK)
    if source == "HIT":
        await words(*(proxy.ask(STREAMED, headers=OTHER) for _ in answers))

    for answer in answers:
        for _ in range(2):
            failing = await proxy.ask(STREAMED, headers={**ONE, "X-Reprise-Fault": fault})
            await (failing.body_broken_off() if fault.startswith("cut") else failing.body())
            await proxy.app._flights.settle()
        assert (await told(await proxy.ask(STREAMED, headers=ONE)))[1] == answer

    assert upstream.requests_seen == len(answers)


async def test_who_gives_up_on_a_fault_on_demand_asks_for_the_same_answer(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """A time-out was what it wanted to test; without a fault, who leaves has asked all the same."""
    proxy = await start_proxy(server__allow_faults="true")
    will_number(upstream)
    await words(proxy.ask(headers=OTHER), proxy.ask(headers=OTHER))

    waiting = await start_asking(proxy, PROMPT, *ONE.items(), ("X-Reprise-Fault", "first-byte=60s"))
    await until(lambda: proxy.app._traffic.active == 1)
    await waiting.close()
    await until(lambda: proxy.app._traffic.active == 0)

    assert await told(await proxy.ask(headers=ONE)) == ("HIT", ANSWERS[0])


async def test_a_fault_that_leaves_the_answer_whole_uses_its_number_up(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """A late answer is one."""
    proxy = await start_proxy(server__allow_faults="true")
    will_number(upstream)

    late = [await told(await proxy.ask(headers={**ONE, "X-Reprise-Fault": "gap=0ms"})) for _ in range(2)]

    assert late == [("MISS", ANSWERS[0]), ("MISS", ANSWERS[1])]


async def test_a_miss_that_may_not_be_forwarded_uses_nothing_up(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """However often it is asked for, it is the same answer that is missing."""
    recorder = await start_proxy()
    will_number(upstream)
    await words(recorder.ask(headers=ONE), recorder.ask(headers=ONE))
    await recorder.app.stop()
    proxy = await start_proxy(cache__mode="replay")

    found = [(await proxy.ask(headers=ONE)).status for _ in range(4)]
    messages = {await (await proxy.ask(headers=ONE)).body() for _ in range(2)}

    assert found == [200, 200, 504, 504]
    assert len(messages) == 1


async def test_other_settings_go_on_counting(proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """A session lasts as long as the process does."""
    will_number(upstream)
    await word(proxy.ask(headers=ONE))

    await proxy.app.reload(settings(upstream.base_url, tmp_path / "store", cache__ttl="1h"))

    assert await told(await proxy.ask(headers=ONE)) == ("MISS", ANSWERS[1])


# The table


@given(st.lists(st.tuples(st.sampled_from(["take", "use", "give back"]), st.integers(0, 5)), max_size=40))
def test_a_number_is_the_lowest_that_nobody_has(steps: list[tuple[str, int]]) -> None:
    """Whatever has been used up, and in whichever order the rest was given back."""
    sessions, used = Sessions(), set[int]()
    held: list[Turn] = []
    for step, which in steps:
        if step == "take" or not held:
            turn = sessions.next("s", "k")
            assert turn.number == min(set(range(99)) - used - {each.number for each in held})
            held.append(turn)
        elif step == "use":
            used.add(held.pop(which % len(held)).number)
        else:
            held.pop(which % len(held)).give_back()


def test_of_too_many_sessions_the_one_used_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, so that none goes on with a part of what it has asked."""
    monkeypatch.setattr("proxy.sessions._MOST_COUNTS", 4)
    sessions = Sessions()
    numbers = [sessions.next(name, key).number for name, key in ("1a", "1b", "2a", "3a", "1a")]
    assert numbers == [0, 0, 0, 0, 1]

    sessions.next("4", "a")

    assert [sessions.next(name, key).number for name, key in ("1a", "1b", "3a", "4a", "2a")] == [2, 1, 1, 1, 0]
    assert sessions._counts == sum(map(len, sessions._sessions.values())) <= 4


def test_a_session_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be its own counts that are forgotten; those that it has are still good."""
    monkeypatch.setattr("proxy.sessions._MOST_COUNTS", 2)
    sessions = Sessions()
    sessions.next("1", "a")
    sessions.next("1", "b")

    with pytest.raises(BadRequest, match="another name"):
        sessions.next("1", "c")

    assert sessions.next("1", "a").number == 1
    assert sessions.next("2", "c").number == 0
