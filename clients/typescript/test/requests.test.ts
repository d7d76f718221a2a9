// Requests that are answered at once: lists, tokens, repetitions, errors.
import assert from "node:assert/strict";
import { randomUUID, webcrypto } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { EverthreadError } from "@everthread/client";
import { randomKey } from "../dist/http.js";
import { client, direct, EVERYTHING, KEY, NOTHING, Proxy, read, URL_, userToken } from "./tools.js";

/** A proxy that answers the first requests itself. */
async function refusing(...refusals: { status: number; headers?: Record<string, string>; body?: string }[]) {
  const times: number[] = [];
  const server = createServer(async (request, response) => {
    times.push(performance.now());
    const refusal = refusals.shift();
    if (refusal) return response.writeHead(refusal.status, refusal.headers).end(refusal.body);
    const answer = await fetch(`${URL_}${request.url}`, { headers: { Authorization: request.headers.authorization ?? "" } });
    response.writeHead(answer.status, { "Content-Type": "application/json" }).end(await answer.text());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { baseURL: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`, times };
}

test("threads are created, read, changed, counted and deleted", async () => {
  const user = randomUUID();
  const page = client({ token: await userToken(user) });
  const made = await page.threads.create({ title: "A talk", metadata: { plan: "pro" } });
  const named = await page.threads.getOrCreate("notes");
  assert.equal((await page.threads.getOrCreate("notes")).id, named.id);
  assert.equal((await page.threads.retrieveByName("notes")).id, named.id);
  assert.equal((await page.threads.update(made.id, { title: "Another" })).title, "Another");
  assert.equal((await page.threads.retrieve(made.id)).title, "Another");
  assert.deepEqual(await direct.threads.count({ user }), { object: "thread.count", count: 2, more: false });
  assert.deepEqual((await read(direct.threads.list({ user, metadata: { plan: "pro" } }))).map((thread) => thread.id), [made.id]);
  await page.threads.delete(made.id);
  await assert.rejects(page.threads.retrieve(made.id), { status: 404, code: "thread_not_found" });
  const results = await direct.threads.bulk({ action: "archive", ids: [named.id, made.id] });
  assert.deepEqual(results.data.map((result) => result.done), [true, false]);
});

test("a list is iterated over its pages in both directions", async () => {
  const user = randomUUID();
  const ids = [];
  for (let left = 5; left > 0; left--) ids.unshift((await direct.threads.create({ user })).id);
  const first = await direct.threads.list({ user, limit: 2 });
  assert.equal(first.data.length, 2);
  assert.equal(first.has_more, true);
  assert.deepEqual((await read(direct.threads.list({ user, limit: 2 }))).map(({ id }) => id), ids);
  const before = direct.threads.list({ user, limit: 2, before: ids[4] ?? "" });
  const pages = await read(before.pages());
  assert.deepEqual(pages.reverse().flatMap(({ data }) => data.map(({ id }) => id)), ids.slice(0, 4));
});

test("a conversation is read, branched, forked, shared, rated and found", async () => {
  const word = `w${randomUUID().replaceAll("-", "")}`;
  const thread = await direct.threads.create({ title: "A talk" });
  const { id } = thread;
  const first = await direct.threads.turns.create(id, { input: `Echo: ${word}` });
  const second = await direct.threads.turns.create(id, { input: "Echo: two" });
  const other = await direct.threads.turns.create(id, { input: "Echo: three", parent_id: first.id });
  const ends = await read(direct.threads.branches(id));
  assert.deepEqual(new Set(ends.map((branch) => branch.id)), new Set([second.id, other.id]));
  await direct.threads.update(id, { head_id: second.id });
  const messages = await read(direct.threads.messages(id, { limit: 1 }));
  assert.deepEqual(messages.map((message) => message.turn_id), [first.id, first.id, second.id, second.id]);
  const newest = await direct.threads.messages(id, { turns: 1 });
  assert.equal(newest.data[0]?.content, "Echo: two");
  assert.equal((await read(direct.threads.messages(id, { turns: 1 }))).length, 4);
  assert.equal((await direct.threads.turns.retrieve(id, first.id)).input?.length, 1);
  assert.equal((await read(direct.threads.turns.list(id, { limit: 2 }))).length, 3);

  const items = await read(direct.threads.items.list(id, { limit: 2 }));
  assert.ok(items.length >= 4);
  const item = items[0]?.id ?? "";
  assert.equal((await direct.threads.items.retrieve(id, item)).id, item);
  await direct.threads.items.delete(id, item);
  await assert.rejects(direct.threads.items.retrieve(id, item), { status: 404 });

  const fork = await direct.threads.fork(id, { turn_id: first.id });
  assert.equal(fork.forked_turn_id, first.id);
  const link = await direct.threads.shares.create(id);
  const secret = link.path.split("/").at(-1) ?? "";
  const stranger = client({ token: "none" });
  assert.equal((await stranger.shared(secret)).title, "A talk");
  assert.equal((await direct.threads.shares.list(id)).data.length, 1);
  await direct.threads.shares.delete(link.id);
  await assert.rejects(stranger.shared(secret), { status: 404 });

  const given = await direct.threads.turns.feedback.create(id, first.id, { score: 1, label: word });
  assert.equal((await direct.threads.turns.feedback.list(id, first.id)).data[0]?.id, given.id);
  assert.deepEqual((await read(direct.feedback.list({ label: word }))).map((each) => each.id), [given.id]);
  await direct.feedback.delete(given.id);
  const hits = await read(direct.search(word, { limit: 1 }));
  assert.ok(hits.length >= 1);
  assert.ok((await read(direct.models.list())).some((model) => model.id === "qwen3.5-plus"));
  assert.equal((await direct.models.retrieve("qwen3.5-plus")).id, "qwen3.5-plus");
  assert.deepEqual((await direct.threads.compactions(id)).data, []);
});

test("an id that would lead to another route is refused before anything is sent", async () => {
  let sent = 0;
  const counting = client({ fetch: (...request) => (sent++, fetch(...request)) });
  for (const id of ["", ".", ".."]) {
    assert.throws(() => void counting.threads.delete(id), TypeError);
    assert.throws(() => void counting.threads.turns.cancel("thread_x", id), TypeError);
  }
  assert.equal(sent, 0);
  // A slash stays within its segment.
  await assert.rejects(counting.threads.retrieve("../models"), { status: 404 });
  assert.equal(sent, 1);
});

test("a lost answer is repeated with the same key: one turn", async () => {
  const { id } = await direct.threads.create();
  const proxy = await Proxy.listen(NOTHING, EVERYTHING);
  const turn = await proxy.client().threads.turns.create(id, { input: "Echo: once" });
  assert.equal(turn.output_text, "once");
  assert.deepEqual((await read(direct.threads.turns.list(id))).map((each) => each.id), [turn.id]);
});

test("a request whose repetition would have a further effect is not repeated", async () => {
  const proxy = await Proxy.listen(NOTHING, EVERYTHING);
  await assert.rejects(proxy.client().threads.create(), { code: "connection_lost", status: 0 });
  assert.equal(proxy.requests.length, 1);
});

test("a refusal is repeated after its Retry-After, but not often, and not after a long one", async () => {
  const { baseURL, times } = await refusing({ status: 503, headers: { "Retry-After": "1" } });
  await client({ baseURL }).threads.list();
  assert.ok((times[1] ?? 0) - (times[0] ?? 0) >= 990);

  const often = await refusing(...Array(9).fill({ status: 503, headers: { "Retry-After": "0" } }));
  await assert.rejects(client({ baseURL: often.baseURL, maxRetries: 2 }).threads.list(), { status: 503, code: "http_503", retryAfter: 0 });
  assert.equal(often.times.length, 3);

  const long = await refusing({ status: 429, headers: { "Retry-After": "3600" }, body: '{"error":{"code":"rate_limited","message":"Later."}}' });
  await assert.rejects(client({ baseURL: long.baseURL }).threads.list(), { status: 429, code: "rate_limited", message: "Later.", retryAfter: 3600 });
  assert.equal(long.times.length, 1);
});

test("a slow answer ends at the time-out, and a request at its signal", async () => {
  const { id } = await direct.threads.create();
  const hanging = await Proxy.listen(NOTHING);
  hanging.silent = true;
  await assert.rejects(hanging.client({ timeout: 200 }).threads.retrieve(id), { code: "timeout", status: 0 });
  const abort = new AbortController();
  const waiting = hanging.client().threads.retrieve(id, { signal: abort.signal });
  abort.abort();
  await assert.rejects(waiting, { name: "AbortError" });
});

test("a function's token is kept, and renewed once for all requests that are refused", async () => {
  const good = await userToken("ann");
  let asked = 0;
  const page = client({ token: async () => (asked++ ? good : "et_user.of.nobody") });
  await Promise.all([page.threads.list(), page.threads.list(), page.threads.list()]);
  await page.threads.list();
  assert.equal(asked, 2);

  let bad = 0;
  const refused = client({ token: () => `wrong${bad++}` });
  await assert.rejects(refused.threads.list(), { status: 401, code: "invalid_api_key" });
  assert.equal(bad, 2);

  const proxy = await Proxy.listen(EVERYTHING);
  await assert.rejects(proxy.client({ token: "wrong" }).threads.list(), { status: 401 });
  assert.equal(proxy.requests.length, 1);

  let failing = true;
  const failed = client({ token: () => (failing ? Promise.reject(new Error("signed out")) : KEY) });
  await assert.rejects(failed.threads.list(), { message: "signed out" });
  failing = false;
  await failed.threads.list();
});

test("an error page in place of a token is not kept, and a token is asked for again after a failed fetch", async () => {
  const answers = ["<html>\n502</html>", "", KEY];
  const page = client({ token: () => answers.shift() ?? KEY });
  await assert.rejects(page.threads.list(), { code: "bad_token" });
  await assert.rejects(page.threads.list(), { code: "bad_token" });
  await page.threads.list();

  let offline = 2;
  const token = () => (offline-- > 0 ? Promise.reject(new TypeError("fetch failed")) : KEY);
  for await (const event of client({ token }).events()) {
    assert.equal(event.type, "snapshot");
    break;
  }
  assert.equal(offline, -1);
});

test("keys are random where the platform has no randomUUID, or no crypto", (context) => {
  const own = Object.getOwnPropertyDescriptor(globalThis, "crypto") ?? {};
  context.after(() => Object.defineProperty(globalThis, "crypto", own));
  const lesser = { getRandomValues: (bytes: Uint8Array<ArrayBuffer>) => webcrypto.getRandomValues(bytes) };
  for (const value of [webcrypto, lesser, undefined]) {
    Object.defineProperty(globalThis, "crypto", { value, configurable: true });
    const keys = Array.from({ length: 100 }, randomKey);
    assert.equal(new Set(keys).size, 100);
    assert.ok(keys.every((key) => key.replaceAll("-", "").length === 32));
  }
});

test("an error has its status, code, field and message", async () => {
  await assert.rejects(direct.threads.create({ title: "x".repeat(1001) }), (error) => {
    assert.ok(error instanceof EverthreadError);
    assert.deepEqual([error.status, error.param, error.name], [400, "title", "EverthreadError"]);
    assert.ok(error.message && error.code);
    return true;
  });
});
