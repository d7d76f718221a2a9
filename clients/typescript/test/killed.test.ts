// A worker is killed while it streams; another one tells the end.
import assert from "node:assert/strict";
import { test } from "node:test";
import { direct, EVERYTHING, fault, Proxy, read, said, URL_, variable } from "./tools.js";

test("the end of a turn whose worker was killed is told", async () => {
  const { id } = await direct.threads.create();
  await fault("slow", { seconds_per_event: 0.2 });
  const proxy = await Proxy.listen(EVERYTHING);
  proxy.upstream = variable("EVERTHREAD_DOOMED_URL");
  const stream = proxy.client().threads.turns.stream(id, { input: "Echo: one two three four five six seven eight" });
  const found = await read(stream, () => {
    if (stream.text === "" || proxy.upstream === URL_) return;
    process.kill(Number(variable("EVERTHREAD_DOOMED_PID")), "SIGKILL");
    proxy.upstream = URL_;
  });
  const { status, error, incomplete_details } = await stream.finalResponse();
  const turns = (await direct.threads.turns.list(id)).data;
  assert.deepEqual(turns.map((turn) => turn.id), [stream.turnId]);
  assert.equal(turns[0]?.status, status);
  // It depends on the moment of the kill whether any text was stored.
  assert.equal(status === "failed" ? error?.code : incomplete_details?.["reason"], "interrupted");
  assert.ok(said(found).startsWith(turns[0].output_text));
});
