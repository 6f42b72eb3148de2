"""`/v1/chat/completions` and the older `/v1/completions`: choices, streamed side by side, and at the end `[DONE]`."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import NamedTuple

import orjson

from proxy.simulator.answer import DONE, Answer, data, fresh_id, plain
from proxy.simulator.conversation import MOST_TOKENS, Call, Question, Reply, schema_in, tools_to_call
from proxy.simulator.request import Json, RequestBody
from proxy.simulator.speech import tokens_in

_MOST_CHOICES = 128


def chat(body: RequestBody, usual_tokens: int) -> Answer:
    question, choices = _question(body), body.integer("n", _MOST_CHOICES) or 1
    replies = [question.reply(usual_tokens, choice) for choice in range(choices)]
    head = {
        "id": fresh_id("chatcmpl-"),
        "object": "chat.completion.chunk" if body.flag("stream") else "chat.completion",
        "created": int(time.time()),
        "model": question.model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }
    return _answer(body, head, tokens_in(question.said), replies, _CHAT)


def completion(body: RequestBody, usual_tokens: int) -> Answer:
    model, prompts, choices = body.model(), body.inputs("prompt"), body.integer("n", _MOST_CHOICES) or 1
    limit = body.integer("max_tokens", MOST_TOKENS)
    questions = [Question(model, orjson.dumps(prompt), limit=limit) for prompt in prompts]
    replies = [question.reply(usual_tokens, choice) for question in questions for choice in range(choices)]
    head = {"id": fresh_id("cmpl-"), "object": "text_completion", "created": int(time.time()), "model": model}
    return _answer(body, head, sum(tokens_in(question.said) for question in questions), replies, _COMPLETION)


def _question(body: RequestBody) -> Question:
    body.required("messages", list)
    messages, form = body.objects("messages"), body.part("response_format")
    functions = [each["function"] for each in body.objects("tools") if isinstance(each.get("function"), dict)]
    return Question(
        model=body.model(),
        said=orjson.dumps(messages, option=orjson.OPT_SORT_KEYS),
        tools=tools_to_call(body, functions, messages[-1]),
        schema=schema_in(form, form.get("json_schema")),
        limit=body.integer("max_completion_tokens", MOST_TOKENS) or body.integer("max_tokens", MOST_TOKENS),
    )


class _Form(NamedTuple):
    """What a choice says: whole, and in the pieces of a stream, the last of which ends it."""

    whole: Callable[[Reply], Json]
    pieces: Callable[[Reply], Iterable[Json]]


def _answer(body: RequestBody, head: Json, prompt_tokens: int, replies: list[Reply], form: _Form) -> Answer:
    usage = _usage(prompt_tokens, sum(reply.tokens for reply in replies))
    model, tokens = head["model"], usage["total_tokens"]
    if not body.flag("stream"):
        choices = [_choice(index, form.whole(reply), _finish_reason(reply)) for index, reply in enumerate(replies)]
        return plain({**head, "choices": choices, "usage": usage}, model, tokens)
    with_usage = bool(body.part("stream_options").get("include_usage"))
    rest = {"usage": None} if with_usage else {}
    events = [data({**head, "choices": [choice], **rest}) for choice in _side_by_side(replies, form)]
    if with_usage:
        events.append(data({**head, "choices": [], "usage": usage}))
    return Answer([*events, DONE], stream=True, model=model, tokens=tokens)


def _side_by_side(replies: list[Reply], form: _Form) -> Iterator[Json]:
    """The pieces of all choices, one of each in turn."""
    columns = []
    for index, reply in enumerate(replies):
        *growing, last = form.pieces(reply)
        ending = _choice(index, last, _finish_reason(reply))
        columns.append([*(_choice(index, piece, None) for piece in growing), ending])
    for row in zip_longest(*columns):
        yield from filter(None, row)


def _choice(index: int, said: Json, finish_reason: str | None) -> Json:
    return {"index": index, **said, "logprobs": None, "finish_reason": finish_reason}


def _finish_reason(reply: Reply) -> str:
    if reply.calls:
        return "tool_calls"
    return "length" if reply.cut else "stop"


def _usage(prompt_tokens: int, completion_tokens: int) -> Json:
    nothing_special = {"reasoning_tokens": 0, "audio_tokens": 0}
    predicted = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": nothing_special | predicted,
    }


def _message(reply: Reply) -> Json:
    message: Json = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
    if reply.calls:
        message |= {"content": None, "tool_calls": [_tool_call(call, call.arguments) for call in reply.calls]}
    return {"message": message}


def _deltas(reply: Reply) -> Iterator[Json]:
    yield {"delta": {"role": "assistant", "content": None if reply.calls else "", "refusal": None}}
    for piece in reply.pieces:
        yield {"delta": {"content": piece}}
    for index, call in enumerate(reply.calls):
        yield {"delta": {"tool_calls": [{"index": index, **_tool_call(call, "")}]}}
        for piece in call.pieces:
            yield {"delta": {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}}
    yield {"delta": {}}


def _tool_call(call: Call, arguments: str) -> Json:
    return {"id": fresh_id("call_"), "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _texts(reply: Reply) -> Iterator[Json]:
    for piece in reply.pieces:
        yield {"text": piece}
    yield {"text": ""}


_CHAT = _Form(_message, _deltas)
_COMPLETION = _Form(lambda reply: {"text": reply.text}, _texts)
