"""What the official SDK can ask on the cached routes: plain and streamed, by its helpers, with tools and schemas."""

from typing import Any

import openai
from pydantic import BaseModel

from tests.sdk import Call


class Weather(BaseModel):
    """What a structured answer is read into, and what a tool takes."""

    city: str
    celsius: float
    windy: bool


CHAT = "POST /v1/chat/completions"
COMPLETIONS = "POST /v1/completions"
EMBEDDINGS = "POST /v1/embeddings"
RESPONSES = "POST /v1/responses"

ASKED: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "How is the weather in Málaga?"}],
}
PROMPTED: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon a time"}
EMBEDDED: dict[str, Any] = {"model": "text-embedding-3-small", "input": ["sea", "harbour"]}
RESPONDED: dict[str, Any] = {"model": "gpt-5-mini", "input": "How is the weather in Málaga?"}
TOOL = {"name": "get_weather", "parameters": Weather.model_json_schema()}
CHAT_TOOLS = {"tools": [{"type": "function", "function": TOOL}]}
RESPONSE_TOOLS = {"tools": [{"type": "function", "strict": False, **TOOL}]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "weather", "schema": Weather.model_json_schema()}}
WITH_USAGE = {"stream_options": {"include_usage": True}}

CACHED = {
    "chat": Call("chat.completions.create", CHAT, ASKED),
    "chat, streamed": Call("chat.completions.create", CHAT, {**ASKED, "stream": True}),
    "chat, streamed with usage": Call("chat.completions.create", CHAT, {**ASKED, "stream": True, **WITH_USAGE}),
    "chat, three choices, streamed": Call("chat.completions.create", CHAT, {**ASKED, "n": 3, "stream": True}),
    "chat, through the helper": Call("chat.completions.stream", CHAT, ASKED),
    "tools": Call("chat.completions.create", CHAT, {**ASKED, **CHAT_TOOLS}),
    "tools, streamed": Call("chat.completions.create", CHAT, {**ASKED, **CHAT_TOOLS, "stream": True}),
    "tools, through the helper": Call(
        "chat.completions.stream",
        CHAT,
        {**ASKED, "tools": [openai.pydantic_function_tool(Weather, name="get_weather")]},
    ),
    "schema": Call("chat.completions.create", CHAT, {**ASKED, "response_format": SCHEMA}),
    "schema, parsed": Call("chat.completions.parse", CHAT, {**ASKED, "response_format": Weather}),
    "schema, through the helper": Call("chat.completions.stream", CHAT, {**ASKED, "response_format": Weather}),
    "completion": Call("completions.create", COMPLETIONS, PROMPTED),
    "completion, streamed": Call("completions.create", COMPLETIONS, {**PROMPTED, "stream": True}),
    "embeddings": Call("embeddings.create", EMBEDDINGS, EMBEDDED),
    "embeddings as floats": Call("embeddings.create", EMBEDDINGS, {**EMBEDDED, "encoding_format": "float"}),
    "response": Call("responses.create", RESPONSES, RESPONDED),
    "response, streamed": Call("responses.create", RESPONSES, {**RESPONDED, "stream": True}),
    "response, cut short, streamed": Call(
        "responses.create", RESPONSES, {**RESPONDED, "stream": True, "max_output_tokens": 3}
    ),
    "response, through the helper": Call("responses.stream", RESPONSES, RESPONDED),
    "response, parsed": Call("responses.parse", RESPONSES, {**RESPONDED, "text_format": Weather}),
    "response with tools": Call("responses.create", RESPONSES, {**RESPONDED, **RESPONSE_TOOLS}),
    "response with tools, streamed": Call(
        "responses.create", RESPONSES, {**RESPONDED, **RESPONSE_TOOLS, "stream": True}
    ),
    "raw response": Call("chat.completions.with_raw_response.create", CHAT, ASKED),
    "streaming response": Call("chat.completions.with_streaming_response.create", CHAT, {**ASKED, "stream": True}),
    "moderation": Call("moderations.create", "POST /v1/moderations", {"input": "I want to attack the castle."}),
}
