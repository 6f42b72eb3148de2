"""Which finished responses may be stored, and which may not."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recording import Usage
from proxy.sse import Ending, Event, events, plain_ending, read_json, stream_ending

DONE = b"data: [DONE]\n\n"
STORABLE = Ending("done", None, None)


def event(item: object, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(item)}\n\n".encode()


def chunk(content: str | None = None, *, index: int = 0, finish_reason: object = None) -> bytes:
    choice = {"index": index, "delta": {"content": content}, "finish_reason": finish_reason}
    return event({"object": "chat.completion.chunk", "choices": [choice], "usage": None})


def response(kind: str, **members: object) -> bytes:
    return event(
        {"type": f"response.{kind}", "response": {"error": None, "usage": None, **members}}, f"response.{kind}"
    )


FINISH = chunk(finish_reason="stop")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}})
DELTA = event({"type": "response.output_text.delta", "delta": "Hi"}, "response.output_text.delta")
COMPLETED = response("completed", status="completed", usage={"input_tokens": 9, "output_tokens": 2})

CHAT = [b": connected\n\n", chunk(""), chunk("data: [DONE]\n\n"), chunk("\u2028\U0001f600"), FINISH, USAGE, DONE]
RESPONSES = [response("created", status="in_progress"), DELTA, b": ping\n\n", DELTA, COMPLETED]

ERRORS = [
    event({"error": {"message": "overloaded", "type": "server_error"}}),
    event({"error": "overloaded"}),
    event({"error": {"code": 502}, "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}),
    event({"choices": [{"index": 0, "error": {"code": 502}}]}),
    event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}),
    event({"message": "overloaded"}, "error"),
    b"event: error\ndata: overloaded\n\n",
    b"data: overloaded\nevent:error\n\n",
    b"event: error \n\n",
    b"event: error\n\n",
    event({"type": "error", "code": "x", "message": "overloaded"}),
    event({"object": "error", "message": "overloaded"}),
    event({"type": "response.error", "message": "overloaded"}),
    event({"message": "overloaded"}, "response.error"),
    event([{"error": {"message": "overloaded"}}]),
    response("failed", status="failed"),
    event({"type": "response.failed", "response": {}}),
    response("completed", status="failed"),
    b"event: response.failed\ndata: {}\n\n",
    event({"type": "response.in_progress", "response": {"error": {"code": "server_error"}}}),
    b'data: {"\\u0065rror": 1}\n\n',
    b'data: {\ndata: "error": 1}\n\n',
]

NO_ERRORS: list[Any] = [None, False, "", {}]
ODD_CHOICES: list[Any] = [{}, "x", [None], [{"index": "0", "finish_reason": "stop"}]]
ODD_USAGES: list[Any] = [None, {}, [], 5, "x"]


@pytest.mark.parametrize(
    ("body", "choices_expected", "check"),
    [
        (b"".join(CHAT), 1, "done"),
        (chunk("Hi") + DONE, 3, "done"),
        (b"".join(RESPONSES), 1, "response_completed"),
        (DELTA + response("incomplete", status="incomplete"), 1, "response_incomplete"),
        (event({"type": "response.completed"}), 1, "response_completed"),
        (COMPLETED + event({"type": "ping"}), 1, "response_completed"),
        (COMPLETED + DONE, 1, "done"),
        (chunk("Hi") + FINISH, 1, "finish_reason"),
        (FINISH + USAGE, 1, "finish_reason"),
        *((chunk("Hi") + chunk(finish_reason=reason), 1, "finish_reason") for reason in ("length", "content_filter")),
        (FINISH + chunk("after all"), 1, "finish_reason"),
        (chunk(index=1, finish_reason="stop") + chunk("Hi") + FINISH, 2, "finish_reason"),
        (chunk(index=1, finish_reason="stop") + FINISH, 1, "finish_reason"),
        (event({"choices": [{"text": "no index", "finish_reason": "stop"}]}), 1, "finish_reason"),
    ],
)
def test_a_stream_that_says_it_is_finished_may_be_stored(body: bytes, choices_expected: int, check: str) -> None:
    """By [DONE], else by its last event, else by each choice's finish_reason, and it is noted which."""
    ending = stream_ending(body, choices_expected)

    assert (ending.check, ending.reason) == (check, None)


@pytest.mark.parametrize(
    ("body", "choices_expected"),
    [
        (b"", 1),
        (b"\xef\xbb\xbf", 1),
        (b"\n\n\n", 1),
        (b": ping\n\n", 1),
        (chunk("Hi"), 1),
        (b"".join(RESPONSES[:-1]), 1),
        (response("created") + response("in_progress"), 1),
        (event({"x": 1}, "response.completed"), 1),
        (event({"choices": [{"text": "response.completed"}], "type": ["response.completed"]}), 1),
        (FINISH, 2),
        (FINISH + chunk("Hi", index=1), 1),
        (chunk(index=1, finish_reason="stop"), 1),
        (chunk(index=1, finish_reason="stop") + chunk(index=2, finish_reason="stop"), 2),
        (chunk(index=10**30, finish_reason="stop"), 1),
        (FINISH, 10**30),
        (FINISH + FINISH, 2),
        (chunk(finish_reason=""), 1),
        (chunk(index=-1, finish_reason="stop"), 1),
        *((event({"choices": choices}), 1) for choices in ODD_CHOICES),
        *((b"data: " + text + b"\n\n", 1) for text in (b"DONE", b"done", b"x[DONE]", b'"[DONE]"', b"")),
        (b": data: [DONE]\n\n", 1),
        (b"event: [DONE]\n\n", 1),
        (b"Data: [DONE]\n\n", 1),
        (b" data: [DONE]\n\n", 1),
        (b"data : [DONE]\n\n", 1),
        (event("data: [DONE]\n\n"), 1),
    ],
)
def test_a_stream_that_does_not_say_so_is_not_stored(body: bytes, choices_expected: int) -> None:
    """A clean end proves nothing: servers end half an answer cleanly too."""
    assert stream_ending(body, choices_expected)[:2] == (None, "no_end_marker")


@pytest.mark.parametrize(
    "tail",
    [
        *(
            b"data: [DONE]\n",
            b"data: [DONE]",
            b"data",
            b"d",
            b"\xef\xbb\xbf",
            b"event: ping\n",
            b"id: 5\n",
            b"retry: 1\n",
        ),
        *(b": ping", b":", b": ping\n: pi", b": ping\ndata: {}\n", b"\n\ndata: {", b"\n: ping\n\r\nx", b" \n", b"x\n"),
        *(b'data: {"error": 1}\n', b"data: [DONE]\n\0"),
    ],
)
def test_a_stream_that_ends_within_an_event_is_not_stored(tail: bytes) -> None:
    """Clients drop an event that no blank line ends, and nobody knows what it would have said."""
    assert stream_ending(DONE + tail, 1) == (None, "not_at_event_boundary", None)


@pytest.mark.parametrize(
    "tail", [b"", b"\n", b"\r", b"\r\n\n", b": ping\n", b":\n", b": ping\r\n: pong\r", b"\n\n:\n\n\n"]
)
def test_comments_and_blank_lines_may_follow_the_last_event(tail: bytes) -> None:
    """Servers that keep connections alive send them at any time."""
    assert stream_ending(DONE + tail, 1) == STORABLE


@pytest.mark.parametrize(
    "body",
    [
        *(b"data:[DONE]\n\n", b"data: [DONE] \n\n", b"data: [DONE]\t\n\n", b"data:  [DONE]\n\n"),
        *(
            b"data: [DONE]\r\r",
            b"data: [DONE]\r\n\r",
            b"data: [DONE]\n\r",
            b"data: [DONE]\r\n\n",
            b"data: [DONE]\n\r\n",
        ),
        *(b"\xef\xbb\xbfdata: [DONE]\n\n", b"\r\n\n\rdata: [DONE]\n\n"),
        b"id: 1\nretry: 5\nevent: done\n: x\ndata: [DONE]\nunknown: y\nflag\n\n",
        *(b"data: [DONE]\n\n: bye\n\n", b"data: [DONE]\n\ndata: [DONE]\n\n", b"data: [DONE]\n\nevent: ping\nid: 1\n\n"),
    ],
)
def test_done_is_recognised_however_it_is_written(body: bytes) -> None:
    """With any line end, with or without spaces, a byte order mark or other fields."""
    assert stream_ending(body, 1) == STORABLE


def test_only_the_first_byte_order_mark_is_none_of_the_stream() -> None:
    """A second one is part of the first field's name."""
    assert stream_ending(b"\xef\xbb\xbf\xef\xbb\xbf" + DONE, 1).check is None


@pytest.mark.parametrize("data", [b"ping", b"", b" ", b"null", b"true", b"0", b'"x"', b"[]", b"{}", b"keep-alive"])
def test_data_that_says_nothing_does_no_harm(data: bytes) -> None:
    """Some servers send pings as data; only what looks like JSON has to be JSON."""
    assert stream_ending(b"data: " + data + b"\n\n" + DONE, 1) == STORABLE
    assert stream_ending(b"data: " + data + b"\n\n", 1).check is None


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"{",
            b'{"choices":[{"index":0,"del',
            b'{"a":1}}',
            b'{"a":1}{"a":2}',
            b'{"a":1}\ndata: [DONE]',
            b"[ERROR] busy",
        ),
        *(
            b'{"a":"\xff"}',
            b'{"a":"\xf0\x9f"}',
            b'{"a":NaN}',
            b'{"a":-Infinity}',
            b"{'a':1}",
            b'{"a":1,}',
            b"[DONE",
            b"[DONE] x",
        ),
        *(b"[" * 100_000, b"[" * 2_000 + b"]" * 2_000, b'{"a":' + b"9" * 5_000 + b"}"),
        *(b'["\\ud800",NaN]', b'["\\ud800\xff"]', b'["\\uD800",', b'["\\ud800",' + b"[" * 100_000),
    ],
    ids=lambda data: repr(data[:30]),
)
def test_a_damaged_event_keeps_a_stream_from_being_stored(data: bytes) -> None:
    """What began as JSON and is none was cut or garbled, whatever came later."""
    assert stream_ending(b"data: " + data + b"\n\n" + DONE, 1) == (None, "unreadable_event", None)


def test_half_an_emoji_is_no_damage() -> None:
    """Servers that cut text by UTF-16 units send a surrogate pair in two deltas, which the SDKs can read."""
    halves = b'data: {"a":"\\ud83d"}\n\ndata: {"a":"\\ude00"}\n\n'

    assert stream_ending(halves + DONE, 1) == STORABLE
    assert read_json(b'"\\uD83D"') == "\ud83d"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("stream", [CHAT, RESPONSES], ids=["chat", "responses"])
def test_a_stream_with_an_error_anywhere_is_not_stored(error: bytes, stream: list[bytes]) -> None:
    """First, in the middle or after the end: an error with status 200 is an error."""
    for position in range(len(stream) + 1):
        body = b"".join([*stream[:position], error, *stream[position:]])
        for spelling in (body, body.replace(b"\n", b"\r\n"), body.replace(b"\n", b"\r")):
            assert stream_ending(spelling, 1)[:2] == (None, "error_event")


@pytest.mark.parametrize(
    "item",
    [
        *({"error": error, "choices": []} for error in NO_ERRORS),
        {"type": "response.created", "response": {"error": None}},
        {"type": "response.in_progress", "response": "error"},
        {"choices": [{"index": 0, "delta": {"content": '{"error": 1}'}}]},
        {"choices": [{"index": 0, "delta": {"error": 1}}]},
        {"type": ["error"], "object": {"error": 1}, "status": ["failed"]},
    ],
)
def test_what_only_mentions_an_error_is_none(item: dict[str, Any]) -> None:
    """Objects say `"error": null` when nothing is wrong, and answers may speak of errors."""
    assert stream_ending(event(item) + DONE, 1) == STORABLE


LINES = b"".join([b"id: 1\nretry: 2\n", *CHAT, *RESPONSES, b": bye\n"]).decode().split("\n")[:-1]


@given(st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=len(LINES), max_size=len(LINES)))
def test_line_ends_make_no_difference(ends: list[str]) -> None:
    """LF, CRLF and CR, mixed as they like, give the same events and the same ending."""
    for place in range(1, len(ends)):
        if ends[place - 1 : place + 1] == ["\r", "\n"] and not LINES[place]:
            ends[place] = "\r"  # CR, nothing and LF would be one line end and not two
    mixed = "".join(line + end for line, end in zip(LINES, ends, strict=True)).encode()
    plain = "".join(f"{line}\n" for line in LINES).encode()

    assert list(events(mixed)) == list(events(plain))
    assert stream_ending(mixed, 1) == stream_ending(plain, 1) == ("done", None, Usage(9, 2))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    ("stream", "finished_after"),
    [(CHAT, [5, 6, 7]), ([chunk("Hi"), chunk(" there"), DONE], [3]), (RESPONSES, [5])],
    ids=["chat", "chat without finish_reason", "responses"],
)
def test_a_stream_cut_before_its_end_is_not_stored(stream: list[bytes], finished_after: list[int], end: str) -> None:
    """Of all the places where a stream can be cut, only those after a finishing event and its blank line will do."""
    spelled = [part.replace(b"\n", end.encode()) for part in stream]
    body = b"".join(spelled)
    ends = {len(b"".join(spelled[:count])) for count in finished_after}
    if end == "\r\n":
        ends |= {position - 1 for position in ends}  # the CR of a blank line ends it by itself

    storable = {cut for cut in range(len(body) + 1) if stream_ending(body[:cut], 1).check}

    assert storable == ends


@given(st.binary(max_size=60) | st.text('data:event{}[]"1\r\n\ufeff ', max_size=60).map(str.encode))
def test_any_bytes_have_an_ending(body: bytes) -> None:
    """Either it may be stored or there is a reason why not, and nothing is raised."""
    for ending in (stream_ending(body, 1), plain_ending(body)):
        assert (ending.check is None) != (ending.reason is None)


MEMBERS = [
    "error",
    "type",
    "object",
    "status",
    "response",
    "choices",
    "index",
    "finish_reason",
    "usage",
    "prompt_tokens",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(MEMBERS),
            inner | st.sampled_from(["error", "response.failed", "response.completed", "failed"]),
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_json_has_an_ending(item: object) -> None:
    """A member of an unexpected type is never an exception."""
    for ending in (stream_ending(event(item), 1), plain_ending(json.dumps(item).encode())):
        assert (ending.check is None) != (ending.reason is None)


def test_events_are_read_as_the_standard_says() -> None:
    """One space after the colon goes, the last event name counts, data lines are joined, unknown fields ignored."""
    fields = b"event: a\nevent:b\ndata:1\ndata: 2\ndata:  3\ndata\nid: x\nfoo: y\n\n"
    others = b":c\n\n\n\n\ndata: \xe2\x80\xa8\x85\x0b\n\ndata: cut\n"

    assert list(events(fields + others)) == [
        Event(b"b", b"1\n2\n 3\n"),
        Event(b"", b""),
        Event(b"", b"\xe2\x80\xa8\x85\x0b"),
    ]


def test_a_huge_event_is_read_whole() -> None:
    """An image is megabytes in one line."""
    assert stream_ending(chunk("x" * 3_000_000, finish_reason="stop"), 1).check == "finish_reason"


@pytest.mark.parametrize(
    ("item", "usage"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}, Usage(3, 4)),
        ({"usage": {"input_tokens": 3, "output_tokens": 4}}, Usage(3, 4)),
        ({"usage": {"prompt_tokens": 3, "total_tokens": 3}}, Usage(3, 0)),
        ({"usage": {"prompt_tokens": 3}, "response": {}}, Usage(3, 0)),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, Usage(0, 0)),
        ({"usage": {"prompt_tokens": None, "completion_tokens": 4}}, Usage(0, 4)),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 4.0}}, None),
        ({"usage": {"prompt_tokens": True, "completion_tokens": "4"}}, None),
        *(({"usage": usage}, None) for usage in ODD_USAGES),
        ({}, None),
    ],
)
def test_usage_is_what_the_response_says(item: dict[str, Any], usage: Usage | None) -> None:
    """In both vocabularies, in a stream and in a plain answer; what is no count is ignored."""
    assert stream_ending(event(item) + DONE, 1).usage == usage
    assert stream_ending(event({"type": "response.completed", "response": item}), 1).usage == usage
    assert plain_ending(json.dumps(item).encode()) == ("json", None, usage)


def test_the_last_usage_counts() -> None:
    """Some servers count along with every event, and a later null takes nothing back."""
    counts = [event({"usage": {"prompt_tokens": 3, "completion_tokens": count}}) for count in (1, 2)]

    assert stream_ending(b"".join([*counts, FINISH, DONE]), 1).usage == Usage(3, 2)


def test_a_stream_that_is_not_stored_has_its_usage_all_the_same() -> None:
    """It has been paid for."""
    assert stream_ending(USAGE + ERRORS[0], 1) == (None, "error_event", Usage(9, 2))
    assert stream_ending(USAGE, 1) == (None, "no_end_marker", Usage(9, 2))
    assert stream_ending(USAGE + b"data", 1) == (None, "not_at_event_boundary", Usage(9, 2))


@pytest.mark.parametrize(
    "answer",
    [
        *(
            {},
            {"choices": [{"finish_reason": "stop"}]},
            {"error": None},
            {"data": []},
            {"object": "response", "error": None},
        ),
        *({"status": "completed", "error": None}, {"status": "incomplete"}, {"status": 7}, {"response": None}),
    ],
)
def test_a_plain_answer_without_error_may_be_stored(answer: dict[str, Any]) -> None:
    """Whatever else it holds, and however it is laid out."""
    assert plain_ending(json.dumps(answer).encode()) == ("json", None, None)
    assert plain_ending(b"\r\n " + json.dumps(answer, indent=2).encode() + b"\n") == ("json", None, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        *(
            (body, "not_json")
            for body in (b"", b" ", b"<html>", b"{", b'{"a":1', b'{"a":1}x', b'{"a":"\xff"}', b"data: {}")
        ),
        *((body, "not_json") for body in (b'{"a":NaN}', b"\xef\xbb\xbf{}", b"[" * 100_000, DONE)),
        *((body, "not_an_object") for body in (b"[]", b"null", b'"text"', b"1")),
        (b'{"error":{"message":"overloaded"}}', "error_body"),
        (b'{"error":"overloaded","choices":[]}', "error_body"),
        (b'{"object":"error","message":"overloaded"}', "error_body"),
        (b'{"type":"error","message":"overloaded"}', "error_body"),
        (b'{"choices":[{"finish_reason":"error"}]}', "error_body"),
        (b'{"object":"response","status":"failed","error":null}', "error_body"),
        (b'{"object":"response","status":"in_progress"}', "not_finished"),
        (b'{"object":"response","status":"queued"}', "not_finished"),
        (b'{"object":"response","status":"cancelled"}', "not_finished"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_plain_answer_that_is_no_answer_is_not_stored(body: bytes, reason: str) -> None:
    """Not JSON, no object, an error with status 200, or a response still in the making."""
    assert plain_ending(body) == (None, reason, None)


def test_every_prefix_of_a_plain_answer_is_refused() -> None:
    """JSON says itself where it ends."""
    body = orjson.dumps({"choices": [{"message": {"content": "a}"}}], "usage": {"prompt_tokens": 1}})

    assert [cut for cut in range(len(body) + 1) if plain_ending(body[:cut]).check] == [len(body)]
