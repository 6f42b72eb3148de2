"""LiteLLM: completions plain and streamed, with a tool, with a schema, on both APIs; embeddings."""

import asyncio
import json

import litellm
from pydantic import BaseModel

MODEL = "openai/gpt-4o-mini"
WEATHER = "How is the weather in Málaga?"
GET_WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": GET_WEATHER}]


class Weather(BaseModel):
    city: str
    celsius: float


def asked(question):
    return {"model": MODEL, "messages": [{"role": "user", "content": question}]}


def text_of(answer):
    return answer.choices[0].message.content


def pieces_of(chunks):
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]


async def heard(question):
    """Plain and streamed, in one event loop: the calls share their connections."""
    plain = await litellm.acompletion(**asked(question))
    return text_of(plain), pieces_of(
        [chunk async for chunk in await litellm.acompletion(**asked(question), stream=True)]
    )


def with_a_tool():
    """Asked, told what the tool says, and asked again with all of it."""
    conversation = asked(WEATHER)
    calling = litellm.completion(**conversation, tools=TOOLS).choices[0].message
    calls = [call.model_dump() for call in calling.tool_calls]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "Sunny."} for call in calls]
    conversation["messages"] += [calling, *results]
    return {"calls": calls, "answer": text_of(litellm.completion(**conversation, tools=TOOLS))}


def with_a_tool_streamed():
    chunks = litellm.completion(**asked(WEATHER), tools=TOOLS, stream=True)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    return [call.model_dump() for delta in deltas for call in delta.tool_calls or []]


def main():
    streamed = list(litellm.completion(**asked("Name a river."), stream=True, stream_options={"include_usage": True}))
    response = litellm.responses(model=MODEL, input="Name a river.")
    events = litellm.responses(model=MODEL, input="Name a river.", stream=True)
    embedded = litellm.embedding(model="openai/text-embedding-3-small", input=["sea", "harbour"])
    plain, pieces = asyncio.run(heard("Name a lake."))
    told = {
        "plain": text_of(litellm.completion(**asked("Name a river."))),
        "plain, async": plain,
        "streamed": pieces_of(streamed),
        "streamed, async": pieces,
        "usage of a stream": [chunk.usage.completion_tokens for chunk in streamed if getattr(chunk, "usage", None)],
        "tool": with_a_tool(),
        "tool, streamed": with_a_tool_streamed(),
        "schema": json.loads(text_of(litellm.completion(**asked(WEATHER), response_format=Weather))),
        "responses": response.output[0].content[0].text,
        "responses, streamed": [event.delta for event in events if event.type == "response.output_text.delta"],
        "embeddings": [each["embedding"] for each in embedded.data],
        "id": litellm.completion(**asked("Name a river.")).id,
    }
    print(json.dumps(told))


main()
