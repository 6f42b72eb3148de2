"""What a person gets to read of a recorded answer."""

import json
from typing import Any

import pytest

from proxy.transcript import assembled_text

ODD: list[Any] = [None, 5, {}, [5], [{"index": "x", "text": 5}]]


def stream(*items: dict[str, Any]) -> bytes:
    return b"".join(f"data: {json.dumps(item)}\n\n".encode() for item in items) + b"data: [DONE]\n\n"


def plain(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, indent=1).encode()


def delta(index: int = 0, **members: object) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": members}]}


def message(**members: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": members}]}


def call(index: int, **function: str) -> dict[str, Any]:
    return {"index": index, "function": function}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (stream(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), delta()), "Hello"),
        (stream(delta(refusal="I "), delta(refusal="cannot")), "I cannot"),
        (stream(delta(content="\ud83d"), delta(content="\ude00")), "\U0001f600"),
        (stream({"choices": [{"index": 0, "text": "On"}]}, {"choices": [{"text": "ce"}]}), "Once"),
        (stream({"choices": [{"index": "x", "text": "On"}]}, delta(content="ce")), "Once"),
        (plain(message(content="Hello", refusal=None)), "Hello"),
        (plain(message(content=[{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}])), "Hello"),
        (plain({"choices": [{"index": 0, "text": "Once"}]}), "Once"),
        (b"\n" + plain(message(content="Hello")), "Hello"),
    ],
)
def test_the_text_is_put_together(body: bytes, text: str) -> None:
    """From deltas as from a whole message, from chat as from completions."""
    assert assembled_text(body) == text


def test_tool_calls_follow_the_text() -> None:
    """Each on its line, in the order of their indexes, however their deltas are mixed."""
    deltas = [call(1, name="time", arguments=""), call(0, name="weather", arguments='{"city"'), call(1, arguments="{}")]
    streamed = stream(
        delta(content="Wait."), *(delta(tool_calls=[one]) for one in [*deltas, call(0, arguments=':"Ulm"}')])
    )
    calls = [
        {"function": {"name": "weather", "arguments": '{"city":"Ulm"}'}},
        {"function": {"name": "time", "arguments": "{}"}},
    ]

    assert assembled_text(streamed) == 'Wait.\nweather({"city":"Ulm"})\ntime({})'
    assert assembled_text(plain(message(content="Wait.", tool_calls=calls))) == assembled_text(streamed)
    assert assembled_text(plain(message(content=None, function_call=calls[1]["function"]))) == "time({})"


def test_several_choices_have_headings() -> None:
    """Sorted by index, whichever came first."""
    body = stream(delta(1, content="B"), delta(0, content="A"), delta(1, content="b"), delta(2))

    assert assembled_text(body) == "--- 0 ---\nA\n\n--- 1 ---\nBb"


def test_a_response_reads_the_same_streamed_and_plain() -> None:
    """Its last event repeats the whole output, which is not read twice."""
    output = [
        {"type": "message", "content": [{"type": "output_text", "text": "Hello"}, {"type": "refusal", "refusal": "!"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "name": "time", "arguments": '{"in":"Ulm"}'},
    ]
    streamed = stream(
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "content": []}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "Hel"},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "lo"},
        {"type": "response.refusal.delta", "output_index": 0, "delta": "!"},
        {"type": "response.output_text.done", "output_index": 0, "text": "Hello"},
        {"type": "response.output_item.added", "output_index": 2, "item": {"type": "function_call", "name": "time"}},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"in":'},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '"Ulm"}'},
        {"type": "response.completed", "response": {"output": output}},
    )

    assert assembled_text(streamed) == '--- 0 ---\nHello!\n\n--- 2 ---\ntime({"in":"Ulm"})'
    assert assembled_text(plain({"object": "response", "output": output})) == assembled_text(streamed)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\xff", b"{", b"data: {\n\n", b"data: 5\n\n", plain({"data": [{"embedding": [0.5]}]}), stream()),
        *(plain({"choices": choices}) for choices in [*ODD, [{"message": 5}]]),
        *(plain(message(content=content, tool_calls=content)) for content in ODD),
        plain({"output": [5, {"type": "message", "content": 5}, {"type": "message", "content": [5]}]}),
        stream({"type": "response.output_text.delta", "delta": 5}, {"type": "response.output_item.added", "item": 5}),
    ],
)
def test_what_holds_no_text_gives_none(body: bytes) -> None:
    """Embeddings, damage and members of an unexpected type are no reason to fail."""
    assert assembled_text(body) == ""
