"""Where two requests differ: every place is found, and what is told of it is short, whatever the requests are."""

from itertools import takewhile
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.canonical import Uncacheable, canonical_body
from proxy.difference import LONGEST_BYTES, Differences, Incomparable, comparable, differences, distance
from proxy.recording import RecordedRequest
from tests.test_canonical_form import NAMES, TEXTS, VALUES

BODIES = st.dictionaries(NAMES, VALUES, max_size=4)


def request(body: object, **facts: Any) -> RecordedRequest:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return RecordedRequest("POST", "/v1/chat/completions", raw, **facts)


def differing(recorded: object, asked: object) -> Differences:
    return differences(comparable(request(recorded)), comparable(request(asked)))


def told(recorded: object, asked: object) -> str:
    return str(differing(recorded, asked))


def canonical(body: object) -> bytes:
    try:
        return canonical_body(orjson.dumps(body)).text
    except (Uncacheable, orjson.JSONEncodeError):
        assume(False)  # noqa: FBT003 - hypothesis takes no name for it
        raise


def test_it_tells_what_changed_as_a_person_would() -> None:
    """Texts by the part that differs, other values whole."""
    recorded = {"messages": [{"content": "x" * 411 + "Tuesday" + "y" * 99}], "temperature": 0, "seed": 7}
    asked = {"messages": [{"content": "x" * 411 + "Wednesday" + "y" * 99}], "temperature": 0.2, "tools": []}

    lead, rest = "…" + "x" * 16, "y" * 25 + "…"
    assert told(recorded, asked) == (
        f"`/messages/0/content` differs at character 412: recorded `{lead}Tuesday{rest}`, "
        f"asked `{lead}Wednesday{rest[2:]}`; "
        "`/seed`: recorded `7`, asked nothing; "
        "`/temperature`: recorded `0`, asked `0.2`; "
        "`/tools`: recorded nothing, asked `[]`"
    )


@pytest.mark.parametrize(
    ("recorded", "asked", "expected"),
    [
        (b'{"n":1}', b'{"n":1.0}', "`/n`: recorded `1`, asked `1.0`"),
        (b'{"n":1}', b'{"n":"1"}', '`/n`: recorded `1`, asked `"1"`'),
        (b'{"n":1}', b'{"n":true}', "`/n`: recorded `1`, asked `true`"),
        (b'{"n":null}', b"{}", "`/n`: recorded `null`, asked nothing"),
        (b'{"n":9007199254740993}', b'{"n":9007199254740992}', "9007199254740993`, asked `9007199254740992`"),
        (b'{"n":[1.00]}', b'{"n":{"a":1e0}}', '`/n`: recorded `[1.00]`, asked `{"a":1e0}`'),
        (b'{"a/b":{"~":1}}', b'{"a/b":{"~":2}}', "`/a~1b/~0`: recorded `1`, asked `2`"),
        (b'{"a":"Say hello"}', b'{"a":"Say"}', "`/a` differs at character 4: recorded `Say hello`, asked `Say`"),
        (
            b'{"a":"b\\u001b[2J"}',
            b'{"a":"b\\u009b"}',
            "`/a` differs at character 2: recorded `b\\x1b[2J`, asked `b\\x9b`",
        ),
        ('{"a":"é"}'.encode(), '{"a":"e\u0301"}'.encode(), "recorded `\\xe9`, asked `e\\u0301`"),
        (b'{"a":["x","y","z"]}', b'{"a":["x","new","y","z"]}', '`/a/1`: recorded nothing, asked `"new"`'),
        (b'{"a":["x","old","z"]}', b'{"a":["z"]}', '`/a/0`: recorded `"x"`, asked nothing; `/a/1`: recorded `"old"`'),
    ],
)
def test_it_shows_what_could_be_overlooked(recorded: bytes, asked: bytes, expected: str) -> None:
    """Numbers as they are spelled, kinds of values, what looks the same or can't be seen, and what was put in."""
    assert expected in told(recorded, asked)


def test_what_is_no_part_of_the_body_may_differ_too() -> None:
    """The sample, the path, and the headers that are part of the key."""
    recorded = request({}, sample=0, vary=(("openai-beta", "a"),))
    asked = request({}, sample=2, vary=(("x-team", "blue"),))._replace(path="/v1/responses")

    assert str(differences(comparable(recorded), comparable(asked))) == (
        "`path` differs at character 5: recorded `/v1/chat/completions`, asked `/v1/responses`; "
        "`sample`: recorded `0`, asked `2`; "
        '`header openai-beta`: recorded `"a"`, asked nothing; '
        '`header x-team`: recorded nothing, asked `"blue"`'
    )


def test_the_places_alone_can_be_told() -> None:
    """Without anything of what stands there, and without the names that only the recording has within a member."""
    recorded = {"a": "secret", "b": {"secret": 1, "c": 2}, "d": 3, "e": [1]}

    assert differing(recorded, {"a": "guess", "b": {"c": 1}, "e": []}).places() == "`/a`; `/b/c`; `/b/…`; `/d`; `/e/…`"


def test_a_few_are_told_and_the_rest_is_counted() -> None:
    """However many there are."""
    found = differing({"a": [*range(100)]}, {"a": [*range(100, 200)]})

    assert len(found.first) == 5
    assert found.more == 95
    assert str(found).endswith("; and 95 more")


def test_fewer_are_told_where_each_takes_long() -> None:
    """They are to fit into a message together, and those that are left out are counted."""
    recorded, asked = ({f"{name}{'e' * 90}": text * 90 for name in "abcde"} for text in "xy")

    text = str(differing(recorded, asked))

    assert text.count("differs at") == 2
    assert len(text) <= 800
    assert text.endswith("; and 3 more")


@given(BODIES, BODIES)
def test_there_is_no_difference_just_where_there_is_none(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two requests with one canonical form are the same, all others are not; and from both sides as far apart."""
    same = canonical(one) == canonical(other)
    recorded, asked = comparable(request(canonical(one))), comparable(request(canonical(other)))

    assert (not differences(recorded, asked).first) is same
    assert (distance(recorded, asked) == 0) is same
    assert distance(recorded, asked) == distance(asked, recorded)


@given(BODIES, BODIES)
def test_each_difference_is_where_it_says(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Its pointer leads to a value in one of the two at least, and to two that differ if it leads to both."""
    found = differing(canonical(one), canonical(other))

    for difference in found.first:
        assume("…" not in difference.where and "\\" not in difference.where)
        recorded, asked = at(one, difference.where), at(other, difference.where)
        assert recorded or asked
        assert (recorded == []) is (difference.recorded is None)
        assert (asked == []) is (difference.asked is None)
        if recorded and asked:
            assert orjson.dumps(recorded[0]) != orjson.dumps(asked[0])


@given(st.text(max_size=200), TEXTS, TEXTS)
def test_texts_are_told_apart_at_the_first_character_that_differs(start: str, one: str, other: str) -> None:
    """Which is counted from 1; what stands before it is the same."""
    recorded, asked = start + one, start + other
    assume(recorded != asked)

    (difference,) = differing({"a": recorded}, {"a": asked}).first

    alike = len([*takewhile(lambda pair: pair[0] == pair[1], zip(recorded, asked, strict=False))])
    assert difference.character == alike + 1


@given(st.dictionaries(TEXTS | st.text(min_size=100), VALUES | st.text(min_size=60), max_size=9), BODIES)
def test_what_is_told_is_one_short_line(one: dict[str, Any], other: dict[str, Any]) -> None:
    """That steers no terminal and fits into a message."""
    try:
        found = differing(one, other)
    except orjson.JSONEncodeError:
        assume(False)  # noqa: FBT003 - hypothesis takes no name for it
        raise

    assert len(str(found)) <= 1000
    assert (str(found) + found.places()).isprintable()


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff", b"[" * 100_000, b'{"a":"%s"}' % (b"x" * LONGEST_BYTES), b"[%s1]" % (b"1," * 200_000)],
    ids=["cut", "no text", "deep", "long", "many"],
)
def test_what_can_not_be_compared_is_told_as_that(body: bytes) -> None:
    """A store may hold what the proxy would never have put there."""
    with pytest.raises(Incomparable):
        comparable(request(body))


@pytest.mark.parametrize("depth", [250, 400, 600, 900])
def test_depth_is_compared_or_refused(depth: int) -> None:
    """Never more than Python can take."""
    recorded, asked = b"[" * depth + b"1" + b"]" * depth, b"[" * depth + b"2" + b"]" * depth

    try:
        found = distance(comparable(request(recorded)), comparable(request(asked)))
    except Incomparable:
        assert depth > 254
    else:
        assert found == 2


def at(body: object, pointer: str) -> list[Any]:
    """The value at a pointer, in a list; an empty one if there is none."""
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(body, dict) and name in body:
            body = body[name]
        elif isinstance(body, list) and name.isdigit() and int(name) < len(body):
            body = body[int(name)]
        else:
            return []
    return [body]
