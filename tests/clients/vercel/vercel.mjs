// node vercel.mjs STEP [RESPONSE_ID]: one step with the Vercel AI SDK, against EVERTHREAD_URL; prints what came, as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [, , step, responseId] = process.argv;
const openai = createOpenAI({ baseURL: `${process.env.EVERTHREAD_URL}/v1`, apiKey: process.env.EVERTHREAD_KEY });
const model = openai.responses("qwen3.5-plus");
const weather = tool({
  description: "The weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => "sunny",
});

async function read(stream) {
  const found = { text: "", reasoning: "", errors: [] };
  for await (const part of stream) {
    if (part.type === "text-delta") found.text += part.text;
    if (part.type === "reasoning-delta") found.reasoning += part.text;
    if (part.type === "error") found.errors.push(part.error.message ?? JSON.stringify(part.error));
  }
  return found;
}

const steps = {
  async begin() {
    const said = await generateText({ model, prompt: "My name is Ada." });
    return { id: said.providerMetadata.openai.responseId };
  },
  async goOn() {
    const said = await generateText({
      model,
      prompt: "What is my name?",
      providerOptions: { openai: { previousResponseId: responseId } },
    });
    return { text: said.text };
  },
  async messages() {
    const messages = [{ role: "user", content: "My name is Ada." }];
    messages.push(...(await generateText({ model, messages })).response.messages);
    messages.push({ role: "user", content: "What is my name?" });
    return await read(streamText({ model, messages }).fullStream);
  },
  async tool() {
    const said = streamText({
      model,
      prompt: "Use get_weather for Oslo",
      tools: { get_weather: weather },
      stopWhen: stepCountIs(3),
    });
    return { ...(await read(said.fullStream)), steps: (await said.steps).length };
  },
  async silent() {
    return await read(streamText({ model, maxRetries: 0, prompt: "Echo: one two three" }).fullStream);
  },
  async silentChat() {
    const chat = openai.chat("qwen3.5-plus");
    return await read(streamText({ model: chat, maxRetries: 0, prompt: "Echo: one two three" }).fullStream);
  },
  async reasoning() {
    const options = { reasoningSummary: "auto", reasoningEffort: "low", forceReasoning: true };
    return await read(streamText({ model, prompt: "Think", providerOptions: { openai: options } }).fullStream);
  },
  async object() {
    const schema = z.object({ city: z.string() });
    return (await generateObject({ model, schema, prompt: "Oslo" })).object;
  },
};

console.log(JSON.stringify(await steps[step]()));
