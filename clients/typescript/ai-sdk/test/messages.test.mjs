/** The converter, over odd histories: `node --test`. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { validateUIMessages } from "ai";
import { toItems, toUIMessages } from "@everthread/ai-sdk";

/** Return a generator of repeatable numbers from 0 to 1. */
function random(seed) {
  return () => {
    seed = (seed * 1664525 + 1013904223) % 4294967296;
    return seed / 4294967296;
  };
}

const CONTENTS = [
  "words",
  "",
  null,
  undefined,
  7,
  [],
  [null, "x", {}],
  [{ type: "input_text", text: "in" }, { type: "output_text", text: "out" }, { type: "refusal", refusal: "no" }],
  [{ type: "output_text", text: "cited", annotations: [{ url: "https://a.example" }, null, { url: 3 }] }],
  [{ type: "input_image", image_url: "data:image/png;base64,AA==" }, { type: "input_image" }],
  [{ type: "input_video", video_url: "https://v.example/v.mp4" }, { type: "input_audio", data: "AAAA", format: "mp3" }],
  [{ type: "input_file", filename: "a.pdf", file_data: "data:application/pdf;base64,AA==" }],
  [{ type: "input_file", file_url: "https://f.example/a.pdf" }, { type: "never_heard_of", text: "new" }],
];
const ARGUMENTS = ["{}", '{"city": "Oslo"}', "{", "", "7", "null", undefined];
const OUTPUTS = ["clear", '{"sky":"clear"}', '{"error":"no"}', "{", "[]", "", undefined, [{ type: "input_text", text: "t" }]];
const TYPES = [
  "message", "function_call", "function_call_output", "reasoning", "web_search_call", "mcp_call", "custom_tool_call",
  "custom_tool_call_output", "mcp_approval_request", "mcp_approval_response", "image_generation_call", "malformed",
  "configuration_update", undefined,
];

function history(seed) {
  const next = random(seed);
  const one = (choices) => choices[Math.floor(next() * choices.length)];
  let turn = 0;
  return Array.from({ length: Math.floor(next() * 20) }, (_, index) => {
    if (next() < 0.4) turn += 1;
    const call = `call_${Math.floor(next() * 4)}`;
    return {
      type: one(TYPES),
      id: one([`item_${index}`, `item_${index}`, "item_same", undefined]),
      turn_id: one([`turn_${turn}`, `turn_${turn}`, `turn_${turn}`, undefined]),
      role: one(["user", "assistant", "assistant", "system", "developer"]),
      content: one(CONTENTS),
      summary: one([[], null, [{ type: "summary_text", text: "thought" }]]),
      call_id: one([call, call, undefined]),
      approval_request_id: one([`item_${index - 1}`, undefined]),
      approve: one([true, false]),
      name: one(["get_weather", ""]),
      arguments: one(ARGUMENTS),
      input: one(["free text", undefined]),
      output: one(OUTPUTS),
      action: one([undefined, { sources: [{ url: "https://s.example" }, null] }, "odd"]),
      result: one(["AAAA", undefined]),
      error: one([null, null, { message: "broken" }]),
    };
  });
}

const textsOf = (message) => message.parts.filter((part) => part.type === "text").map((part) => part.text);

test("odd histories become messages that the AI SDK accepts, with unique ids and every word", async () => {
  for (let seed = 1; seed <= 300; seed++) {
    const items = history(seed);
    const messages = toUIMessages(items);
    if (messages.length > 0) await validateUIMessages({ messages });
    assert.equal(new Set(messages.map((message) => message.id)).size, messages.length, `ids of ${seed}`);
    const shown = messages.flatMap(textsOf);
    for (const item of items.filter((item) => (item.type ?? "message") === "message")) {
      const contents = typeof item.content === "string" ? [{ text: item.content }] : (item.content ?? []);
      if (!Array.isArray(contents)) continue;
      for (const part of contents) {
        if (part?.text) assert.ok(shown.includes(part.text), `${part.text} of ${seed}`);
      }
    }
  }
});

test("messages are the same after they were sent back as items", () => {
  // The provider's own calls, sources and reasoning are not sent back; ids are the service's.
  const kept = (messages) =>
    messages
      .map(({ role, parts }) => [
        role,
        parts.filter((part) => ["text", "file"].includes(part.type) || (part.type.startsWith("tool-") && part.state !== "output-error")),
      ])
      .filter(([, parts]) => parts.length > 0);
  for (let seed = 1; seed <= 300; seed++) {
    const items = toItems(toUIMessages(history(seed)));
    const once = toUIMessages(items);
    assert.deepEqual(kept(toUIMessages(toItems(once))), kept(once), `history ${seed}`);
    assert.deepEqual(toItems(toUIMessages(toItems(once))), toItems(once), `items of ${seed}`);
  }
});

test("a turn of a tool belongs to the message of its call", () => {
  const messages = toUIMessages([
    { type: "message", id: "q", turn_id: "turn_1", role: "user", content: "Weather?" },
    { type: "function_call", id: "c", turn_id: "turn_1", call_id: "call_1", name: "get_weather", arguments: "{}" },
    { type: "function_call_output", id: "o", turn_id: "turn_2", call_id: "call_1", output: '{"error":"no network"}' },
    { type: "message", id: "a", turn_id: "turn_2", role: "assistant", content: [{ type: "output_text", text: "Sorry." }] },
    { type: "message", id: "s", turn_id: "turn_3", role: "user", content: "And now?" },
  ]);
  assert.deepEqual(
    messages.map(({ id, metadata, parts }) => [id, metadata?.turnId, parts.map((part) => part.type)]),
    [
      ["q", "turn_1", ["text"]],
      ["turn_1", "turn_2", ["step-start", "tool-get_weather", "step-start", "text"]],
      ["s", "turn_3", ["text"]],
      ["turn_3", "turn_3", ["step-start"]],
    ],
  );
  assert.equal(messages[1].parts[1].errorText, "no network");
});

test("a turn that has a tool's output and no answer yet is the one to continue", () => {
  const call = { type: "function_call", id: "c", turn_id: "turn_1", call_id: "call_1", name: "get_weather", arguments: "{}" };
  const output = { type: "function_call_output", id: "o", turn_id: "turn_2", call_id: "call_1", output: "clear" };
  const question = { type: "message", id: "q", turn_id: "turn_2", role: "user", content: "And now?" };
  const shown = (items) => toUIMessages(items).map(({ id, metadata, parts }) => [id, metadata.turnId, parts.length]);
  assert.deepEqual(shown([call, output]), [["turn_1", "turn_2", 3]]);
  assert.deepEqual(shown([call, output, question]), [["turn_1", "turn_1", 2], ["q", "turn_2", 1], ["turn_2", "turn_2", 1]]);
});
