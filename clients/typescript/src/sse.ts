import { EverthreadError } from "./errors.js";

/** A server-sent event. */
export interface ServerEvent {
  /** The id of its `id:` line. */
  id?: string;
  data: string;
}

/** The longest event in characters: the service's own limit of an answer. */
const LONGEST_EVENT = 64 * 1024 * 1024;

/**
 * Read server-sent events. An event that the end of the connection cuts off is dropped.
 *
 * @param onBytes is called when bytes arrive, comments included.
 */
export async function* serverEvents(
  body: ReadableStream<Uint8Array>,
  onBytes: () => void = () => {},
): AsyncGenerator<ServerEvent, void, undefined> {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // It removes a byte order mark.
  let rest = "";
  let halfEnd = false;
  let event: { id?: string; data?: string } = {};
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(lost);
      if (done) return;
      onBytes();
      const text = decoder.decode(value, { stream: true });
      rest += text;
      if (length + rest.length > LONGEST_EVENT) {
        throw new EverthreadError({ status: 0, code: "bad_stream", message: "The stream has an event that is too long." });
      }
      if (!halfEnd && !/[\r\n]/.test(text)) continue; // Splitting a long line at each chunk would take quadratic time.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop() ?? "";
      halfEnd = rest.endsWith("\r");
      for (const line of lines) {
        if (line === "") {
          if (event.data !== undefined) yield event as ServerEvent;
          event = {};
          length = 0;
          continue;
        }
        length += line.length;
        const [, name, value = ""] = /^([^:]*):? ?([^]*)$/.exec(line) ?? [];
        if (name === "data") event.data = event.data === undefined ? value : `${event.data}\n${value}`;
        else if (name === "id" && !value.includes("\0")) event.id = value;
      }
    }
  } finally {
    // Ends the request, too, if the consumer has left. A broken connection has nothing to end.
    await reader.cancel().catch(() => {});
  }
}

function lost(cause: unknown): never {
  throw new EverthreadError({ status: 0, code: "connection_lost", message: "The connection was lost.", cause });
}
