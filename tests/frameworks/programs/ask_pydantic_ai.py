"""Pydantic AI: an agent plain and streamed, with a tool, with an output type, on both APIs."""

import asyncio
import json

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

MODEL = "gpt-4o-mini"
WEATHER = "How is the weather in Málaga?"


class Weather(BaseModel):
    city: str
    celsius: float


def get_weather(city: str) -> str:
    """How the weather is in a city."""
    return f"Sunny in {city}."


async def pieces_of(model, question, **options):
    async with Agent(model, **options).run_stream(question) as run:
        return [piece async for piece in run.stream_text(delta=True, debounce_by=None)]


async def objects_of(model, question, output_type):
    async with Agent(model, output_type=output_type).run_stream(question) as run:
        return [each.model_dump() async for each in run.stream_output(debounce_by=None)]


def with_a_tool(model):
    run = Agent(model, tools=[get_weather]).run_sync(WEATHER)
    parts = [part for message in run.all_messages() for part in message.parts]
    calls = [[part.tool_call_id, part.args] for part in parts if part.part_kind == "tool-call"]
    return {"calls": calls, "answer": run.output}


def main():
    chat, responses = OpenAIChatModel(MODEL), OpenAIResponsesModel(MODEL)
    told = {
        "plain": Agent(chat).run_sync("Name a river.").output,
        "plain, async": asyncio.run(Agent(chat).run("Name a lake.")).output,
        "streamed": asyncio.run(pieces_of(chat, "Name a river.")),
        "tool": with_a_tool(chat),
        "tool, streamed": asyncio.run(pieces_of(chat, WEATHER, tools=[get_weather])),
        "schema": Agent(chat, output_type=NativeOutput(Weather)).run_sync(WEATHER).output.model_dump(),
        "schema, streamed": asyncio.run(objects_of(chat, WEATHER, NativeOutput(Weather))),
        "schema, as a function": Agent(chat, output_type=Weather).run_sync(WEATHER).output.model_dump(),
        "responses": Agent(responses).run_sync("Name a river.").output,
        "responses, streamed": asyncio.run(pieces_of(responses, "Name a river.")),
        "responses, tool": with_a_tool(responses),
        "responses, schema": Agent(responses, output_type=NativeOutput(Weather)).run_sync(WEATHER).output.model_dump(),
        "id": Agent(chat).run_sync("Name a river.").all_messages()[-1].provider_response_id,
    }
    print(json.dumps(told))


main()
