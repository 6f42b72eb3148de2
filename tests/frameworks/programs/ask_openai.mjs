// OpenAI's own client for Node: plain, streamed, through its helpers, with a tool, with a schema, on both APIs.

import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI();
const model = "gpt-4o-mini";
const river = [{ role: "user", content: "Name a river." }];
const weather = [{ role: "user", content: "How is the weather in Málaga?" }];
const Weather = z.object({ city: z.string(), celsius: z.number() });
const get_weather = {
  name: "get_weather",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const tools = [{ type: "function", function: get_weather }];

const all = async (stream, piece) => {
  const pieces = [];
  for await (const each of stream) pieces.push(piece(each));
  return pieces.filter((each) => each !== undefined);
};

async function throughTheHelper() {
  const stream = client.chat.completions.stream({ model, messages: river });
  const pieces = await all(stream, (chunk) => chunk.choices[0].delta.content);
  return { pieces, text: await stream.finalContent() };
}

async function withATool() {
  const run = client.chat.completions.runTools({
    model,
    messages: weather,
    tools: [{ type: "function", function: { ...get_weather, parse: JSON.parse, function: ({ city }) => `Sunny in ${city}.` } }],
  });
  const answer = await run.finalContent();
  return { calls: run.messages.flatMap((message) => message.tool_calls ?? []), answer };
}

const plain = await client.chat.completions.create({ model, messages: river });
const parsed = await client.chat.completions.parse({
  model,
  messages: weather,
  response_format: zodResponseFormat(Weather, "weather"),
});
const response = await client.responses.create({ model, input: "Name a river." });
const structured = await client.responses.parse({
  model,
  input: weather,
  text: { format: zodTextFormat(Weather, "weather") },
});
const embedded = await client.embeddings.create({ model: "text-embedding-3-small", input: ["sea", "harbour"] });

console.log(
  JSON.stringify({
    plain: plain.choices[0].message.content,
    streamed: await all(
      await client.chat.completions.create({ model, messages: river, stream: true }),
      (chunk) => chunk.choices[0].delta.content,
    ),
    "through the helper": await throughTheHelper(),
    tool: await withATool(),
    "tool, streamed": await all(
      await client.chat.completions.create({ model, messages: weather, tools, stream: true }),
      (chunk) => chunk.choices[0].delta.tool_calls,
    ),
    schema: parsed.choices[0].message.parsed,
    responses: response.output_text,
    "responses, streamed": await all(
      await client.responses.create({ model, input: "Name a river.", stream: true }),
      (event) => event.delta,
    ),
    "responses, schema": structured.output_parsed,
    embeddings: embedded.data.map((each) => each.embedding),
    id: plain.id,
  }),
);
