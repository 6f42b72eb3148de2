"""Events that are not read because they are like others: the ending is the one that reading each of them would find."""

from collections.abc import Sequence
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import sse
from proxy.alike import unlike
from proxy.sse import Ending, stream_ending

DONE = b"data: [DONE]\n\n"

CHUNK = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}],"usage":null}'
PADDED = b'data: {"choices":[{"index":1,"delta":{"content":"%b"}}],"obfuscation":"%b"}'
DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%b,"delta":"%b"}'
)

KINDS: Sequence[bytes] = [
    *(CHUNK, PADDED, DELTA, CHUNK.replace(b'":', b'": '), CHUNK.replace(b"null", b'"stop"', 1)),
    # Texts and numbers where they do matter, or where a name like `content` is not what it seems.
    b'data: {"type":"%b","content":"x"}',
    b'data: {"content":"x","status":"%b"}',
    b'data: {"content":{"error":"%b"},"error":"%b"}',
    b'data: {"choices":[{"index":%b,"text":"%b","finish_reason":"%b"}]}',
    b'data: {"choices":[{"text":"x","finish_reason":"error%b"}]}',
    b'data: {"%b":1,"text":"%b"}',
    b'data: {"content":"x","%b":"content","text":"%b"}',
    b'data: {"content":"a\\"content":"%b"}',
    b'data: {"x\\"content":"%b","y":{"\\\\content":"%b"}}',
    b'data: {"a":"\\\\","content":"%b"}',
    b'data: {"a":"\\"text\\":\\"%b\\""}',
    b'data: {"sequence_number":%b,"text":"%b","usage":null}',
    b'data: {"sequence_number":%be307,"text":"%b"}',
    b'data: {"sequence_number":5%b,"text":"%b"}',
    b'data: {"sequence_number":"%b","text":"%b","sequence_number":%b}',
    b'data: {"text":"%b","usage":{"prompt_tokens":%b}}',
    b'data: {"type":"response.completed","text":"%b"}',
    b'data: {"type":"response.incomplete","sequence_number":%b}',
    b'data: {"response":{"usage":{"input_tokens":1},"text":"%b"}}',
    b'data: ["%b",{"text":"%b"}]',
    # Fields that are not what they seem.
    b'event: "text":"%b"\ndata: {"text":"%b"}',
    b'event: error%b\ndata: {"text":"%b"}',
    b'id: data: {"text":"%b"}\ndata: {"text":"%b"}',
    b'data: {"text":\ndata: "%b"}',
    b'data: {"text":"%b",\n"x":1}',
    b'data: {"text":"%b"\n}',
    b'data: {"text":"%b"}\nevent: e%b',
    b'data\ndata: {"text":"%b"}',
    b'data: [\ndata: {"text":"%b"}',
    b'data:{"text":"%b"}',
    b'data: {"text":"%b"}\x0b',
]
PIECES: Sequence[bytes] = [
    *(b"", b"a", b" hello", b"5", b"12", b"0", b"1", b"7", b"Hi.", "\u00e9".encode(), "\U0001f600".encode()),
    *(b"", b"b", b" world", b"6", b"31", b"error", b"failed", b"response.failed", b"response.completed", b"status"),
    *(
        b'"',
        b'\\"',
        b"\\",
        b"\\\\",
        b"\\n",
        b"\\u0041",
        b"\\ud83d",
        b"\\x",
        b"\n",
        b"\n\n",
        b"\r",
        b"\t",
        b"\0",
        b"\x7f",
    ),
    *(b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", "\u2028".encode(), "\u0661".encode(), b'","error":"x', b'"},{"a":"b'),
    *(
        b'","finish_reason":"error',
        b'"}\n\ndata: {"error":"x',
        b"-1",
        b"01",
        b"1e999",
        b"1.5",
        b"9" * 400,
        b"null",
        b"{",
    ),
    *(b'"content":"', b',"content":"x"', b":", b",", b"}", b"event: error\n", b"data: ", b"x" * 70),
]


def filled(kind: bytes, random: Random, *, mostly: int) -> bytes:
    """An event of that kind; what varies is mostly one of the first pieces, which are harmless."""
    places = kind.count(b"%b")
    among = [PIECES[:11] if random.randrange(mostly) else PIECES for _ in range(places)]
    return kind % tuple(map(random.choice, among)) + b"\n\n"


def some_stream(random: Random) -> bytes:
    kinds = random.sample(KINDS, random.randrange(1, 4))
    events = [filled(random.choice(kinds), random, mostly=random.choice([2, 8, 40])) for _ in range(12)]
    return b"".join(events) + random.choice([b"", DONE, DONE, b"data: [DONE]\n", DONE + DONE])


def one_by_one(body: bytes, choices_expected: int = 1) -> Ending:
    """The ending that is found where each event is read."""
    with patch.object(sse, "unlike", side_effect=lambda _, others: others):
        return stream_ending(body, choices_expected)


@given(st.integers(0, 2**64).map(Random))
@settings(max_examples=600, deadline=None)
def test_streams_of_events_that_look_alike_end_as_they_would_if_each_were_read(random: Random) -> None:
    """Whatever varies, and wherever: check, reason and usage are the same."""
    body = some_stream(random)

    assert stream_ending(body, 1) == one_by_one(body)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_one_event_after_some_that_look_like_it_ends_as_it_would_if_it_were_read(kind: bytes) -> None:
    """Each piece in each place, alone among harmless ones."""
    places = kind.count(b"%b")
    for harmless in (b"a", b"5"):
        before = kind % ((harmless,) * places) + b"\n\n"
        for place in range(places):
            for piece in PIECES:
                event = kind % (*(harmless,) * place, piece, *(harmless,) * (places - place - 1)) + b"\n\n"
                for body in (before + event, before + before + event + DONE):
                    assert stream_ending(body, 1) == one_by_one(body)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"text":"%b","usage":{"prompt_tokens":1}}', b'{"text":"%b","usage":{"prompt_tokens":2}}'),
        (b'{"response":{"usage":{"input_tokens":1}},"text":"%b"}', b'{"text":"%b","usage":{"input_tokens":2}}'),
        (b'{"type":"response.completed","text":"%b"}', b'{"type":"response.incomplete","text":"%b"}'),
    ],
)
def test_what_says_something_that_the_last_one_decides_is_always_read(one: bytes, other: bytes) -> None:
    """Tokens, and how a response ended, count as they were said last, however often they were said before."""
    body = b"".join(b"data: " + said + b"\n\n" for said in (one % b"a", other % b"b", one % b"c"))

    ending = stream_ending(body, 1)

    assert ending == one_by_one(body)
    assert ending == stream_ending(b"data: " + one % b"a" + b"\n\n", 1)


@pytest.mark.parametrize(
    ("kind", "includes"),
    [
        (CHUNK, [b"", b" hello", "\u00e9\U0001f600".encode(), b"{}:,[]"]),
        (CHUNK.replace(b'":', b'": ').replace(b',"', b', "'), [b"", b" hello"]),
        (CHUNK.replace(b"content", b"reasoning_content"), [b"x"]),
        (b'event: e\n: c\nid: 1\ndata: {"choices":[{"delta":{"arguments":"%b"}}]}', [b"x"]),
    ],
    ids=["chat", "spaced", "reasoning", "fields"],
)
def test_events_that_differ_in_a_text_are_alike(kind: bytes, includes: Sequence[bytes]) -> None:
    """What is not read costs little; that is what all this is for."""
    like = [kind % text for text in includes]
    other = [kind % b'"', kind % b"\\", kind % b"a" + b" ", kind % b"\n"]

    assert unlike(kind % b"a", [*like, *like]) == []
    assert unlike(kind % b"a", [*other, *like, *other]) == [*other, *other]


def test_numbers_of_events_and_what_pads_them_may_vary() -> None:
    """In the Responses API no two events are the same otherwise."""
    harmless = [DELTA % (b"27", b"b"), PADDED % (b"", b"xyz"), DELTA % (b"28", b"b")]
    numbers = [DELTA % (number, b"b") for number in (b"", b"0", b"01", b"-1", b"1" * 16, b"1.0")]

    left = unlike(DELTA % (b"1", b"a"), [*harmless, *numbers])

    assert left == [harmless[1], *numbers]
    assert unlike(PADDED % (b"a", b"b"), left) == numbers


def test_a_stream_is_not_searched_for_more_and_more_kinds() -> None:
    """Of events among which no two are alike each would have all that follow looked through."""
    kinds = [b'data: {"%d":1,"text":"x"}\n\n' % number for number in range(100)]

    with patch.object(sse, "unlike", side_effect=lambda _, others: others) as search:
        stream_ending(b"".join(kinds), 1)

    assert search.call_count == 16
