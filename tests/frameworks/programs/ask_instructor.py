"""Instructor: objects whole, in parts and one by one, by each of its ways to ask for them."""

import asyncio
import json

import instructor
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

WEATHER = "How is the weather in Málaga?"
ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": WEATHER}]}


class Weather(BaseModel):
    city: str
    celsius: float


def main():
    by_tool = instructor.from_openai(OpenAI(), mode=instructor.Mode.TOOLS)
    by_schema = instructor.from_openai(OpenAI(), mode=instructor.Mode.JSON_SCHEMA)
    responses = instructor.from_openai(OpenAI(), mode=instructor.Mode.RESPONSES_TOOLS)
    asynchronous = instructor.from_openai(AsyncOpenAI(), mode=instructor.Mode.TOOLS)
    told = {
        "tool": by_tool.create(response_model=Weather, **ASKED).model_dump(),
        "tool, async": asyncio.run(asynchronous.create(response_model=Weather, **ASKED)).model_dump(),
        "tool, streamed": [part.model_dump() for part in by_tool.create_partial(response_model=Weather, **ASKED)],
        "one by one": [each.model_dump() for each in by_tool.create_iterable(response_model=Weather, **ASKED)],
        "schema": by_schema.create(response_model=Weather, **ASKED).model_dump(),
        "schema, streamed": [part.model_dump() for part in by_schema.create_partial(response_model=Weather, **ASKED)],
        "responses, tool": responses.create(response_model=Weather, **ASKED).model_dump(),
        "id": by_tool.create_with_completion(response_model=Weather, **ASKED)[1].id,
    }
    print(json.dumps(told))


main()
