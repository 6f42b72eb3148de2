"""A miss that may not be forwarded names the recording that comes nearest, and how it differs."""

import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.difference import LONGEST_BYTES
from proxy.inquiry import ASKED_OTHERWISE, Inquiry
from proxy.key import SHARED_SCOPE, SHORT_KEY, cache_key
from proxy.recording import Recording
from proxy.store import search
from proxy.store.codec import encode, summary
from proxy.store.directory import DATABASE
from proxy.store.health import STORE_FAILED
from proxy.store.surveyor import Surveyor
from tests.conftest import Log, StartProxy
from tests.exchanges import key_of, start_asking, store_of, until, word
from tests.harness import ANSWER, CHAT, PROMPT, STREAMED, Proxy, Response, ScriptedUpstream, plain, stream
from tests.recordings import recording
from tests.shelves import put

ONLY = {"Cache-Control": "only-if-cached"}
NONE = "There is no recording to compare it with."
TOO_MANY = "Too many others are being compared with what is recorded;"

Record = Callable[..., Awaitable[list[Response]]]
Process = subprocess.Popen[bytes]


def chat(text: str, **members: object) -> dict[str, object]:
    return {**PROMPT, "messages": [{"role": "user", "content": text}], **members}


async def message(response: Response) -> str:
    """That of a miss, which tells SDKs not to try again."""
    error: Any = (await response.json())["error"]
    assert (response.status, error["code"], response.get("x-should-retry")) == (504, "replay_miss", "false")
    return str(error["message"])


def own_part(text: str) -> str:
    """What is said of other recordings, between the key of the request and what to do."""
    return text.partition(" To record it, ")[0].partition("key of this request, ")[2][64 + len(". ") :]


async def nearest(proxy: Proxy, asked: Mapping[str, object], **headers: str) -> str:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return own_part(await message(await proxy.ask(asked, headers=fields)))


@pytest.fixture
def record(start_proxy: StartProxy, upstream: ScriptedUpstream) -> Record:
    """A function that records answers to some requests, by way of a proxy that is stopped then; in their order."""

    async def record_all(
        *asked: Mapping[str, object], target: str = CHAT, headers: Mapping[str, str] | None = None, **overrides: object
    ) -> list[Response]:
        upstream.will_send(plain(ANSWER))
        recorder = await start_proxy(**overrides)
        answers = [await recorder.ask(each, target, headers) for each in asked]
        for answer in answers:
            await answer.body()
        await recorder.app.stop()
        return answers

    return record_all


async def test_a_miss_tells_what_changed(start_proxy: StartProxy, record: Record) -> None:
    """The recording, each place at which it differs, and both values there."""
    (recorded,) = await record(chat("The report of Tuesday, please.", temperature=0))
    proxy = await start_proxy(cache__mode="replay")

    told = await message(await proxy.ask(chat("The report of Wednesday, please.", temperature=0.2)))

    assert (
        f"The nearest recording is {key_of(recorded)[:SHORT_KEY]}: "
        "`/messages/0/content` differs at character 15: "
        "recorded `The report of Tuesday, please.`, asked `The report of Wednesday, please.`; "
        "`/temperature`: recorded `0`, asked `0.2`."
    ) in told
    assert told.startswith("The upstream is not asked, since cache.mode is replay. Nothing is recorded under the key ")
    assert told.endswith("`reprise explain` shows what its key is made of.")


async def test_of_many_recordings_the_nearest_is_told(start_proxy: StartProxy, record: Record) -> None:
    """The one of which least is to be changed, wherever in the request that is."""
    questions = [f"Question {number}: what is {number} times {number}?" for number in range(40)]
    system = "Answer in a number. " * 30

    def asking(text: str, system: str = system, **members: object) -> dict[str, object]:
        turns = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        return {**PROMPT, "messages": turns, **members}

    recorded = await record(*map(asking, questions))
    proxy = await start_proxy(cache__mode="replay")

    for number in (0, 17, 39):
        text, key = questions[number], key_of(recorded[number])[:SHORT_KEY]
        assert key in await nearest(proxy, asking(text + "!"))
        assert key in await nearest(proxy, asking(text, "Be brief."))
        told = await nearest(proxy, asking(text, model="gpt-5"))
        assert f"{key}: `/model` differs at character 5: recorded `gpt-4o-mini`, asked `gpt-5`." in told


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for in this process, where what bounds that can be made small."""

    def ask(surveyor: Surveyor, inquiry: Inquiry) -> str:
        return search._looked_up(inquiry, surveyor._directory, ())

    monkeypatch.setattr(Surveyor, "ask", ask)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("change", [{}, {"temperature": 0.5}])
async def test_prompts_of_one_template_are_told_apart(
    change: dict[str, object], start_proxy: StartProxy, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing shows the same of all of them, and they are more than are compared."""
    monkeypatch.setattr("proxy.nearest._MOST_COMPARED", 3)
    template = "Answer the question at the end of this with one letter, and with nothing else whatsoever, please: "
    questions = [template + f"which letter comes {number} places behind {chr(65 + number)}?" for number in range(12)]
    recorded = await record(chat("Another one"), *map(chat, questions), chat(template))
    proxy = await start_proxy(cache__mode="replay")

    for number in (0, 5, 11):
        told = await nearest(proxy, chat(questions[number].replace("which", "what"), **change))
        assert f"The nearest recording is {key_of(recorded[1 + number])[:SHORT_KEY]}: " in told


@pytest.mark.usefixtures("here")
async def test_the_latest_are_looked_at_of_too_many(
    start_proxy: StartProxy, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a store of millions is not gone through for a message; nor is what is too long unpacked."""
    monkeypatch.setattr("proxy.store.shelved._MOST_RECORDINGS", 2)
    recorded = await record(*(chat(f"Say {number}") for number in range(4)))
    proxy = await start_proxy(cache__mode="replay")

    assert key_of(recorded[2])[:SHORT_KEY] in await nearest(proxy, chat("Say 2!"))
    assert key_of(recorded[0])[:SHORT_KEY] not in await nearest(proxy, chat("Say 0!"))
    monkeypatch.setattr("proxy.store.shelved._LONGEST_BYTES", 10)
    assert await nearest(proxy, chat("Say 3!")) == NONE


async def test_what_is_no_part_of_the_body_is_told_too(start_proxy: StartProxy, record: Record) -> None:
    """Another sample, another route, a header that is part of the key."""
    await record(PROMPT, headers={"openai-beta": "a=1"})
    proxy = await start_proxy(cache__mode="replay")

    assert "`sample`: recorded `0`, asked `3`." in await nearest(
        proxy, PROMPT, **{"X-Reprise-Sample": "3", "openai-beta": "a=1"}
    )
    assert '`header openai-beta`: recorded `"a=1"`, asked nothing.' in await nearest(proxy, PROMPT)
    elsewhere = own_part(await message(await proxy.ask(PROMPT, "/v1/responses", {"openai-beta": "a=1"})))
    assert "`path` differs at character 5: recorded `/v1/chat/completions`, asked `/v1/responses`." in elsewhere


async def test_the_nearest_is_never_served(start_proxy: StartProxy, record: Record) -> None:
    """However near it is: not even where a stream is asked for and the same is recorded as a plain answer."""
    await record(PROMPT)
    proxy = await start_proxy(cache__mode="replay")

    for asked in (STREAMED, {**PROMPT, "stream": False}, {**PROMPT, "seed": None}, chat("Say hello. ")):
        response = await proxy.ask(asked)
        assert response.get("x-cache-status") is None
        assert "The nearest recording is " in await message(response)


async def test_nothing_is_told_of_another_namespace(start_proxy: StartProxy, record: Record) -> None:
    """They are kept apart for a reason; within one it is told as anywhere."""
    await record(chat("Mine"), headers={"X-Reprise-Namespace": "a"})
    proxy = await start_proxy(cache__mode="replay")

    assert await nearest(proxy, chat("Mine")) == NONE
    assert await nearest(proxy, chat("Mine"), **{"X-Reprise-Namespace": "b"}) == NONE
    assert "recorded `Mine`, asked `Yours`" in await nearest(proxy, chat("Yours"), **{"X-Reprise-Namespace": "a"})


@pytest.mark.parametrize("mode", ["replay", "cache"])
async def test_nothing_is_told_of_another_credential(mode: str, start_proxy: StartProxy, record: Record) -> None:
    """With `cache.scope: credential` a miss says the same whatever others have asked."""
    asked = chat("What do others ask?")
    empty = await start_proxy(cache__mode=mode, cache__scope="credential")
    before = await message(await empty.ask(asked, headers=ONLY))
    await empty.app.stop()
    await record(
        asked, chat("What do others say?"), cache__scope="credential", headers={"Authorization": "Bearer sk-1"}
    )
    proxy = await start_proxy(cache__mode=mode, cache__scope="credential")

    assert await message(await proxy.ask(asked, headers=ONLY)) == before
    assert own_part(before) == ""


async def test_of_what_was_recorded_for_one_credential_no_word_is_shown_to_all(
    start_proxy: StartProxy, record: Record
) -> None:
    """Where the scope was another one when it was recorded: only the places, and that the key is made otherwise."""
    (recorded,) = await record(chat("My secret is 4711"), cache__scope="credential")
    proxy = await start_proxy(cache__mode="replay")

    assert await nearest(proxy, chat("My secret is 4712")) == (
        f"The nearest recording, {key_of(recorded)[:SHORT_KEY]}, differs at `/messages/0/content`. "
        f"It was {ASKED_OTHERWISE}."
    )


@pytest.mark.parametrize("mode", ["cache", "record", "passthrough"])
async def test_where_the_cache_is_in_earnest_no_word_of_others_is_shown(
    mode: str, start_proxy: StartProxy, record: Record
) -> None:
    """`only-if-cached` hears at which places the nearest differs: neither what stands there nor how far it agrees."""
    (recorded,) = await record(chat("My secret is 4711", user="ada"))
    proxy = await start_proxy(cache__mode=mode)

    told = await message(await proxy.ask(chat("My secret is 4712", user="bob"), headers=ONLY))

    if mode == "cache":
        assert own_part(told) == (
            f"The nearest recording, {key_of(recorded)[:SHORT_KEY]}, differs at `/messages/0/content`; `/user`."
        )
    assert "4711" not in told
    assert "ada" not in told
    assert "character" not in told


@pytest.mark.parametrize(
    ("target", "overrides"), [(CHAT, {"upstream__name": "another"}), (f"{CHAT}?api-version=1", {})]
)
async def test_a_recording_of_another_upstream_or_query_is_told_as_that(
    target: str, overrides: dict[str, str], start_proxy: StartProxy, record: Record
) -> None:
    """It looks the same in every respect that a recording keeps."""
    (recorded,) = await record(PROMPT, target=target, **overrides)
    proxy = await start_proxy(cache__mode="replay")

    assert await nearest(proxy, PROMPT) == (
        f"Recording {key_of(recorded)[:SHORT_KEY]} answers the same request, {ASKED_OTHERWISE}."
    )


async def test_with_the_same_query_all_is_told(start_proxy: StartProxy, record: Record) -> None:
    """Some APIs want one with every request."""
    target = f"{CHAT}?api-version=1"
    await record(chat("Tuesday"), target=target)
    proxy = await start_proxy(cache__mode="replay")

    told = await message(await proxy.ask(chat("Wednesday"), target))

    assert "recorded `Tuesday`, asked `Wednesday`." in told


async def test_nothing_of_it_is_logged(start_proxy: StartProxy, record: Record, log: Log) -> None:
    """The message goes to the caller alone; the log has its code."""
    await record(chat("CANARY of the recording"))
    proxy = await start_proxy(cache__mode="replay")

    told = await nearest(proxy, chat("CANARY of the request"))

    assert "`CANARY of the recording`, asked `CANARY of the request`" in told
    line = await log.line(1)
    assert (line["error"], line["cache"], line["outcome"]) == ("replay_miss", "MISS", "rejected")
    assert "CANARY" not in log.getvalue()


async def test_a_message_is_short_whatever_is_asked(start_proxy: StartProxy, record: Record) -> None:
    """A kilobyte or so, in one line, for the largest requests and the oddest."""
    long = {f"member {number} " + "\x1b" * 50: "x" * 1000 for number in range(200)}
    await record(chat("a" * 100_000, metadata=long))
    proxy = await start_proxy(cache__mode="replay")

    told = await message(await proxy.ask(chat("\U000e0001" * 50_000, tools=[*range(5000)])))

    assert "The nearest recording is " in told
    assert len(told) < 1300
    assert told.isprintable()


async def test_a_request_that_is_too_long_is_not_compared(start_proxy: StartProxy, record: Record) -> None:
    """It takes as long as it takes to be refused."""
    await record(PROMPT)
    proxy = await start_proxy(cache__mode="replay")

    told = await nearest(proxy, chat("x" * LONGEST_BYTES))

    assert told == "It is too long, or has too much in it, to be compared with what is recorded."


async def test_a_body_that_was_read_before_is_compared_as_well(start_proxy: StartProxy, record: Record) -> None:
    """By the second time the proxy knows its key by its bytes alone; the store leaves out what the key leaves out."""
    await record(chat("Tuesday", user="ada"), cache__ignore="/user")
    proxy = await start_proxy(cache__mode="replay", cache__ignore="/user")

    told = [await nearest(proxy, chat("Wednesday", user="bob")) for _ in range(3)]

    assert len({*told}) == 1
    assert told[0].endswith(": `/messages/0/content` differs at character 1: recorded `Tuesday`, asked `Wednesday`.")


@pytest.fixture
async def held_up(start_proxy: StartProxy, record: Record, monkeypatch: pytest.MonkeyPatch) -> tuple[Proxy, Process]:
    """A proxy whose searching process has stopped."""
    monkeypatch.setattr("proxy.store.surveyor._LONGEST_S", 60.0)
    await record(chat("Tuesday"))
    proxy = await start_proxy(cache__mode="replay")
    await nearest(proxy, chat("Wednesday"))
    process = process_of(proxy)
    process.send_signal(signal.SIGSTOP)
    return proxy, process


async def test_one_is_looked_for_at_a_time_and_few_wait(held_up: tuple[Proxy, Process]) -> None:
    """Whoever comes when too many wait gets the short message at once; hits are served all along."""
    proxy, process = held_up
    waiting = [await start_asking(proxy, chat(f"Wednesday {number}")) for number in range(9)]
    await until_asked(proxy, 9)

    assert (await nearest(proxy, chat("Thursday"))).startswith(TOO_MANY)
    assert await word(proxy.ask(chat("Tuesday"))) == "HIT"

    process.send_signal(signal.SIGCONT)
    told = [own_part(await message(await connection.response())) for connection in waiting]
    assert all("recorded `Tuesday`, asked `Wednesday " in each for each in told)
    assert process_of(proxy) is process


async def test_those_who_have_left_keep_nobody_from_waiting(held_up: tuple[Proxy, Process]) -> None:
    """However many they were, and whether it was their turn or not."""
    proxy, process = held_up
    waiting = [await start_asking(proxy, chat(f"Wednesday {number}")) for number in range(9)]
    await until_asked(proxy, 9)
    for connection in waiting:
        await connection.close()
    await until(lambda: proxy.app._traffic.active == 0)

    last = await start_asking(proxy, chat("Thursday"))
    await until_asked(proxy, 1)
    process.send_signal(signal.SIGCONT)

    assert "asked `Thursday`" in await message(await last.response())


async def test_who_waits_is_told_when_the_proxy_ends(held_up: tuple[Proxy, Process]) -> None:
    """It does not go on looking for the sake of a message, and leaves no process behind."""
    proxy, process = held_up
    waiting = [await start_asking(proxy, chat(f"Wednesday {number}")) for number in range(2)]
    await until_asked(proxy, 2)

    await proxy.app.stop(drain_s=0)

    assert process.returncode == -signal.SIGKILL
    for connection in waiting:
        await connection.close()


async def test_a_process_that_has_ended_is_followed_by_another(start_proxy: StartProxy, record: Record) -> None:
    """Whatever has killed it, what is asked next is answered."""
    await record(chat("Tuesday"))
    proxy = await start_proxy(cache__mode="replay")
    told = await nearest(proxy, chat("Wednesday"))
    first = process_of(proxy)
    first.kill()
    first.wait()

    assert await nearest(proxy, chat("Wednesday")) == told
    assert process_of(proxy).pid != first.pid


async def test_a_process_that_takes_too_long_is_ended(
    held_up: tuple[Proxy, Process], monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """A miss is told without what it was to find, and the log says so."""
    proxy, process = held_up
    monkeypatch.setattr("proxy.store.surveyor._LONGEST_S", 0.01)

    assert await nearest(proxy, chat("Wednesday")) == ""
    assert process.returncode == -signal.SIGKILL
    line = await log.line(event=STORE_FAILED)
    assert (line["what"], line["reason"]) == ("surveying", "the process that searches has ended: exit status -9")


async def test_a_process_that_has_nothing_to_do_ends(
    start_proxy: StartProxy, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes memory, and misses in replay are rare; the next one is answered all the same."""
    monkeypatch.setattr("proxy.store.survey._IDLE_S", 0)
    await record(chat("Tuesday"))
    proxy = await start_proxy(cache__mode="replay")

    for _ in range(2):
        assert "asked `Wednesday`" in await nearest(proxy, chat("Wednesday"))
        await until(lambda: surveyor_of(proxy)._process is None)


async def test_it_ends_with_its_parent(start_proxy: StartProxy, record: Record) -> None:
    """Even if that is killed: it can't be asked any more. What interrupts a terminal's program does not reach it."""
    await record(chat("Tuesday"))
    proxy = await start_proxy(cache__mode="replay")
    await nearest(proxy, chat("Wednesday"))
    process = process_of(proxy)
    assert os.getpgid(process.pid) != os.getpgid(0)

    process.communicate()  # whose first step is to close its input

    assert process.returncode == 0


async def test_it_is_nice_to_others(start_proxy: StartProxy) -> None:
    """On a machine whose processors all have something to do, hits come first."""
    proxy = await start_proxy(cache__mode="replay")

    assert await nearest(proxy, chat("Wednesday")) == NONE

    assert os.getpriority(os.PRIO_PROCESS, process_of(proxy).pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)


async def test_trouble_with_the_disk_costs_the_name_and_not_the_answer(
    start_proxy: StartProxy, record: Record, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """A miss is told without it, and the log says what failed."""
    monkeypatch.setattr("proxy.store.tiered._HOUSEKEEPING_S", 3600.0)  # or the database would be replaced by another
    await record(chat("Tuesday"))
    proxy = await start_proxy(cache__mode="replay")
    (store_of(proxy)._shelf.directory / DATABASE).write_bytes(b"no database" * 1000)

    assert await nearest(proxy, chat("Wednesday")) == ""

    (reason,) = [line["reason"] for line in log.lines(STORE_FAILED) if line["what"] == "surveying"]
    assert "not a database" in reason


def planted(proxy: Proxy, one: Recording) -> Recording:
    """A recording with the key that it would have here."""
    upstream = proxy.app._settings.upstream.name
    return one._replace(key=cache_key(one.request, upstream=upstream, scope=SHARED_SCOPE))


async def test_what_can_not_be_read_is_passed_over(start_proxy: StartProxy, log: Log) -> None:
    """Damaged entries, bodies that are no JSON, those of another namespace under a summary of this one."""
    proxy = await start_proxy(cache__mode="replay")
    shelf = store_of(proxy)._shelf
    base = recording()
    sound, odd, deep, foreign, damaged = [
        planted(proxy, base._replace(request=base.request._replace(body=body, namespace=namespace)))
        for body, namespace in [
            (b'{"messages":[{"content":"Tuesday","role":"user"}],"model":"gpt-4o-mini"}', "n"),
            (b"not JSON", "n"),
            (b"[" * 5000 + b"]" * 5000, "n"),
            (orjson.dumps(chat("Wednesday!")), "of another"),
            (orjson.dumps(chat("Wednesday?")), "n"),
        ]
    ]
    put(shelf, sound, odd, deep, damaged)
    shelf.put(foreign.key, encode(foreign), replace(summary(foreign), namespace="n").to_json())
    shelf.put(damaged.key, encode(damaged)[:-1], summary(damaged).to_json())
    shelf.close()

    told = await nearest(proxy, chat("Wednesday"), **{"X-Reprise-Namespace": "n"})

    assert f"The nearest recording is {sound.key[:SHORT_KEY]}: " in told
    assert "asked `Wednesday`" in told


async def test_streams_are_compared_with_streams(
    start_proxy: StartProxy, record: Record, upstream: ScriptedUpstream
) -> None:
    """A recording that differs in one more member is further away."""
    await record(chat("Tuesday"))
    upstream.will_send(*stream())
    recorder = await start_proxy()
    streamed = await recorder.ask(chat("Tuesday", stream=True))
    await streamed.body()
    await recorder.app.stop()
    proxy = await start_proxy(cache__mode="replay")

    assert key_of(streamed)[:SHORT_KEY] in await nearest(proxy, chat("Wednesday", stream=True))
    assert key_of(streamed)[:SHORT_KEY] not in await nearest(proxy, chat("Wednesday"))


def surveyor_of(proxy: Proxy) -> Surveyor:
    return store_of(proxy)._survey._surveyor


def process_of(proxy: Proxy) -> Process:
    """The one that searches."""
    process = surveyor_of(proxy)._process
    assert process
    return process._process


async def until_asked(proxy: Proxy, number: int) -> None:
    """Until so many wait for an answer, or for their turn."""
    await until(lambda: len(store_of(proxy)._survey._asked) == number)
