import type { Thread } from "@everthread/client";
import { useEffect, useReducer, useState } from "react";
import type { LiveEvent } from "@everthread/client";
import { client } from "./everthread";

export interface Threads {
  byId: ReadonlyMap<string, Thread>;
  /** The turn that runs, by its thread. */
  running: ReadonlyMap<string, string>;
  /** True if the service has older threads, which `loadOlder` adds. */
  hasOlder: boolean;
}

type Older = { type: "older"; threads: Thread[]; has_more: boolean };

function after({ byId, running, hasOlder }: Threads, event: LiveEvent | Older): Threads {
  const [threads, turns] = [new Map(byId), new Map(running)];
  switch (event.type) {
    case "snapshot":
      return {
        byId: new Map(event.threads.map((thread) => [thread.id, thread])),
        running: new Map(event.running.map(({ thread_id, turn_id }) => [thread_id, turn_id])),
        hasOlder: event.has_more,
      };
    case "older":
      for (const thread of event.threads) if (!threads.has(thread.id)) threads.set(thread.id, thread);
      return { byId: threads, running, hasOlder: event.has_more };
    case "thread.created":
    case "thread.updated":
      threads.set(event.thread_id, event.thread);
      break;
    case "thread.deleted":
      threads.delete(event.thread_id);
      turns.delete(event.thread_id);
      break;
    case "thread.turn.created":
      turns.set(event.thread_id, event.turn_id);
      break;
    case "thread.turn.finished":
      turns.delete(event.thread_id);
  }
  return { byId: threads, running: turns, hasOlder };
}

export function newestFirst({ byId }: Threads): Thread[] {
  return [...byId.values()].filter((thread) => !thread.archived).sort((a, b) => b.updated_at - a.updated_at);
}

/** Return the user's threads, kept up to date by one stream, and the error that has interrupted it. */
export function useThreads(): Threads & { error: Error | undefined; loadOlder: () => Promise<void> } {
  const [threads, apply] = useReducer(after, { byId: new Map(), running: new Map(), hasOlder: false });
  const [error, setError] = useState<Error>();
  useEffect(() => {
    const left = new AbortController();
    void (async () => {
      while (!left.signal.aborted) {
        try {
          for await (const event of client.events({ signal: left.signal })) {
            apply(event);
            setError(undefined);
            if (event.type === "thread.deleted" && location.hash === `#${event.thread_id}`) location.hash = "";
          }
        } catch (error) {
          setError(error as Error);
          await new Promise((resolve) => setTimeout(resolve, 5000)); // Perhaps there was no token.
        }
      }
    })();
    return () => left.abort();
  }, []);
  async function loadOlder() {
    const oldest = newestFirst(threads).at(-1)?.id ?? null;
    const page = await client.threads.list({ order_by: "activity", archived: false, after: oldest, limit: 50 });
    apply({ type: "older", threads: page.data, has_more: page.has_more });
  }
  return { ...threads, error, loadOlder: () => loadOlder().catch(setError) };
}
