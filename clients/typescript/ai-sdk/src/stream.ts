/** Events of a turn as chunks of a UI message. */

import type { TurnEvent } from "@everthread/client";
import type { FinishReason, UIMessageChunk } from "ai";
import type { StoredItem } from "./messages.js";
import {
  answeredCall,
  chunksOfItem,
  isClientCall,
  isHosted,
  isOutput,
  type Item,
  outputChunk,
  text,
  toolInput,
  toolStart,
} from "./parts.js";

/** Translates the events of one turn. */
export class EventReader {
  readonly #open = new Map<string, "text" | "reasoning">();
  readonly #written = new Set<string>();
  readonly #calls = new Map<string, string>();
  #asksClient = false;

  /** Return the chunks that an event adds. */
  read(event: TurnEvent): UIMessageChunk[] {
    switch (event.type) {
      case "response.output_item.added":
        return this.#added(event.item);
      case "response.output_text.delta":
      case "response.refusal.delta":
        return this.#delta("text", `${event.item_id}:${event.content_index}`, event.delta);
      case "response.reasoning_text.delta":
        return this.#delta("reasoning", `${event.item_id}:${event.content_index}`, event.delta);
      case "response.reasoning_summary_text.delta":
        return this.#delta("reasoning", `${event.item_id}:${event.summary_index}`, event.delta);
      case "response.function_call_arguments.delta": {
        const toolCallId = this.#calls.get(event.item_id);
        return toolCallId === undefined ? [] : [{ type: "tool-input-delta", toolCallId, inputTextDelta: event.delta }];
      }
      case "response.output_item.done":
        return this.#done(event.item);
      case "response.completed":
      case "response.incomplete":
      case "response.failed":
        return this.#ended(event.response);
      default:
        return [];
    }
  }

  #added(item: Item): UIMessageChunk[] {
    if (!isClientCall(item) && !isHosted(item)) return [];
    if (isClientCall(item)) this.#calls.set(text(item.id), text(item.call_id));
    this.#written.add(`tool:${text(item.id)}`);
    return [toolStart(item)];
  }

  #delta(kind: "text" | "reasoning", id: string, delta: string): UIMessageChunk[] {
    const started: UIMessageChunk[] = [];
    if (!this.#open.has(id)) {
      this.#open.set(id, kind);
      this.#written.add(id);
      started.push({ type: `${kind}-start`, id });
    }
    return [...started, { type: `${kind}-delta`, id, delta }];
  }

  #done(item: Item): UIMessageChunk[] {
    const id = text(item.id);
    if (isClientCall(item)) {
      this.#asksClient = true;
      return [...(this.#written.has(`tool:${id}`) ? [] : [toolStart(item)]), toolInput(item)];
    }
    // Parts that were streamed are left out of the whole item, except the end of each part.
    return chunksOfItem(item).filter((chunk) => {
      if (chunk.type === "tool-input-start") return !this.#written.has(`tool:${id}`);
      if (!("id" in chunk) || typeof chunk.id !== "string") return true;
      if (chunk.type.endsWith("-end")) this.#open.delete(chunk.id);
      return chunk.type.endsWith("-end") || !this.#written.has(chunk.id);
    });
  }

  #ended(response: { status: string; error: { message?: string } | null; incomplete_details: unknown }): UIMessageChunk[] {
    const ends = [...this.#open].map(([id, kind]): UIMessageChunk => ({ type: `${kind}-end`, id }));
    this.#open.clear();
    const messageMetadata = { status: response.status };
    if (response.status === "failed") {
      const errorText = response.error?.message ?? "The turn failed.";
      return [...ends, { type: "message-metadata", messageMetadata }, { type: "error", errorText }];
    }
    const finishReason = this.#reason(response.status, response.incomplete_details);
    return [...ends, { type: "finish-step" }, { type: "finish", finishReason, messageMetadata }];
  }

  #reason(status: string, details: unknown): FinishReason {
    if (status === "cancelled") return "interrupted";
    const reason = (details as { reason?: string } | null)?.reason;
    if (status === "incomplete") return reason === "content_filter" ? "content-filter" : "length";
    return this.#asksClient ? "tool-calls" : "stop";
  }
}

/** Return the chunks that rebuild the earlier turns of a message whose last turn is running. */
export function replayed(items: readonly StoredItem[]): UIMessageChunk[] {
  const calls = new Set(items.filter(isClientCall).map((item) => item.call_id));
  let turn: string | undefined;
  return items.flatMap((item): UIMessageChunk[] => {
    // An output belongs to the step of its call.
    if (isOutput(item)) return calls.has(item.call_id) ? [outputChunk(item)] : [];
    const starts: UIMessageChunk[] = item.turn_id === turn ? [] : [{ type: "start-step" }];
    turn = item.turn_id;
    return [...starts, ...(isClientCall(item) ? answeredCall(item) : chunksOfItem(item))];
  });
}
