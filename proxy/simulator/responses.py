"""`/v1/responses`: one response of output items, streamed as named and numbered events."""

import time
from collections.abc import Iterator

import orjson

from proxy.simulator.answer import Answer, fresh_id, plain
from proxy.simulator.conversation import MOST_TOKENS, Call, Question, Reply, schema_in, tools_to_call
from proxy.simulator.request import Json, RequestBody
from proxy.simulator.speech import tokens_in

_Change = tuple[str, Json]  # the name of an event and what it says
_ECHOED: Json = {  # members of the request that the response repeats, and what they are where the request has none
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def response(body: RequestBody, usual_tokens: int) -> Answer:
    question = _question(body)
    reply = question.reply(usual_tokens)
    begun, items = _begun(body, question.model), _items(reply)
    usage = _usage(tokens_in(question.said), reply.tokens)
    ended = {**begun, **_ending(reply), "output": [item for item, _ in items], "usage": usage}
    if not body.flag("stream"):
        return plain(ended, question.model, usage["total_tokens"])
    changes = [("response.created", {"response": begun}), ("response.in_progress", {"response": begun})]
    for index, (item, pieces) in enumerate(items):
        changes += _call_changes(item, pieces, index) if reply.calls else _message_changes(item, pieces, index)
    changes.append((f"response.{ended['status']}", {"response": ended}))
    events = [_event(number, *change) for number, change in enumerate(changes)]
    return Answer(events, stream=True, model=question.model, tokens=usage["total_tokens"])


def _question(body: RequestBody) -> Question:
    asked = body.required("input", str, list)
    items = body.objects("input") if isinstance(asked, list) else [{"role": "user", "content": asked}]
    functions = [each for each in body.objects("tools") if each.get("type") == "function"]
    form = body.part("text").get("format")
    return Question(
        model=body.model(),
        said=orjson.dumps([body.members.get("instructions"), items], option=orjson.OPT_SORT_KEYS),
        tools=tools_to_call(body, functions, items[-1]),
        schema=schema_in(form, form) if isinstance(form, dict) else None,
        limit=body.integer("max_output_tokens", MOST_TOKENS),
    )


def _begun(body: RequestBody, model: str) -> Json:
    repeated = {name: body.members.get(name) for name in _ECHOED if body.members.get(name) is not None}
    return {
        "id": fresh_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "service_tier": "default",
        **(_ECHOED | repeated),
        "usage": None,
    }


def _ending(reply: Reply) -> Json:
    if reply.cut:
        return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return {"status": "completed", "completed_at": int(time.time())}


def _usage(input_tokens: int, output_tokens: int) -> Json:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def _items(reply: Reply) -> list[tuple[Json, tuple[str, ...]]]:
    """The output items, each with the pieces in which it is streamed."""
    if reply.calls:
        return [(_function_call(call), call.pieces) for call in reply.calls]
    content = [{"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}]
    status = "incomplete" if reply.cut else "completed"
    message = {"id": fresh_id("msg_"), "type": "message", "status": status, "role": "assistant", "content": content}
    return [(message, reply.pieces)]


def _function_call(call: Call) -> Json:
    names = {"id": fresh_id("fc_"), "call_id": fresh_id("call_"), "name": call.name}
    return {"type": "function_call", "status": "completed", "arguments": call.arguments, **names}


def _message_changes(item: Json, pieces: tuple[str, ...], index: int) -> Iterator[_Change]:
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = item["content"][0]
    begun = item | {"status": "in_progress", "content": []}
    yield "response.output_item.added", {"output_index": index, "item": begun}
    yield "response.content_part.added", {**place, "part": part | {"text": ""}}
    for piece in pieces:
        yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**place, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**place, "part": part}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _call_changes(item: Json, pieces: tuple[str, ...], index: int) -> Iterator[_Change]:
    place = {"item_id": item["id"], "output_index": index}
    begun = item | {"status": "in_progress", "arguments": ""}
    yield "response.output_item.added", {"output_index": index, "item": begun}
    for piece in pieces:
        yield "response.function_call_arguments.delta", {**place, "delta": piece}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield "response.function_call_arguments.done", {**place, **done}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _event(number: int, name: str, members: Json) -> bytes:
    said = orjson.dumps({"type": name, "sequence_number": number, **members})
    return b"event: %s\ndata: %s\n\n" % (name.encode(), said)
