"""LangChain: a chat model plain and streamed, with a tool, with a schema, on both APIs; embeddings."""

import asyncio
import json

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

MODEL = "gpt-4o-mini"
WEATHER = "How is the weather in Málaga?"


class Weather(BaseModel):
    city: str
    celsius: float


@tool
def get_weather(city: str) -> str:
    """How the weather is in a city."""
    return f"Sunny in {city}."


async def heard(model, question):
    """Plain and streamed, in one event loop: the models share their connections."""
    plain = await model.ainvoke(question)
    return plain.text, [chunk.text async for chunk in model.astream(question)]


def with_a_tool(model):
    """Asked, told what the tool says, and asked again with all of it."""
    said = [HumanMessage(WEATHER)]
    said.append(model.bind_tools([get_weather]).invoke(said))
    said += [get_weather.invoke(call) for call in said[-1].tool_calls]
    said.append(model.bind_tools([get_weather]).invoke(said))
    return {"calls": said[1].tool_calls, "answer": said[-1].text}


def with_a_tool_streamed(model):
    return [chunk.tool_call_chunks for chunk in model.bind_tools([get_weather]).stream(WEATHER)]


def main():
    chat, responses = ChatOpenAI(model=MODEL), ChatOpenAI(model=MODEL, use_responses_api=True)
    embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False)  # or it fetches its tokenizer from the network
    plain, pieces = asyncio.run(heard(chat, "Name a lake."))
    told = {
        "plain": chat.invoke("Name a river.").text,
        "plain, async": plain,
        "streamed": [chunk.text for chunk in chat.stream("Name a river.")],
        "streamed, async": pieces,
        "several at once": [answer.text for answer in chat.batch(["Name a sea.", "Name a bay.", "Name a cape."])],
        "tool": with_a_tool(chat),
        "tool, streamed": with_a_tool_streamed(chat),
        "schema": chat.with_structured_output(Weather).invoke(WEATHER).model_dump(),
        "schema, as a function": chat.with_structured_output(Weather, method="function_calling")
        .invoke(WEATHER)
        .model_dump(),
        "responses": responses.invoke("Name a river.").text,
        "responses, streamed": [chunk.text for chunk in responses.stream("Name a river.")],
        "responses, tool": with_a_tool(responses),
        "embeddings": embeddings.embed_documents(["sea", "harbour"]),
        "id": chat.invoke("Name a river.").response_metadata["id"],
    }
    print(json.dumps(told))


main()
