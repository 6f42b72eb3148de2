"""`cache.normalize`: texts that differ from run to run, brought to one form for the key and for nothing else."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from proxy import canonical
from proxy.canonical import Uncacheable, canonical_body
from proxy.config import load
from proxy.normalize import Normalizer, Rule
from tests import settings as config
from tests.conftest import StartProxy, WriteConfig
from tests.exchanges import key_of, recording_of, start_asking, store_of, until, word, words
from tests.harness import ANSWER, PROMPT, Proxy, ScriptedUpstream, plain, settings
from tests.lookalikes import tree, written

DATE = {"pointer": "/messages/*/content", "pattern": r"\d{4}-\d{2}-\d{2}", "replace": "DATE"}
PART = {**DATE, "pointer": "/messages/*/content/*/text"}
TRAP = {"pointer": "/messages/*/content", "pattern": "(a|aa)+[bc]", "replace": ""}


def dated(day: str, **more: object) -> dict[str, object]:
    return {**PROMPT, "messages": [{"role": "user", "content": f"Today is {day}. Say hello."}], **more}


def rules(*given: dict[str, str]) -> tuple[Rule, ...]:
    read: tuple[Rule, ...] = config.read("cache.normalize", list(given))
    return read


def form(body: Any, *given: dict[str, str], ignore: Sequence[tuple[str, ...]] = ()) -> Any:
    """The canonical form of a body by these rules, read again."""
    normalizer = Normalizer(rules(*given), time.thread_time)
    return orjson.loads(canonical_body(orjson.dumps(body), ignore, normalizer.apply).text)


# What rules make of a body


@pytest.mark.parametrize(
    ("rule", "body", "expected"),
    [
        (DATE, {"messages": [{"content": "on 2025-01-31, 2025-02-01"}]}, {"messages": [{"content": "on DATE, DATE"}]}),
        (DATE, {"messages": [{"content": [{"text": "2025-01-31"}]}]}, None),
        (PART, {"messages": [{"content": [{"text": "2025-01-31"}]}]}, {"messages": [{"content": [{"text": "DATE"}]}]}),
        (DATE, {"messages": [{"content": 20250131}, {}, None]}, None),
        ({**DATE, "pointer": "/input/1"}, {"input": ["2025-01-31"] * 2}, {"input": ["2025-01-31", "DATE"]}),
        ({**DATE, "pointer": "/*"}, {"a": "2025-01-31", "b": ["2025-01-31"]}, {"a": "DATE", "b": ["2025-01-31"]}),
        ({"pointer": "/a", "pattern": r"(\w+)@(?P<at>\w+)", "replace": r"\g<at> \1\\"}, {"a": "x@y"}, {"a": "y x\\"}),
        ({"pointer": "/a", "pattern": r"\s+$", "replace": ""}, {"a": "x \n"}, {"a": "x"}),
        ({"pointer": "/a", "pattern": "(?i)é.", "replace": "?"}, {"a": "É\U0001f600!"}, {"a": "?!"}),
    ],
)
def test_what_a_rule_finds_in_a_text_is_replaced(rule: dict[str, str], body: Any, expected: Any) -> None:
    """In texts at the places that it points to; whatever is no text there stays as it is."""
    assert form(body, rule) == (expected or body)


def test_rules_are_applied_in_their_order() -> None:
    """Each to what those before it have left, and all of them to what `cache.ignore` has left."""
    first, second = ({"pointer": "/*", "pattern": a, "replace": b} for a, b in (("a", "b"), ("b+", "c")))

    assert form({"x": "ab", "y": "a"}, first, second, ignore=[("y",)]) == {"x": "c"}
    assert form({"x": "ab", "y": "a"}, second, first, ignore=[("y",)]) == {"x": "bc"}


def test_numbers_keep_their_spelling_beside_it() -> None:
    """Also in a body that is read carefully for their sake."""
    body = b'{"a":"2025-01-31","n":1e0,"m":[1.0, -0]}'
    normalizer = Normalizer(rules({**DATE, "pointer": "/a"}), time.thread_time)

    assert canonical_body(body, (), normalizer.apply).text == b'{"a":"DATE","m":[1.0,-0],"n":1e0}'


def test_what_a_request_is_judged_by_stays_as_it_was_sent() -> None:
    """The model in the log and the flags are no matter of the key."""
    normalizer = Normalizer(rules({"pointer": "/model", "pattern": ".*-latest", "replace": "m"}), time.thread_time)

    text, members = canonical_body(b'{"model":"gpt-latest"}', (), normalizer.apply)

    assert (text, members) == (b'{"model":"m"}', {"model": "gpt-latest"})


def changed(value: Any, pointer: Sequence[str], rule: Rule) -> Any:
    """A rule applied in another way: down the tree, and with Python's own expressions."""
    if not pointer:
        return re.sub(rule.pattern, rule.replace, value) if isinstance(value, str) else value
    token, *rest = pointer
    if isinstance(value, dict):
        return {name: changed(each, rest, rule) if token in ("*", name) else each for name, each in value.items()}
    if isinstance(value, list):
        return [changed(each, rest, rule) if token in ("*", str(at)) else each for at, each in enumerate(value)]
    return value


NAMES = st.sampled_from(["a", "b", "*", "0", "1", "\u00e9"])
TEXTS = st.text('ab1 -\\"\n\u00e9\U0001f600', max_size=8)
BODIES = st.dictionaries(
    NAMES,
    st.recursive(
        st.none() | st.integers(0, 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)
RULES = st.lists(
    st.builds(
        Rule,
        pointer=st.lists(st.sampled_from(["a", "b", "*", "0", "1"]), min_size=1, max_size=3).map(tuple),
        pattern=st.sampled_from([r"\d+", "(a)(b)?", "a*", "^|$", r"\s", "é|\U0001f600", r"(?<=a)[^b]", r"[\\\"]"]),
        replace=st.sampled_from(["", "a", r"\\", r"<\g<0>>", "\U0001f600", "\n", r"\n"]),
    ),
    max_size=3,
)


@given(BODIES, RULES)
@tried(max_examples=200, deadline=None)
def test_rules_do_what_they_would_do_one_by_one(body: dict[str, Any], rules: list[Rule]) -> None:
    """Whichever way the body is read, the form is that of a body in which the texts had been changed before."""
    raw, expected = orjson.dumps(body), body
    for rule in rules:
        expected = changed(expected, rule.pointer, rule)
    normalizer = Normalizer(rules, time.thread_time)

    forms = [canonical_body(raw, (), normalizer.apply).text]
    with patch.object(canonical, "_is_spelled_plainly", return_value=False):
        forms.append(canonical_body(raw, (), normalizer.apply).text)

    assert forms == [canonical_body(orjson.dumps(expected)).text] * 2


def test_without_rules_a_key_is_what_it_was() -> None:
    """What was recorded before there were any is found."""
    body = orjson.dumps(dated("2025-01-31"))

    assert canonical_body(body, (), Normalizer((), time.thread_time).apply) == canonical_body(body)


def test_what_takes_too_long_has_no_key() -> None:
    """A text can be written so that a pattern that looks harmless never ends; so many texts are as bad as one."""
    normalizer = Normalizer(rules(TRAP), time.thread_time)
    work = iter(range(9))
    impatient = Normalizer(rules(DATE), lambda: next(work) / 2)
    trap = orjson.dumps({"messages": [{"content": "a" * 60 + "d" + "b"}]})
    many = orjson.dumps({"messages": [{"content": "x"}] * 9})

    for body, apply in ((trap, normalizer.apply), (many, impatient.apply)):
        with pytest.raises(Uncacheable, match="takes too long") as refused:
            canonical_body(body, (), apply)
        assert refused.value.reason == "normalize"


def test_what_would_grow_beyond_measure_has_no_key() -> None:
    """Or a client could have the memory filled by what replaces its texts."""
    apply = Normalizer(rules({"pointer": "/*", "pattern": "x", "replace": "y" * 256}), time.thread_time).apply

    assert len(canonical_body(b'{"a":"%b"}' % (b"x" * 100_000), (), apply).text) > 25_000_000
    for body in (b'{"a":"%b"}' % (b"x" * 100_001), b'{"a":"%b","b":"xx"}' % (b"x" * 99_999)):
        with pytest.raises(Uncacheable, match="too much"):
            canonical_body(body, (), apply)


def test_what_several_rules_find_counts_together() -> None:
    """Each may find what the one before has put there."""
    one, other = ({"pointer": "/a", "pattern": pattern, "replace": "y"} for pattern in "xy")
    apply = Normalizer(rules(one, other), time.thread_time).apply

    canonical_body(b'{"a":"%b"}' % (b"x" * 50_000), (), apply)
    with pytest.raises(Uncacheable, match="too much"):
        canonical_body(b'{"a":"%b"}' % (b"x" * 50_001), (), apply)


def test_a_text_that_no_model_would_read_is_not_searched() -> None:
    """In so long a one, nobody looks at the time often enough."""
    apply = Normalizer(rules({"pointer": "/a", "pattern": "b", "replace": "c"}), time.thread_time).apply
    longest = b"a" * 4 * 1024 * 1024

    canonical_body(b'{"a":"%b","b":"%baa"}' % (longest, longest), (), apply)
    with pytest.raises(Uncacheable, match="too long"):
        canonical_body(b'{"a":"%ba"}' % longest, (), apply)


# At the socket


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Proxy:
    return await start_proxy(cache__normalize=[DATE, PART])


async def test_requests_that_differ_by_what_is_replaced_share_an_answer(
    proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """And each other difference is one of the key, as ever."""
    upstream.will_send(plain(ANSWER))

    found = await words(
        *(proxy.ask(dated(day)) for day in ("2025-01-31", "2025-02-01", "2025-02-01", "the 1st")),
        proxy.ask(dated("2025-02-01", user="2025-02-01")),
        proxy.ask(dated("DATE")),
    )

    assert found == ["MISS", "HIT", "HIT", "MISS", "MISS", "HIT"]


async def test_what_is_kept_of_a_request_is_what_its_key_was_made_of(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Also of one that was asked before, byte for byte."""
    upstream.will_send(plain(ANSWER))
    asked = dated("2025-01-31")
    await word(proxy.ask(asked))

    again = await proxy.ask(asked, headers={"Cache-Control": "no-cache"})

    assert again.get("x-cache-status") == "REFRESH"
    recording = await recording_of(proxy, again)
    assert orjson.loads(recording.request.body) == dated("DATE")
    assert upstream.received[1].body == orjson.dumps(asked)


SOME = [
    {"pointer": pointer, "pattern": pattern, "replace": replace}
    for pointer in ("/*", "/*/*", "/a", "/A/0", "/1/*/*")
    for pattern in (r"\w", "^|$", "(.)", r"\s*\Z")
    for replace in ("", "x", r"\g<0>\g<0>", r"\\")
]


async def test_the_upstream_gets_what_was_sent(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Byte for byte, whatever the rules and whatever the body, and whether it has a key or not."""
    proxy = await start_proxy()
    upstream.will_send(plain(ANSWER))
    fresh = {"Cache-Control": "no-cache"}
    for seed in range(60):
        random = Random(seed)  # noqa: S311 - nothing is kept secret by it
        given = random.sample(SOME, random.randrange(1, 4))
        await proxy.app.reload(settings(upstream.base_url, tmp_path / "store", cache__normalize=given))
        sent = [written(tree(random), random), orjson.dumps({"a": "2025 \u00e9", "A": ["x"], "1": [{"b": "y"}]})]

        for body in sent:
            await word(proxy.ask(body, headers=fresh))

        assert [received.body for received in upstream.received[-2:]] == sent
        assert [received.header("content-length") for received in upstream.received[-2:]] == [
            [str(len(body))] for body in sent
        ]
    await until(lambda: not store_of(proxy)._waiting)


async def test_a_text_that_is_a_trap_holds_up_nobody(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Others are served while its time runs; then it is passed on as it came."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__normalize=[TRAP])
    trap = {"messages": [{"role": "user", "content": "a" * 60 + "d" + "b"}]}

    trapped = await start_asking(proxy, trap)
    await until(lambda: proxy.app._traffic.active == 1)
    served = await words(proxy.ask(), proxy.ask())
    assert upstream.requests_seen == 1
    response = await trapped.response("POST")

    assert served == ["MISS", "HIT"]
    assert response.get("cache-status") == "reprise; fwd=bypass; detail=normalize"
    assert await response.body() == ANSWER
    assert orjson.loads(upstream.received[1].body) == trap


async def test_who_leaves_makes_no_room_for_another_trap(
    start_proxy: StartProxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search that he has begun goes on, and counts until it has come to its end."""
    monkeypatch.setattr("proxy.asking._SEARCHED_AT_A_TIME", 1)
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__normalize=[TRAP])
    searching = proxy.app._gateway._asking._searching

    leaving = await start_asking(proxy, {"messages": [{"role": "user", "content": "a" * 60 + "d" + "b"}]})
    await until(searching.locked)
    await leaving.close()
    await until(lambda: proxy.app._traffic.active == 0)
    assert searching.locked()

    assert await words(proxy.ask(), proxy.ask()) == ["MISS", "HIT"]
    assert not searching.locked()
    assert upstream.requests_seen == 1


async def test_other_rules_hold_from_the_next_request_on(
    proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """What was known of a body by the rules before is forgotten with them."""
    upstream.will_send(plain(ANSWER))
    one = await proxy.ask(dated("2025-01-31"))
    await one.body()

    await proxy.app.reload(settings(upstream.base_url, tmp_path / "store"))
    other = await proxy.ask(dated("2025-01-31"))

    assert other.get("x-cache-status") == "MISS"
    assert key_of(one) != key_of(other)


# In the settings


def test_rules_are_written_as_a_list_of_mappings(write: WriteConfig, tmp_path: Path, monkeypatch: Any) -> None:
    """In the file as in the environment, where they are JSON."""
    monkeypatch.chdir(tmp_path)
    write("cache:\n  normalize:\n  - pointer: /a~1b/*\n    pattern: '\\d+'\n    replace: ''\n")
    expected = (Rule(("a/b", "*"), r"\d+", ""),)

    assert load(None, {}, {}).cache.normalize == expected
    environ = {"REPRISE_CACHE__NORMALIZE": r'[{"pattern":"\\d+","replace":"","pointer":"/a~1b/*"}]'}
    assert load(tmp_path / "config.yaml", {}, environ).cache.normalize == expected


A_RULE = (
    "expected rules of a pointer, a pattern and what replaces it, such as "
    "{pointer: /messages/*/content, pattern: '[0-9]{4}', replace: YEAR}"
)
MEMBERS = "a rule has pointer, pattern and replace, and this one"
NO_REPLACEMENT = (
    r"is no replacement: at most 256 characters, in which \1 or \g<name> stands for a group of the pattern, "
    r"and \\ for a backslash"
)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("/user", f"{A_RULE}, got '/user'"),
        ({}, f"{A_RULE}, got a mapping"),
        ({**DATE, "replace": None}, f"{A_RULE}, got a mapping"),
        ({**DATE, "pattern": 5}, f"{A_RULE}, got a mapping"),
        ({"pointer": "/a", "patern": "a"}, f"{MEMBERS} pointer, patern"),
        ({**DATE, "flags": "i"}, f"{MEMBERS} pointer, pattern, replace, flags"),
        ({**DATE, "pointer": "messages"}, "'messages' is no JSON pointer such as /messages/*/content"),
        ({**DATE, "pointer": ""}, "'' is no JSON pointer such as /messages/*/content"),
        ({**DATE, "pattern": "(a"}, "'(a' is no regular expression: missing ) at position 2"),
        ({**DATE, "pattern": "*"}, "'*' is no regular expression: nothing to repeat at position 0"),
        ({**DATE, "replace": r"\1"}, r"'\\1' names the group 1, which '\\d{4}-\\d{2}-\\d{2}' has not"),
        ({**DATE, "replace": r"\g<day>"}, r"'\\g<day>' names the group day, which '\\d{4}-\\d{2}-\\d{2}' has not"),
        ({**DATE, "replace": r"\q"}, rf"'\\q' {NO_REPLACEMENT}"),
        ({**DATE, "replace": r"\ud83d"}, rf"'\\ud83d' {NO_REPLACEMENT}"),
        ({**DATE, "replace": "\ud83d"}, rf"'\ud83d' {NO_REPLACEMENT}"),
        ({**DATE, "replace": "a\\"}, rf"'a\\' {NO_REPLACEMENT}"),
        ({**DATE, "replace": "x" * 257}, f"'{'x' * 60}' and so on {NO_REPLACEMENT}"),
    ],
)
def test_a_rule_that_can_not_be_applied_is_refused(rule: object, told: str) -> None:
    """Before anything is served, with the reason."""
    assert config.problem("cache.normalize", [rule]) == f"cache.normalize: {told}"


def test_a_member_that_a_rule_has_twice_is_named_with_its_lines(write: WriteConfig, tmp_path: Path) -> None:
    """As one of a section is."""
    path = write("cache:\n  normalize:\n  - pointer: /a\n    pattern: a\n    pattern: b\n    replace: c\n")

    assert config.problems({}, config=path) == (f"{path}: cache.normalize.pattern: given twice, on lines 4 and 5",)


@given(st.text(max_size=20) | st.text(r"\g<0>1a ", max_size=8), st.sampled_from(["(a)?", "(?P<a>b)|", "x"]))
@tried(deadline=None)
def test_a_replacement_that_is_accepted_can_be_put_in(replacement: str, pattern: str) -> None:
    """Whatever it is, what comes of it is text."""
    rule = {"pointer": "/*", "pattern": pattern, "replace": replacement}
    if not config.problems({"cache.normalize": [rule]}, config=config.NO_FILE):
        assert form({"t": "aabbx"}, rule)["t"] == re.sub(pattern, replacement, "aabbx")
