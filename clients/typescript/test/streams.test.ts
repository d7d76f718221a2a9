// Streams of turns: what is read is complete and in order, whatever happens to connections.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EverthreadError, type LocalMessage, type ThreadEvent, type Turn, type TurnEvent, type TurnResponse } from "@everthread/client";
import { client, direct, events, eventually, EVERYTHING, fault, kinds, NOTHING, Proxy, read, redis, said, userToken } from "./tools.js";

const WORDS = "one two three four";
const INPUT = { input: `Echo: ${WORDS}` };
/** Takes 20 seconds where each event takes 0.3, unless it is stopped. */
const LONG = { input: `Echo: ${Array(15).fill(WORDS).join(" ")}` };

function last(found: TurnEvent[]): TurnResponse {
  const event = found.at(-1);
  assert.ok(event && "response" in event);
  return event.response;
}

// None of these changes what the emulator does for another.
describe("without faults of the provider", { concurrency: true }, () => {
  test("a stream has the events of the turn, and the turn afterwards", async () => {
    const thread = await direct.threads.create();
    const stream = direct.threads.turns.stream(thread.id, INPUT);
    const found = await read(stream);
    assert.equal(said(found), WORDS);
    assert.equal(stream.text, WORDS);
    assert.deepEqual(found.map((event) => event.sequence_number), [...found.keys()]);
    assert.equal(last(found).status, "completed");
    const turn = await stream.finalTurn();
    assert.equal(turn.id, stream.turnId);
    assert.equal(turn.output_text, WORDS);
    assert.equal(turn.input?.[0]?.content, INPUT.input);
    assert.equal((await stream.finalResponse()).status, "completed");
    await assert.rejects(read(stream), TypeError);
  });

  test("the end can be awaited without reading", async () => {
    const thread = await direct.threads.create();
    const turn = await direct.threads.turns.stream(thread.id, INPUT).finalTurn();
    assert.equal(turn.output_text, WORDS);
  });

  test("a stream can be read as a web stream", async () => {
    const thread = await direct.threads.create();
    const found: TurnEvent[] = [];
    const reader = direct.threads.turns.stream(thread.id, INPUT).toReadableStream().getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) found.push(next.value);
    assert.equal(said(found), WORDS);
  });

  test("a connection cut at or within any event loses and doubles nothing, and creates one turn", async () => {
    const thread = await direct.threads.create();
    const whole = await read(direct.threads.turns.stream(thread.id, INPUT));
    const cuts = [NOTHING, ...[...whole.keys()].flatMap((number) => [events(number), events(number, 30)])];
    assert.ok(cuts.length > 20);
    await Promise.all(
      cuts.map(async (cut) => {
        const { id } = await direct.threads.create();
        const proxy = await Proxy.listen(cut, EVERYTHING);
        const found = await read(proxy.client().threads.turns.stream(id, INPUT));
        assert.deepEqual(kinds(found), kinds(whole));
        assert.equal(proxy.requests.length, 2);
        assert.equal((await direct.threads.turns.list(id)).data.length, 1);
        proxy.close();
      }),
    );
  });

  test("connections that each bring one event bring the whole stream", async () => {
    const { id } = await direct.threads.create();
    const proxy = await Proxy.listen(events(1, 10));
    // The emulator's turn has more events than this stream has attempts: each event renews them.
    const found = await read(proxy.client({ streamRetries: 2 }).threads.turns.stream(id, { input: "Echo: one" }));
    assert.equal(said(found), "one");
    assert.deepEqual(found.map((event) => event.sequence_number), [...found.keys()]);
    assert.ok(proxy.requests.length >= found.length);
  });

  test("a connection that falls silent is replaced", async () => {
    const { id } = await direct.threads.create();
    const proxy = await Proxy.listen(events(3), EVERYTHING);
    proxy.silent = true;
    const found = await read(proxy.client({ stallTimeout: 1000 }).threads.turns.stream(id, INPUT));
    assert.equal(said(found), WORDS);
    assert.ok(proxy.requests.length >= 2);
  });

  test("a service that stays away is told after a bounded number of attempts", async () => {
    const { id } = await direct.threads.create();
    const proxy = await Proxy.listen(events(3), NOTHING);
    const found: TurnEvent[] = [];
    const reading = read(proxy.client({ streamRetries: 2 }).threads.turns.stream(id, INPUT), (event) => found.push(event));
    await assert.rejects(reading, { name: "EverthreadError", code: "connection_lost", status: 0 });
    assert.deepEqual(found.map((event) => event.sequence_number), [0, 1, 2]);
    assert.equal(proxy.requests.length, 3);
  });

  test("a turn that has begun outlasts the refusals of a restart; one that has not is refused", async () => {
    const { id } = await direct.threads.create();
    const proxy = await Proxy.listen(events(3), EVERYTHING);
    let refused = 0;
    const restarting: typeof fetch = (input, init) => {
      const refuses = String(input).includes("/events") ? ++refused < 3 : refused > 2;
      return refuses ? Promise.resolve(new Response("", { status: 502 })) : fetch(input, init);
    };
    const page = proxy.client({ maxRetries: 0, fetch: restarting });
    assert.equal(said(await read(page.threads.turns.stream(id, INPUT))), WORDS);
    assert.equal(refused, 3);
    await assert.rejects(read(page.threads.turns.stream(id, INPUT)), { status: 502, code: "http_502" });
  });

  test("a repeated request has the same key and creates one turn; another stream has another key", async () => {
    const { id } = await direct.threads.create();
    const proxy = await Proxy.listen(NOTHING, NOTHING, EVERYTHING);
    const stream = proxy.client().threads.turns.stream(id, INPUT);
    await read(stream);
    const keys = proxy.requests.map((request) => /idempotency-key: (\S+)/i.exec(request)?.[1]);
    assert.deepEqual(keys, Array(3).fill(stream.idempotencyKey));
    const second = direct.threads.turns.stream(id, INPUT);
    await read(second);
    assert.notEqual(second.turnId, stream.turnId);
    assert.equal((await direct.threads.turns.list(id)).data.length, 2);
  });

  test("the message is shown before anything is sent", async () => {
    const { id } = await direct.threads.create();
    const proxy = await Proxy.listen(EVERYTHING);
    const shown: LocalMessage[] = [];
    const input = [{ role: "user" as const, content: [{ type: "input_text", text: "Echo: hello" }] }];
    const stream = proxy.client().threads.turns.stream(id, { input }, { onOptimistic: (message) => shown.push(message), idempotencyKey: "mine" });
    assert.deepEqual(shown, [{ id: "mine", role: "user", text: "Echo: hello", input }]);
    assert.equal(proxy.requests.length, 0);
    assert.equal(said(await read(stream)), "hello");
  });

  test("a stream that is cancelled before it is read creates no turn", async () => {
    const { id } = await direct.threads.create();
    const stream = direct.threads.turns.stream(id, INPUT);
    assert.equal(await stream.cancel(), null);
    assert.deepEqual(await read(stream), []);
    assert.equal((await direct.threads.turns.list(id)).data.length, 0);
  });

  test("a signal ends a stream while it waits to reconnect", async () => {
    const { id } = await direct.threads.create();
    const proxy = await Proxy.listen(events(2), NOTHING);
    const abort = new AbortController();
    const stream = proxy.client({ streamRetries: 1e9 }).threads.turns.stream(id, INPUT, { signal: abort.signal });
    const reading = read(stream);
    await eventually(async () => proxy.requests.length >= 2);
    abort.abort();
    assert.equal((await reading).length, 2);
  });

  test("a stream of another user's thread is refused", async () => {
    const { id } = await client({ token: await userToken("ann") }).threads.create();
    await direct.threads.turns.create(id, INPUT);
    const other = client({ token: await userToken("mallory") });
    const turn = (await direct.threads.turns.list(id)).data[0]?.id ?? "";
    for (const stream of [other.threads.turns.stream(id, INPUT), await other.threads.turns.resume(id, turn), other.threads.events(id)]) {
      await assert.rejects(read(stream as AsyncIterable<unknown>), { status: 404, code: "thread_not_found" });
    }
  });

  test("a thread's events are followed over lost connections", async () => {
    const { id } = await direct.threads.create();
    // Every connection is cut after two events and a part of the third.
    const proxy = await Proxy.listen(events(2, 20));
    const stream = proxy.client().threads.events(id);
    const found: ThreadEvent[] = [];
    const reading = read(stream, (event) => {
      found.push(event);
      if (event.type === "response.completed" && found.filter(({ type }) => type === event.type).length === 2) stream.abort();
    });
    await eventually(async () => proxy.answered > 0);
    const turn = await direct.threads.turns.stream(id, { input: "Echo: one two" }).finalTurn();
    // The single events of a turn that is not streamed are not kept.
    const plain = await direct.threads.turns.create(id, { input: "Echo: three four" });
    await reading;
    const created = found.filter((event) => event.type === "thread.turn.created");
    assert.deepEqual(created.map((event) => event.turn.id), [turn.id, plain.id]);
    const of = (turn: Turn) => found.filter((event): event is TurnEvent & { turn_id: string } => "sequence_number" in event && event.turn_id === turn.id);
    assert.equal(said(of(plain)), "three four");
    const ofTurn = of(turn);
    assert.equal(said(ofTurn), "one two");
    assert.deepEqual(ofTurn.map((event) => event.sequence_number), [...ofTurn.keys()]);
    assert.ok(proxy.requests.length > 2);
  });

  test("the deletion of a thread ends its events, and none can be followed later", async () => {
    const { id } = await direct.threads.create();
    const proxy = await Proxy.listen(EVERYTHING);
    const reading = read(proxy.client().threads.events(id));
    await eventually(async () => proxy.answered > 0);
    await direct.threads.delete(id);
    assert.equal((await reading).at(-1)?.type, "thread.deleted");
    await assert.rejects(read(direct.threads.events(id)), { status: 404, code: "thread_not_found" });
  });
});

test("after a reload a turn is read from its beginning, or from where it was left", async () => {
  const { id } = await direct.threads.create();
  await fault("slow", { seconds_per_event: 0.3 });
  const left: TurnEvent[] = [];
  const stream = direct.threads.turns.stream(id, LONG);
  for await (const event of stream) if (left.push(event) === 4) break;
  const page = client();
  const resumed = await page.threads.turns.resume(id);
  assert.ok(resumed);
  assert.equal(resumed.turnId, stream.turnId);
  const whole = await read(resumed, (event) => event.sequence_number === 6 && void resumed.cancel());
  assert.equal(said(whole), (await resumed.finalTurn()).output_text);
  assert.deepEqual(kinds(whole).slice(0, 4), kinds(left));
  const rest = await page.threads.turns.resume(id, stream.turnId ?? "", { startingAfter: stream.sequenceNumber });
  assert.deepEqual(kinds([...left, ...(await read(rest))]), kinds(whole));
  assert.equal(await page.threads.turns.resume(id), null);
});

test("events that the service no longer keeps are told from the last one", async () => {
  const { id } = await direct.threads.create();
  const proxy = await Proxy.listen(events(6), NOTHING);
  const stream = proxy.client().threads.turns.stream(id, INPUT);
  const found = await read(stream, async () => {
    if (stream.sequenceNumber < 5) return;
    await eventually(async () => (await direct.threads.turns.list(id)).data[0]?.status === "completed");
    await redis("FLUSHALL");
    proxy.passes = [EVERYTHING];
  });
  assert.equal(said(found), WORDS);
  assert.deepEqual(found.slice(-2).map((event) => event.type), ["response.output_item.done", "response.completed"]);
});

test("a turn is stopped with its output so far; a stream that is left stops nothing", async () => {
  const { id } = await direct.threads.create();
  await fault("slow", { seconds_per_event: 0.3 });
  const stream = direct.threads.turns.stream(id, LONG);
  let stopped: ReturnType<typeof stream.cancel> | undefined;
  const found = await read(stream, (event) => {
    if (event.type === "response.output_text.delta") stopped ??= stream.cancel();
  });
  const turn = await stopped;
  assert.equal(turn?.status, "cancelled");
  assert.ok(turn.output_text.length > 0 && turn.output_text.length < LONG.input.length - 6);
  assert.equal(said(found), turn.output_text);
  assert.equal(found.at(-1)?.type, "response.incomplete");

  await fault("slow", { seconds_per_event: 0.1 });
  const left = direct.threads.turns.stream(id, INPUT);
  await read(left, () => left.abort());
  await assert.rejects(left.finalResponse(), { code: "aborted" });
  const turnId = left.turnId ?? "";
  const ended = await eventually(async () => {
    const turn = await direct.threads.turns.retrieve(id, turnId);
    return turn.status !== "in_progress" && turn;
  });
  assert.equal(ended.output_text, WORDS);
});

test("a refused request throws its error; a failed turn ends with its event", async () => {
  const { id } = await direct.threads.create();
  await assert.rejects(read(direct.threads.turns.stream(id, { input: "Hello", temperature: 9 })), (error) => {
    assert.ok(error instanceof EverthreadError);
    assert.deepEqual([error.status, error.param], [400, "temperature"]);
    return true;
  });
  await fault("failed", { after_events: 4 });
  const found = await read(direct.threads.turns.stream(id, INPUT));
  assert.equal(found.at(-1)?.type, "response.failed");
  assert.ok(last(found).error?.message);
});

/** Begin a long turn of a user's thread, and leave its stream. */
async function begun(user: string): Promise<[string, string]> {
  const page = client({ token: await userToken(user) });
  const { id } = await page.threads.create();
  await fault("slow", { seconds_per_event: 0.3 });
  const stream = page.threads.turns.stream(id, LONG);
  await read(stream, () => stream.abort());
  return [id, stream.turnId ?? ""];
}

test("a token that ends within a stream is renewed, and the stream goes on where it was", async () => {
  const [id, turn] = await begun("ann");
  let issued = 0;
  const token = () => userToken("ann", { expires_in: issued++ ? 600 : 2 });
  const stream = await client({ token }).threads.turns.resume(id, turn);
  const found = await read(stream, () => issued === 2 && void stream.cancel());
  assert.equal(said(found), (await stream.finalTurn()).output_text);
  assert.deepEqual(found.map((event) => event.sequence_number), [...found.keys()]);
  assert.equal(issued, 2);
});

test("a token that cannot be renewed ends its stream, and no event follows", async () => {
  const [id, turn] = await begun("bob");
  const stream = await client({ token: await userToken("bob", { expires_in: 2 }) }).threads.turns.resume(id, turn);
  await assert.rejects(read(stream), { status: 401 });
  assert.equal((await direct.threads.turns.cancel(id, turn)).status, "cancelled");
  assert.ok(stream.text.length < LONG.input.length - 6);
});
