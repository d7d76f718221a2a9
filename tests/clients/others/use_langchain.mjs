// LangChain in JavaScript: a model with a tool, and a second turn on its response.
import { tool } from "@langchain/core/tools";
import { ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

const previous = process.argv[2];
const model = new ChatOpenAI({
  model: "qwen3.5-plus",
  useResponsesApi: true,
  apiKey: process.env.EVERTHREAD_KEY,
  configuration: { baseURL: `${process.env.EVERTHREAD_URL}/v1` },
});
const weather = tool(async () => "sunny", {
  name: "get_weather",
  description: "The weather of a city",
  schema: z.object({ city: z.string() }),
});
let last;
if (previous) {
  last = await model.invoke("What is my name?", { previous_response_id: previous });
} else {
  const able = model.bindTools([weather]);
  const first = await able.invoke("My name is Ada. What is the weather in Oslo?");
  const [call] = first.tool_calls;
  const answered = [new ToolMessage({ content: await weather.invoke(call.args), tool_call_id: call.id })];
  last = await able.invoke(answered, { previous_response_id: first.response_metadata.id });
}
console.log(JSON.stringify({ text: last.text, id: last.response_metadata.id }));
