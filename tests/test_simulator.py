"""The simulated upstream, as the official SDK sees it: whatever the SDK asks for, it gets in the form it expects."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, LengthFinishReasonError, NotFoundError
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, Field

from proxy.simulator import Rhythm, Simulator

TOKENS = 24
HELLO: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}
ASK: Any = {"model": "gpt-4o-mini", "input": "Say hello."}
PLACE = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}}}
WEATHER = {"name": "get_weather", "description": "The weather in a city", "parameters": PLACE}
TIME = {"name": "get_time", "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}}}
CHAT_TOOLS: Any = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]
TOOLS: Any = [{"type": "function", **WEATHER}, {"type": "function", **TIME}]


class Leg(BaseModel):
    place: str
    kind: Literal["train", "ferry"]
    kilometres: float = Field(gt=0, le=900)
    booked: bool


class Journey(BaseModel):
    title: str = Field(min_length=3)
    legs: list[Leg] = Field(min_length=1)
    note: str | None


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(Rhythm(first_byte_ms=0, gap_ms=0, tokens=TOKENS))
    await simulator.start()
    yield simulator
    await simulator.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=simulator.base_url, api_key="sk-canary", max_retries=0) as client:
        yield client


async def chunks_of(client: AsyncOpenAI, **asked: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(**asked, stream=True)
    return [chunk async for chunk in stream]


async def test_a_chat_is_answered_whole(client: AsyncOpenAI) -> None:
    """A plain answer has one finished choice, and its usage adds up."""
    answer = await client.chat.completions.create(**HELLO)

    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason, answer.model) == ("assistant", "stop", "gpt-4o-mini")
    assert choice.message.content is not None
    assert choice.message.content.endswith(".")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + TOKENS


async def test_a_streamed_chat_says_what_the_plain_one_says(client: AsyncOpenAI) -> None:
    """The role comes first, then a token an event, then the reason for the end."""
    plain = await client.chat.completions.create(**HELLO)

    chunks = await chunks_of(client, **HELLO)

    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert len(chunks) == TOKENS + 2
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == plain.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (TOKENS + 1) + ["stop"]
    assert {(chunk.id, chunk.created) for chunk in chunks} == {(chunks[0].id, chunks[0].created)}


async def test_a_stream_counts_its_tokens_when_asked_to(client: AsyncOpenAI) -> None:
    """With include_usage a last chunk without choices carries what the plain answer would say."""
    plain = await client.chat.completions.create(**HELLO)

    chunks = await chunks_of(client, **HELLO, stream_options={"include_usage": True})

    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (TOKENS + 2)


async def test_several_choices_come_side_by_side(client: AsyncOpenAI) -> None:
    """Of n choices each is another text, and a stream gives a piece of each in turn."""
    plain = await client.chat.completions.create(**HELLO, n=3)

    chunks = await chunks_of(client, **HELLO, n=3)

    said = {0: "", 1: "", 2: ""}
    for chunk in chunks:
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [choice.message.content for choice in plain.choices] == list(said.values())
    assert len(set(said.values())) == 3
    assert [chunk.choices[0].index for chunk in chunks[:6]] == [0, 1, 2, 0, 1, 2]


async def test_the_same_prompt_gets_the_same_text_but_never_the_same_ids(client: AsyncOpenAI) -> None:
    """A replay can be told from a second call, and a test can rely on the text, in another process too."""
    first, second = [await client.chat.completions.with_raw_response.create(**HELLO) for _ in range(2)]
    other = await client.chat.completions.create(**HELLO | {"messages": [{"role": "user", "content": "Say more."}]})

    texts = [response.parse().choices[0].message.content for response in (first, second)]
    assert texts[0] == texts[1] != other.choices[0].message.content
    assert texts[0] == (
        "Another gentle lantern awaits the étude. One café repeats the road across the valley. "
        "The curious tide repeats the small rain."
    )
    assert first.parse().id != second.parse().id
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_a_limit_of_tokens_cuts_the_text_short(client: AsyncOpenAI) -> None:
    """What is left is the beginning of the whole, and both APIs say why it ended."""
    whole = await client.chat.completions.create(**HELLO)
    cut = await client.chat.completions.create(**HELLO, max_completion_tokens=5)
    response = await client.responses.create(**ASK, max_output_tokens=5)

    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 5
    assert cut.choices[0].message.content
    assert (whole.choices[0].message.content or "").startswith(cut.choices[0].message.content)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("prompt", "choice", "called"),
    [
        ("How is the weather in Paris?", "auto", ["get_weather"]),
        ("Tell me the time and the weather.", "auto", ["get_weather", "get_time"]),
        ("Get me a poem.", "auto", []),
        ("How is the weather in Paris?", "none", []),
        ("Get me a poem.", "required", ["get_weather"]),
        ("Get me a poem.", {"type": "function", "function": {"name": "get_time"}}, ["get_time"]),
    ],
)
async def test_tools_are_called_when_asked_for(
    client: AsyncOpenAI, prompt: str, choice: Any, called: list[str]
) -> None:
    """By the request, or by a prompt that speaks of what the tool is for; streamed and plain alike."""
    asked: Any = HELLO | {"messages": [{"role": "user", "content": prompt}], "tools": CHAT_TOOLS, "tool_choice": choice}

    plain = (await client.chat.completions.create(**asked)).choices[0]
    async with client.chat.completions.stream(**asked) as stream:
        streamed = (await stream.get_final_completion()).choices[0]

    for choice_made in (plain, streamed):
        calls = choice_made.message.tool_calls or []
        assert [call.function.name for call in calls if call.type == "function"] == called
        assert choice_made.finish_reason == ("tool_calls" if called else "stop")
        assert (choice_made.message.content is None) is bool(called)


async def test_the_arguments_of_a_call_are_streamed_in_pieces(client: AsyncOpenAI) -> None:
    """The first piece names the call, the rest are its arguments, which satisfy the tool's parameters."""
    chunks = await chunks_of(client, **HELLO, tools=CHAT_TOOLS, tool_choice="required")

    pieces = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    functions = [piece.function for piece in pieces if piece.function]
    arguments = json.loads("".join(function.arguments or "" for function in functions))
    assert len(pieces) > 5
    assert [function.name for function in functions] == ["get_weather"] + [None] * (len(pieces) - 1)
    assert (pieces[0].id or "").startswith("call_")
    assert isinstance(arguments["city"], str)
    assert arguments["days"] >= 1


async def test_the_result_of_a_tool_is_answered_in_words(client: AsyncOpenAI) -> None:
    """A conversation with tools comes to an end in both APIs: the model does not call the same tool for ever."""
    question: Any = {"role": "user", "content": "How is the weather?"}
    call: Any = (await client.chat.completions.create(**HELLO | {"messages": [question]}, tools=CHAT_TOOLS)).choices[0]
    item: Any = (await client.responses.create(model="gpt-4o", input=[question], tools=TOOLS)).output[0]
    result: Any = {"role": "tool", "tool_call_id": call.message.tool_calls[0].id, "content": "sunny weather"}
    output: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "sunny weather"}

    conversation = HELLO | {"messages": [question, call.message, result]}
    chat = await client.chat.completions.create(**conversation, tools=CHAT_TOOLS)
    response = await client.responses.create(model="gpt-4o", input=[question, item, output], tools=TOOLS)

    assert chat.choices[0].message.content
    assert response.output_text


async def test_structured_answers_satisfy_their_schema(client: AsyncOpenAI) -> None:
    """`parse` gives an instance of the model that was asked for, through both APIs, streamed too."""
    chat = await client.chat.completions.parse(**HELLO, response_format=Journey)
    response = await client.responses.parse(**ASK, text_format=Journey)
    async with client.responses.stream(**ASK, text_format=Journey) as stream:
        streamed = await stream.get_final_response()

    assert isinstance(chat.choices[0].message.parsed, Journey)
    assert isinstance(response.output_parsed, Journey)
    assert streamed.output_parsed == response.output_parsed


async def test_a_structured_answer_is_cut_short_like_any_other(client: AsyncOpenAI) -> None:
    """Half a document is not passed off as a whole one."""
    with pytest.raises(LengthFinishReasonError):
        await client.chat.completions.parse(**HELLO, response_format=Journey, max_tokens=3)


async def test_json_mode_answers_with_an_object(client: AsyncOpenAI) -> None:
    """Without a schema any JSON object will do."""
    answer = await client.chat.completions.create(**HELLO, response_format={"type": "json_object"})

    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


async def test_completions_answer_each_prompt(client: AsyncOpenAI) -> None:
    """The older API: a choice for each prompt, streamed and plain alike."""
    asked: Any = {"model": "gpt-3.5-turbo-instruct", "prompt": ["Once", "Twice"]}

    plain = await client.completions.create(**asked)
    said = {0: "", 1: ""}
    chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True)]
    for chunk in chunks:
        said[chunk.choices[0].index] += chunk.choices[0].text

    assert [choice.text for choice in plain.choices] == list(said.values())
    assert said[0] != said[1]
    assert [choice.finish_reason for choice in plain.choices] == ["stop", "stop"]
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == ["stop", "stop"]
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 2 * TOKENS


async def test_embeddings_are_the_same_in_both_encodings(client: AsyncOpenAI) -> None:
    """The SDK asks for base64 by itself; floats say the same numbers, and every vector has length 1."""
    asked: Any = {"model": "text-embedding-3-small", "input": ["a cat", "a dog"]}

    in_base64 = await client.embeddings.create(**asked)
    in_floats = await client.embeddings.create(**asked, encoding_format="float")

    vectors = [found.embedding for found in in_base64.data]
    assert [found.embedding for found in in_floats.data] == vectors
    assert vectors[0] != vectors[1]
    assert [len(vector) for vector in vectors] == [1536, 1536]
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1, 1], abs=1e-5)


async def test_embeddings_have_the_dimensions_asked_for(client: AsyncOpenAI) -> None:
    """Token lists count as one input each; the large model is larger."""
    short = await client.embeddings.create(model="text-embedding-3-small", input=[[1, 2], [3]], dimensions=8)
    large = await client.embeddings.create(model="text-embedding-3-large", input=[1, 2, 3])

    assert [len(found.embedding) for found in short.data] == [8, 8]
    assert [found.index for found in short.data] == [0, 1]
    assert [len(found.embedding) for found in large.data] == [3072]


async def test_a_response_is_streamed_as_numbered_events(client: AsyncOpenAI) -> None:
    """From `created` to `completed`, whose response is the one that a plain request gets."""
    plain = await client.responses.create(**ASK)

    events = [event async for event in await client.responses.create(**ASK, stream=True)]

    types = [event.type for event in events]
    assert types[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert types[4:-4] == ["response.output_text.delta"] * TOKENS
    assert types[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.output_text, last.response.usage) == (plain.output_text, plain.usage)
    assert last.response.id != plain.id


async def test_responses_call_functions(client: AsyncOpenAI) -> None:
    """The call is an output item of its own, with arguments that satisfy the parameters."""
    asked: Any = {"model": "gpt-4o", "input": "How is the weather?", "tools": TOOLS}

    plain = await client.responses.create(**asked)
    async with client.responses.stream(**asked) as stream:
        types = [event.type async for event in stream]
        streamed = await stream.get_final_response()

    (call,), (streamed_call,) = plain.output, streamed.output
    assert call.type == streamed_call.type == "function_call"
    assert call.name == "get_weather"
    assert call.arguments == streamed_call.arguments
    assert json.loads(call.arguments)["days"] >= 1
    assert types.count("response.function_call_arguments.delta") > 5


async def test_a_response_repeats_what_it_was_asked_with(client: AsyncOpenAI) -> None:
    """Settings of the request stand in the response, as callers read them there."""
    response = await client.responses.create(**ASK, instructions="Be kind.", metadata={"run": "7"}, temperature=0.5)

    assert (response.instructions, response.metadata, response.temperature) == ("Be kind.", {"run": "7"}, 0.5)
    assert response.tools == []


async def test_moderations_flag_violence_only(client: AsyncOpenAI) -> None:
    """One result for each text; parts of one input get one."""
    texts = await client.moderations.create(input=["I like you.", "I will attack you."])
    part: Any = {"type": "text", "text": "I like you."}
    parts = await client.moderations.create(input=[part])

    assert [result.flagged for result in texts.results] == [False, True]
    assert texts.results[1].categories.violence
    assert not texts.results[1].categories.hate
    assert [result.flagged for result in parts.results] == [False]


async def test_models_are_listed_and_found(client: AsyncOpenAI) -> None:
    """Names of one's own are models too, unless they say that they are not."""
    listed = [model.id async for model in client.models.list()]

    assert "gpt-4o-mini" in listed
    assert (await client.models.retrieve("ft:gpt-4o:mine/2")).id == "ft:gpt-4o:mine/2"
    with pytest.raises(NotFoundError, match="does not exist"):
        await client.models.retrieve("model-does-not-exist")
    with pytest.raises(NotFoundError) as refused:
        await client.chat.completions.create(**HELLO | {"model": "unknown-model"})
    assert refused.value.code == "model_not_found"


async def test_files_of_any_size_are_taken(client: AsyncOpenAI) -> None:
    """An upload is counted to its last byte, and listed."""
    content = b"0123456789abcdef" * 200_000

    file = await client.files.create(file=("notes.jsonl", content), purpose="batch")
    listed = [each async for each in client.files.list()]

    assert (file.bytes, file.filename, file.purpose) == (len(content), "notes.jsonl", "batch")
    assert listed == [file]


async def test_requests_are_counted_by_route(client: AsyncOpenAI, simulator: Simulator) -> None:
    """A test can say how often the upstream was asked, and for what."""
    await client.chat.completions.create(**HELLO)
    await client.chat.completions.create(**HELLO)
    await client.models.retrieve("gpt-4o")
    with pytest.raises(NotFoundError):
        await client.get("/nowhere", cast_to=object)

    assert simulator.requests_seen == 4
    assert simulator.requests_seen_by_route == {
        "POST /v1/chat/completions": 2,
        "GET /v1/models/{model}": 1,
        "other": 1,
    }
