// The live list of threads.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import type { LiveEvent } from "@everthread/client";
import { client, direct, events, eventually, Proxy, read, URL_, userToken } from "./tools.js";

test("a user's list is followed over lost connections, and shows nobody else's threads", async () => {
  const token = await userToken(randomUUID());
  const page = client({ token });
  const old = await page.threads.create({ title: "old" });
  // Every connection is cut after one event and a part of the next.
  const proxy = await Proxy.listen(events(1, 20));
  const stream = proxy.client({ token }).events();
  const found: LiveEvent[] = [];
  const reading = read(stream, (event) => found.push(event));
  const seen = (check: (event: LiveEvent) => boolean) => eventually(async () => found.some(check));
  await seen((event) => event.type === "snapshot" && event.threads.length === 1 && event.threads[0]?.id === old.id);
  const other = await direct.threads.create({ user: randomUUID(), title: "secret" });
  const { id } = await page.threads.create({ title: "new" });
  await seen((event) => event.type === "thread.created" && event.thread.id === id);
  const turn = await page.threads.turns.create(id, { input: "Echo: hello" });
  await seen((event) => event.type === "thread.turn.created" && event.turn_id === turn.id);
  await seen((event) => event.type === "thread.turn.finished" && event.turn_id === turn.id && event.status === "completed");
  await page.threads.update(id, { title: "renamed" });
  await seen((event) => event.type === "thread.updated" && event.thread.title === "renamed");
  await direct.threads.delete(other.id);
  await page.threads.delete(id);
  await seen((event) => event.type === "thread.deleted" && event.thread_id === id);
  stream.abort();
  await reading;
  assert.equal(found.filter(({ type }) => type === "snapshot").length, 1);
  assert.ok(proxy.requests.length > 4);
  assert.ok(!JSON.stringify(found).includes(other.id) && !JSON.stringify(found).includes("secret"));
});

test("a list goes on after a reload where it was", async () => {
  const user = randomUUID();
  const page = client({ token: await userToken(user) });
  const stream = page.events();
  await read(stream, () => stream.abort());
  const { id } = await page.threads.create();
  const again = page.events({ after: stream.lastEventId ?? "" });
  const found = await read(again, () => again.abort());
  assert.deepEqual(found.map((event) => event.type), ["thread.created"]);
  assert.ok(JSON.stringify(found).includes(id));
  const server = direct.events({ user });
  const [snapshot] = await read(server, () => server.abort());
  assert.ok(snapshot?.type === "snapshot" && snapshot.threads.length === 1);
});

test("a ticket opens one stream once, without a header", async () => {
  const page = client({ token: await userToken("ann") });
  const url = await page.eventSourceURL("/v1/events");
  assert.ok(url.startsWith(`${URL_}/v1/events?ticket=`));
  const answer = await fetch(url);
  assert.equal(answer.status, 200);
  const reader = answer.body?.getReader();
  assert.match(new TextDecoder().decode((await reader?.read())?.value), /snapshot/);
  await reader?.cancel();
  assert.equal((await fetch(url)).status, 401);
  const { id } = await page.threads.create();
  const { ticket } = await page.streamTicket("/v1/events");
  assert.equal((await fetch(`${URL_}/v1/threads/${id}/events?ticket=${ticket}`)).status, 401);
});
