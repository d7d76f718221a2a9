// The parser of server-sent events, wherever chunks end.
import assert from "node:assert/strict";
import { test } from "node:test";
import { serverEvents, type ServerEvent } from "../dist/sse.js";

async function parsed(text: string, size: number): Promise<ServerEvent[]> {
  const bytes = new TextEncoder().encode(text);
  let at = 0;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (at >= bytes.length) controller.close();
      else controller.enqueue(bytes.slice(at, (at += size)));
    },
  });
  const found: ServerEvent[] = [];
  for await (const event of serverEvents(body)) found.push(event);
  return found;
}

const STREAM = "\uFEFF: hello\nid: 1\nevent: a\ndata: {\"x\": \"ä😀\"}\n\n:beat\n\nid:2;3.4\ndata:one\ndata: two\n\nid\ndata\n\nretry: 5\n\ndata: cut off";

test("events are read whole, for every size of chunks and every kind of line end", async () => {
  const expected = [
    { id: "1", data: '{"x": "ä😀"}' },
    { id: "2;3.4", data: "one\ntwo" },
    { id: "", data: "" },
  ];
  for (const end of ["\n", "\r\n", "\r"]) {
    const text = STREAM.replaceAll("\n", end);
    for (let size = 1; size <= text.length; size++) {
      assert.deepEqual(await parsed(text, size), expected, `${JSON.stringify(end)} ${size}`);
    }
  }
});

test("an event without an end is not collected without a limit", async () => {
  let sent = 0;
  const chunk = new Uint8Array(1_000_000).fill(120);
  const body = new ReadableStream<Uint8Array>({ pull: (controller) => (sent++, controller.enqueue(chunk)) });
  await assert.rejects(serverEvents(body).next(), { code: "bad_stream" });
  assert.ok(sent < 80);
});
