// A conversation by the types that openapi-typescript makes of the document.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const client = createClient<paths>({
  baseUrl: process.env.EVERTHREAD_URL,
  headers: { Authorization: `Bearer ${process.env.EVERTHREAD_KEY}` },
});

function found<T>(answer: { data?: T; error?: components["schemas"]["Error"] }): T {
  if (answer.data === undefined) throw new Error(answer.error?.error.message);
  return answer.data;
}

const thread: components["schemas"]["Thread"] = found(await client.POST("/v1/threads", { body: { title: "A talk" } }));
const path = { thread_id: thread.id };
found(await client.POST("/v1/threads/{thread_id}/turns", { params: { path }, body: { input: "My name is Ada." } }));
const turn = found(
  await client.POST("/v1/threads/{thread_id}/turns", { params: { path }, body: { input: "What is my name?" } }),
);
const listed = found(
  await client.GET("/v1/threads/{thread_id}/turns", { params: { path, query: { order: "asc", limit: 10 } } }),
);
const refused = await client.GET("/v1/threads/{thread_id}", { params: { path: { thread_id: "thread_x" } } });
if (!("output_text" in turn)) throw new Error("it is a stream");
console.log(
  JSON.stringify({ text: turn.output_text, turns: listed.data.length, code: refused.error?.error.code }),
);
