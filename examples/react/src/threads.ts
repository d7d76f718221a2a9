import type { Thread } from "@everthread/client";
import { useEffect, useReducer, useState } from "react";
import type { LiveEvent } from "@everthread/client";
import { client } from "./everthread";

export interface Threads {
  byId: ReadonlyMap<string, Thread>;
  /** The turn that runs, by its thread. */
  running: ReadonlyMap<string, string>;
}

function after({ byId, running }: Threads, event: LiveEvent): Threads {
  const [threads, turns] = [new Map(byId), new Map(running)];
  switch (event.type) {
    case "snapshot":
      return {
        byId: new Map(event.threads.map((thread) => [thread.id, thread])),
        running: new Map(event.running.map(({ thread_id, turn_id }) => [thread_id, turn_id])),
      };
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
  return { byId: threads, running: turns };
}

/** Return the user's threads, kept up to date by one stream, and the error that ended it. */
export function useThreads(): Threads & { error: Error | undefined } {
  const [threads, apply] = useReducer(after, { byId: new Map(), running: new Map() });
  const [error, setError] = useState<Error>();
  useEffect(() => {
    const events = client.events();
    void (async () => {
      try {
        for await (const event of events) apply(event);
      } catch (error) {
        setError(error as Error);
      }
    })();
    return () => events.abort();
  }, []);
  return { ...threads, error };
}
