"""What shares a cache key, what does not, and what gets none."""

from dataclasses import dataclass
from random import Random
from typing import Any, get_args

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.canonical import Reason, Uncacheable, canonical_body
from proxy.key import (
    SHARED_SCOPE,
    cache_key,
    choices_expected,
    credential_scope,
    refuse_stateful,
    selected_headers,
    wants_stream,
)
from proxy.recording import RecordedRequest

ODD_PROMPTS: list[Any] = [None, [], 5, {}, ["a", 1], ["a"]]
REQUEST = RecordedRequest("POST", "/v1/chat/completions", b'{"model":"m"}')


@dataclass(frozen=True)
class Number:
    spelling: str


NUMBERS = st.builds(
    lambda *parts: Number("".join(parts)),
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "1", "10", "907", "9007199254740993"]),
    st.sampled_from(["", ".0", ".00", ".5", ".1000000000000000055"]),
    st.sampled_from(["", "e0", "E0", "e+5", "E-05", "e17"]),
)
# Escapes, controls, a combining accent, the ends of the surrogate gap, a byte order mark, beyond the basic plane.
TEXTS = st.text('aAe1 /"\\\x00\n\x1f\x7f\x80\u00e9\u0301\u2028\ud7ff\ue000\ufeff\uffff\U00010000\U0001f600', max_size=6)
# No two of them are one name to a reader that does not mind case or normal forms.
NAMES = st.text('ae1 /"\\\n\x1f\x7f\x80\u00e9\u2028\ud7ff\ue000\ufeff\uffff\U00010000\U0001f600', max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=5)
RANDOMS = st.builds(Random, st.integers(0, 2**32))


def spelled(value: Any, random: Random) -> str:
    """One of the many ways in which a value can be written as JSON."""

    def space() -> str:
        return random.choice(["", "", " ", "\n\t", "\r\n  "])

    def character(one: str) -> str:
        if one == "/" and random.random() < 0.5:
            return r"\/"
        if one in '"\\' or one < " " or random.random() < 0.3:
            units = one.encode("utf-16-be").hex(" ", 2).split()
            return "".join(rf"\u{random.choice([unit, unit.upper()])}" for unit in units)
        return one

    def between(begin: str, parts: list[str], end: str) -> str:
        return begin + ",".join(f"{space()}{part}{space()}" for part in parts) + space() + end

    match value:
        case Number():
            return value.spelling
        case str():
            return '"' + "".join(map(character, value)) + '"'
        case list():
            return between("[", [spelled(item, random) for item in value], "]")
        case dict():
            members = random.sample(list(value.items()), len(value))
            return between(
                "{", [f"{spelled(k, random)}{space()}:{space()}{spelled(v, random)}" for k, v in members], "}"
            )
        case _:
            return {None: "null", True: "true", False: "false"}[value]


def changed(value: Any, random: Random) -> Any:
    """A value that differs from `value` in one place."""
    match value:
        case Number(spelling):
            other = spelling.removeprefix("-") if spelling.startswith("-") else "-" + spelling
            return Number(random.choice([other, other if "e" in spelling.lower() else spelling + "e0"]))
        case str():
            return random.choice([value + " ", value[1:] if value else "x"])
        case list():
            place = random.randrange(len(value) + 1)
            others = value[:place] + value[place + 1 :]
            replacement = [changed(item, random) for item in value[place : place + 1]] or [None]
            return random.choice([others, [*value[:place], *replacement, *value[place + 1 :]]])
        case dict():
            name = random.choice([*value, "a new name"])
            without = {k: v for k, v in value.items() if k != name}
            return random.choice([without, {**without, name: changed(value.get(name), random)}])
        case _:
            return {None: False, True: False, False: True}[value]


def canonical(body: str | bytes, *ignore: tuple[str, ...]) -> bytes:
    return canonical_body(body.encode() if isinstance(body, str) else body, ignore).text


def refusal(body: str | bytes) -> str:
    with pytest.raises(Uncacheable) as refused:
        canonical(body)
    assert refused.value.reason in get_args(Reason)
    return refused.value.reason


@given(OBJECTS, RANDOMS, RANDOMS)
def test_spelling_does_not_matter(value: Any, one: Random, other: Random) -> None:
    """Member order, white space and escapes are not part of the key."""
    assert canonical(spelled(value, one)) == canonical(spelled(value, other))


@given(OBJECTS, RANDOMS)
def test_any_change_of_a_value_matters(value: Any, random: Random) -> None:
    """A member more or less, another text, another spelling of a number: another body."""
    other = changed(value, random)
    assume(other != value)

    assert canonical(spelled(value, random)) != canonical(spelled(other, random))


@given(OBJECTS, RANDOMS)
def test_the_canonical_form_says_what_the_body_said(value: Any, random: Random) -> None:
    """It reads as the same value, and is its own canonical form."""
    raw = spelled(value, random).encode()

    body = canonical_body(raw)

    assert orjson.loads(body.text) == body.members == orjson.loads(raw)
    assert canonical(body.text) == body.text


@given(st.binary(max_size=40) | st.text(' {}[]:,"\\u0eE19.-+tfn\x00\ufeff', max_size=40).map(str.encode))
def test_whatever_the_bytes_there_is_a_canonical_form_or_a_reason(raw: bytes) -> None:
    """No input raises anything but Uncacheable, and what passes is a JSON object."""
    try:
        body = canonical_body(raw)
    except Uncacheable as refused:
        assert refused.reason in get_args(Reason)  # noqa: PT017  # either way out is right
    else:
        assert orjson.loads(body.text) == body.members


@pytest.mark.parametrize(
    "spellings",
    [
        ["0", "-0", "0.0", "-0.0", "0e0", "0E0", "false", "null", '""', "[]", "{}"],
        ["1", "1.0", "1.00", "1e0", "1E0", "1e+0", "10e-1", "true", '"1"', "[1]"],
        ["9007199254740992", "9007199254740993", "9007199254740992.0"],
        ["18446744073709551615", "18446744073709551614", "-9223372036854775808", "9223372036854775807"],
        ["0.1", "0.10", "0.1000000000000000055511151231257827"],
        ['"\u00e9"', '"e\u0301"', '"\u00c9"', '"e"'],
        ['"a"', '"a "', '"A"', r'"a\u0000"', r'"a\n"', r'"a\\n"', r'"\ufeffa"', r'"\u200ba"'],
        ["[1,2]", "[2,1]", "[1,[2]]", "[12]", "[1]", "[1,2,null]"],
    ],
)
def test_values_that_a_reader_could_tell_apart_differ(spellings: list[str]) -> None:
    """No number is rounded or respelled, no text normalised, no default assumed."""
    bodies = ["{}", *(f'{{"x":{spelling}}}' for spelling in spellings)]

    assert len({canonical(body) for body in bodies}) == len(bodies)


def test_names_are_sorted_by_code_point() -> None:
    """Not by locale, length or UTF-16 unit."""
    names = ["b", "a", "C", "aa", "", "\u00e9", "\uffff", "\U00010000", "10", "9"]
    body = orjson.dumps(dict.fromkeys(names))

    assert list(orjson.loads(canonical(body))) == sorted(names)


@pytest.mark.parametrize(
    "number", ["18446744073709551615", "-9223372036854775808", "5e-324", "1.7976931348623157e308", "0e999", "0.0e-999"]
)
def test_numbers_just_within_range_are_kept_as_they_are(number: str) -> None:
    """The bounds are those of 64-bit integers and doubles, and a zero is never too small."""
    assert canonical(f'{{"x": {number}}}') == f'{{"x":{number}}}'.encode()


@pytest.mark.parametrize(
    "number",
    [
        *("18446744073709551616", "18446744073709551617", "-9223372036854775809", "-18446744073709551615", "9" * 300),
        *("1e-400", "-1e-400", "0.1E-400", "0." + "0" * 400 + "1", "10e-330"),
    ],
)
def test_a_number_that_readers_would_round_is_refused(number: str) -> None:
    """Two different ones would be one to some reader."""
    assert refusal(f'{{"x":[{number}]}}') == "ambiguous_json"


@pytest.mark.parametrize(
    "body",
    [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":3}',
        r'{"a":1,"\u0061":2}',
        r'{"é":1,"\u00e9":2}',
        '{"deep":[{"x":{"a":null,"a":null}}]}',
        '{"":0,"":0}',
    ],
)
def test_a_name_given_twice_is_refused(body: str) -> None:
    """Some readers take the first, some the last, however the name is spelled and wherever it stands."""
    assert refusal(body) == "ambiguous_json"


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"a","Model":"b"}',
        '{"x":[{"stream":true,"STREAM":false}]}',
        r'{"stream":true,"\u017ftream":false}',
        r'{"key":1,"\u212aey":2}',
        '{"stra\u00dfe":1,"STRASSE":2}',
        '{"caf\u00e9":1,"cafe\u0301":2}',
        r'{"model":1,"model\u0000x":2}',
        r'{"":1,"\u0000":2}',
    ],
)
def test_names_that_are_one_to_some_reader_are_refused(body: str) -> None:
    """Such a reader takes the one or the other by their order, which is no part of the key."""
    assert refusal(body) == "ambiguous_json"


def test_names_that_are_two_to_every_reader_are_kept() -> None:
    """Nothing is trimmed, and no two letters are taken for one because they look alike."""
    body = r'{" a":1,"a":2,"a ":3,"a_":4,"a-":5,"b":{"a":6},"e":7,"\u00e9":8,"\u0430":9}'

    assert len(orjson.loads(canonical(body))) == 9


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"}", b'{"a":1}{"b":2}', b'{"a":1}x', b'{"a":1}\x00', b'{"a":1,}', b"{'a':1}", b"{a:1}"),
        *(b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e400}', b'{"a":' + b"9" * 5000 + b"}"),
        *(b'{"a":01}', b'{"a":+1}', b'{"a":.5}', b'{"a":1.}', b'{"a":0x1}', b'{"a":1_0}', b'{"a":True}', b"/**/{}"),
        *(
            b'{"a":"\t"}',
            b'{"a":"\n"}',
            b'{"a":"\\x"}',
            b'{"a":"\\ud800"}',
            b'{"a":"\\udc00\\ud800"}',
            b'{"\\ud800":1}',
        ),
        *(b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\xaf"}', b'{"a":"\xf4\x90\x80\x80"}'),
        *(b"\xef\xbb\xbf{}", "{}".encode("utf-16"), "{}".encode("utf-16-le"), "{}".encode("utf-32"), b"\x1f\x8b\x08"),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"a":[' * 2_000 + b"]}" * 2_000),
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_a_strict_reader_refuses_has_no_key(body: bytes) -> None:
    """Nothing is guessed, repaired or read leniently, and no depth is too much to say no."""
    assert refusal(body) == "not_json"


@pytest.mark.parametrize("body", ["[]", "[{}]", '"text"', "1", "true", "null"])
def test_json_that_is_no_object_has_no_key(body: str) -> None:
    """Every cached route takes an object."""
    assert refusal(body) == "not_an_object"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_bounded(opening: str, closing: str) -> None:
    """254 arrays and objects within each other have a key, one more does not, nor do a thousand."""
    bodies = [f'{{"x":{opening * (depth - 1)}1{closing * (depth - 1)}}}' for depth in (254, 255, 1000)]

    assert canonical(bodies[0]) == bodies[0].encode()
    assert refusal(bodies[1]) == refusal(bodies[2]) == "too_deep"


def test_a_refusal_does_not_quote_the_body() -> None:
    """Its message may be logged, a prompt may not."""
    for body in ('{"secret":1,"secret":2}', '{"secret":99999999999999999999}', '{"secret":"secret', "[secret]"):
        with pytest.raises(Uncacheable) as refused:
            canonical(body)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "pointer", "expected"),
    [
        ('{"user":"u","x":1}', ("user",), b'{"x":1}'),
        ('{"user":null,"x":1}', ("user",), b'{"x":1}'),
        ('{"metadata":{"run":[1,{"a":2}],"x":1}}', ("metadata", "run"), b'{"metadata":{"x":1}}'),
        ('{"m":[{"id":1},{"id":2,"x":1}]}', ("m", "1", "id"), b'{"m":[{"id":1},{"x":1}]}'),
        ('{"a/b~c":1}', ("a/b~c",), b"{}"),
        ('{"":1}', ("",), b"{}"),
        ('{"0":{"x":1}}', ("0", "x"), b'{"0":{}}'),
    ],
)
def test_an_ignored_member_is_left_out(body: str, pointer: tuple[str, ...], expected: bytes) -> None:
    """The key does not know it, the members that the proxy reads do."""
    result = canonical_body(body.encode(), [pointer])

    assert result.text == expected
    assert result.members == orjson.loads(body)


@pytest.mark.parametrize(
    "pointer",
    [
        *((), ("absent",), ("absent", "x"), ("text", "x"), ("null", "x"), ("number", "0", "x"), ("User",)),
        *(("list", "0"), ("list", "2", "x"), ("list", "-", "x"), ("list", "01", "x"), ("list", "-1", "x")),
        *(("list", "\u0661", "x"), ("list", "9" * 5000, "x"), ("list", "", "x"), ("list", "x")),
    ],
)
def test_a_pointer_that_points_to_no_member_changes_nothing(pointer: tuple[str, ...]) -> None:
    """An ignore list serves requests of every shape, and never takes an element out of an array."""
    body = '{"list":[{"x":0},{"x":1}],"null":null,"number":5,"text":"abc","user":"u"}'

    assert canonical(body, pointer) == body.encode()


@pytest.mark.parametrize("body", ['{"user":{"a":1,"a":2}}', '{"user":1,"user":2}', '{"user":99999999999999999999}'])
def test_an_ignored_member_may_not_be_ambiguous_either(body: str) -> None:
    """It is ignored by the key, but sent to the upstream."""
    with pytest.raises(Uncacheable):
        canonical(body, ("user",))


@pytest.mark.parametrize(
    ("members", "expected"),
    [({}, False), ({"stream": None}, False), ({"stream": False}, False), ({"stream": True}, True)],
)
def test_a_stream_is_asked_for_by_true_alone(members: dict[str, Any], expected: bool) -> None:  # noqa: FBT001  # a table
    """Absent and null are what SDKs send for no."""
    assert wants_stream(members) is expected


@pytest.mark.parametrize("flag", [1, 0, 1.0, "true", "", [], {}])
def test_a_stream_flag_of_another_type_is_refused(flag: Any) -> None:
    """Servers differ in what they take for true."""
    with pytest.raises(Uncacheable) as refused:
        wants_stream({"stream": flag})

    assert refused.value.reason == "stream_flag"


@pytest.mark.parametrize(
    "members",
    [{"background": True}, {"background": "yes"}, {"background": 1}, {"conversation": "conv_1"}, {"conversation": {}}],
)
def test_stateful_requests_are_refused(members: dict[str, Any]) -> None:
    """Their answer depends on what the upstream keeps."""
    with pytest.raises(Uncacheable) as refused:
        refuse_stateful(members)

    assert refused.value.reason == "stateful"


@pytest.mark.parametrize(
    "members", [{}, {"background": False}, {"background": None, "conversation": None}, {"store": True, "messages": []}]
)
def test_other_requests_are_not_stateful(members: dict[str, Any]) -> None:
    """Null and false say what absence says."""
    refuse_stateful(members)


@pytest.mark.parametrize(
    ("path", "members", "expected"),
    [
        ("/v1/chat/completions", {}, 1),
        ("/v1/chat/completions", {"n": 3}, 3),
        ("/v1/chat/completions", {"n": 3, "prompt": ["a", "b"]}, 3),
        *(("/v1/chat/completions", {"n": n}, 1) for n in (None, 0, -2, True, 2.0, "2", [2])),
        ("/v1/completions", {"prompt": "text", "n": 2}, 2),
        ("/v1/completions", {"prompt": ["a", "b", "c"]}, 3),
        ("/v1/completions?x=1", {"prompt": ["a", "b"], "n": 2}, 4),
        ("/v1/completions", {"prompt": [[1, 2], [3], [4]], "n": 2}, 6),
        ("/v1/completions", {"prompt": [1, 2, 3]}, 1),
        *(("/v1/completions", {"prompt": prompt}, 1) for prompt in ODD_PROMPTS),
        ("/v1/responses", {}, 1),
    ],
)
def test_the_number_of_choices_follows_from_the_request(path: str, members: dict[str, Any], expected: int) -> None:
    """`n` answers, and for text completions as many for each prompt."""
    assert choices_expected(members, path) == expected


def key(request: RecordedRequest = REQUEST, *, upstream: str = "u", scope: str = SHARED_SCOPE) -> str:
    return cache_key(request, upstream=upstream, scope=scope)


def test_the_key_of_a_request_never_changes() -> None:
    """Recordings outlive releases, so whoever changes this key has to change the key version, and to know it."""
    request = RecordedRequest(
        method="POST",
        path="/v1/chat/completions?a=b",
        body=b'{"model":"m"}',
        vary=(("openai-beta", "x"),),
        namespace="tests",
        sample=2,
    )

    assert key(request) == "57f355c31eb3a26623d867709d8263dab3ff6642345627a6fd4413ae83010744"


@pytest.mark.parametrize(
    "other",
    [
        REQUEST._replace(method="GET"),
        REQUEST._replace(path="/v1/completions"),
        REQUEST._replace(path="/v1/chat/completions?"),
        REQUEST._replace(path="/v1/chat/completions?a=1"),
        REQUEST._replace(path="/v1/chat%2Fcompletions"),
        REQUEST._replace(body=b'{"model":"n"}'),
        REQUEST._replace(namespace="n"),
        REQUEST._replace(sample=1),
        REQUEST._replace(vary=(("openai-beta", ""),)),
        REQUEST._replace(vary=(("openai-beta", "a"), ("openai-beta", "b"))),
        REQUEST._replace(vary=(("openai-beta", "b"), ("openai-beta", "a"))),
        REQUEST._replace(vary=(("openai-beta", "a, b"),)),
        REQUEST._replace(vary=(("openai-beta", "a"), ("x-b", "b"))),
        REQUEST._replace(vary=(("openai-beta", "ax-b"), ("", "b"))),
    ],
)
def test_every_part_of_a_request_is_part_of_the_key(other: RecordedRequest) -> None:
    """An absent header differs from an empty one, and two values from one that lists both."""
    assert key(other) != key(REQUEST)


def test_upstream_and_scope_are_part_of_the_key() -> None:
    """One upstream's answer is never given for another's, nor across scopes."""
    assert (
        len({key(), key(upstream="v"), key(scope="s"), key(upstream="us", scope=""), key(upstream="", scope="us")}) == 5
    )


SHORT = st.text("ab1\x80\udc80", max_size=3)
PAIRS = st.lists(st.tuples(SHORT, SHORT), max_size=2).map(tuple)
REQUESTS = st.builds(
    RecordedRequest, SHORT, SHORT, st.binary(max_size=2), PAIRS, SHORT, st.integers(min_value=0, max_value=12)
)
ASKED = st.tuples(REQUESTS, SHORT, SHORT)


@given(ASKED, ASKED)
def test_no_two_requests_run_together(
    one: tuple[RecordedRequest, str, str], other: tuple[RecordedRequest, str, str]
) -> None:
    """Where a part ends and the next begins is part of the key, whatever bytes they hold."""
    keys = [key(request, upstream=upstream, scope=scope) for request, upstream, scope in (one, other)]

    assert (keys[0] == keys[1]) == (one == other)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


@given(st.lists(SHORT, min_size=6, max_size=6), st.integers(0, 4))
def test_text_does_not_move_from_one_part_to_the_next(texts: list[str], place: int) -> None:
    """`ab` and `c` is not `a` and `bc`."""
    assume(texts[place])
    moved = texts.copy()
    moved[place], moved[place + 1] = texts[place][:-1], texts[place][-1] + texts[place + 1]

    def key_of(texts: list[str]) -> str:
        method, path, upstream, scope, namespace, value = texts
        return key(RecordedRequest(method, path, b"", (("v", value),), namespace), upstream=upstream, scope=scope)

    assert key_of(texts) != key_of(moved)


def test_selected_headers_keep_values_apart_and_in_order() -> None:
    """The order is that of the settings, values stay in the order of the request, absent fields stay away."""
    headers = [("X-B", "2"), ("OpenAI-Beta", "one"), ("accept", "*/*"), ("openai-beta", "two"), ("x-a", "")]

    selected = selected_headers(headers, ["OPENAI-beta", "x-a", "x-absent", "x-b"])

    assert selected == (("openai-beta", "one"), ("openai-beta", "two"), ("x-a", ""), ("x-b", "2"))


def test_a_header_that_a_server_could_take_for_a_vary_header_is_selected() -> None:
    """CGI knows no difference between `_` and `-`, other servers do: it counts, under its own name."""
    named = [("openai-beta", "x")], [("OpenAI_Beta", "x")], [("openai_beta", "x"), ("openai-beta", "x")]

    selected = [selected_headers(headers, ["openai-beta"]) for headers in named]

    assert selected[1] == (("openai_beta", "x"),)
    assert len({(), *selected}) == 4


def test_each_credential_organization_and_project_has_a_scope_of_its_own() -> None:
    """So has none at all, an empty one, and two at once."""
    callers: list[list[tuple[str, str]]] = [
        [],
        [("authorization", "")],
        [("authorization", "Bearer a")],
        [("authorization", "bearer a")],
        [("authorization", "Bearer b")],
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        [("authorization", "Bearer b"), ("authorization", "Bearer a")],
        [("authorization", "Bearer a, Bearer b")],
        [("api-key", "Bearer a")],
        [("x-api-key", "Bearer a")],
        [("authorization", "Bearer a"), ("openai-organization", "o")],
        [("authorization", "Bearer a"), ("openai-project", "o")],
        [("authorization", "Basic a")],
        [("authorization", "Bearer a ")],
        [("cookie", "Bearer a")],
        [("cookie", "a"), ("cookie", "b")],
        [("x-goog-api-key", "Bearer a")],
        [("ocp-apim-subscription-key", "Bearer a")],
        [("cf-aig-authorization", "Bearer a")],
        [("helicone-auth", "Bearer a")],
        [("x-auth-token", "Bearer a")],
        [("x_api_key", "Bearer a")],
        [("apikey", "Bearer a")],
        [("openai_project", "o")],
    ]

    assert len({credential_scope(caller) for caller in callers} | {SHARED_SCOPE}) == len(callers) + 1


def test_a_scope_is_the_same_for_each_request_of_a_caller_and_does_not_reveal_the_credential() -> None:
    """Neither the order nor the spelling of the fields matters, nor does what clients add to each request."""
    first = [("Authorization", "Bearer sk-CANARY"), ("OpenAI-Organization", "o"), ("x-stainless-retry-count", "0")]
    second = [("user-agent", "x"), ("openai-organization", "o"), ("authorization", "Bearer sk-CANARY")]
    second += [("idempotency-key", "1"), ("x-idempotency_key", "1"), ("author", "x"), ("x-max-tokens", "5")]

    assert credential_scope(first) == credential_scope(second)
    assert "CANARY" not in credential_scope(first)
