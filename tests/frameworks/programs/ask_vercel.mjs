// The Vercel AI SDK: text plain and streamed, with a tool, with a schema, on both APIs; embeddings.

import { openai } from "@ai-sdk/openai";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const chat = openai.chat("gpt-4o-mini");
const responses = openai.responses("gpt-4o-mini");
const river = "Name a river.";
const weather = "How is the weather in Málaga?";
const Weather = z.object({ city: z.string(), celsius: z.number() });
const tools = {
  get_weather: tool({
    description: "How the weather is in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `Sunny in ${city}.`,
  }),
};
const stopWhen = stepCountIs(3);

const all = async (stream) => {
  const pieces = [];
  for await (const each of stream) pieces.push(each);
  return pieces;
};

async function withATool(model) {
  const run = await generateText({ model, prompt: weather, tools, stopWhen });
  return { calls: run.steps.flatMap((step) => step.toolCalls), answer: run.text };
}

const plain = await generateText({ model: chat, prompt: river });
const output = Output.object({ schema: Weather });
const embedded = await embedMany({ model: openai.embedding("text-embedding-3-small"), values: ["sea", "harbour"] });

console.log(
  JSON.stringify({
    plain: plain.text,
    streamed: await all(streamText({ model: chat, prompt: river }).textStream),
    tool: await withATool(chat),
    "tool, streamed": await all(streamText({ model: chat, prompt: weather, tools, stopWhen }).textStream),
    schema: (await generateText({ model: chat, prompt: weather, output })).output,
    "schema, streamed": await all(streamText({ model: chat, prompt: weather, output }).partialOutputStream),
    responses: (await generateText({ model: responses, prompt: river })).text,
    "responses, streamed": await all(streamText({ model: responses, prompt: river }).textStream),
    "responses, tool": await withATool(responses),
    embeddings: embedded.embeddings,
    id: plain.response.id,
  }),
);
