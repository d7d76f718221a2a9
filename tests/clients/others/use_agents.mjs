// The Agents SDK in JavaScript: an agent with a tool, and a second turn on its response.
import { Agent, OpenAIResponsesModel, run, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

setTracingDisabled(true);
const previousResponseId = process.argv[2];
const client = new OpenAI({ baseURL: `${process.env.EVERTHREAD_URL}/v1`, apiKey: process.env.EVERTHREAD_KEY });
const weather = tool({
  name: "get_weather",
  description: "The weather of a city",
  parameters: z.object({ city: z.string() }),
  execute: async () => "sunny",
});
const agent = new Agent({ name: "Assistant", model: new OpenAIResponsesModel(client, "qwen3.5-plus"), tools: [weather] });
const asked = previousResponseId ? "What is my name?" : "My name is Ada. What is the weather in Oslo?";
const said = await run(agent, asked, previousResponseId ? { previousResponseId } : {});
console.log(JSON.stringify({ text: said.finalOutput, id: said.lastResponseId }));
