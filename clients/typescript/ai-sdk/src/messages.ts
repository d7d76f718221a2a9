/** Stored history as UI messages. */

import type { UIMessage } from "ai";
import { applyChunk, chunksOfItem, isOutput, type Item, outputChunk, type Part, text, userParts } from "./parts.js";

/** An item of a thread with the turn that it belongs to, as `GET /v1/threads/{id}/messages` returns it. */
export type StoredItem = Item & { turn_id?: string };

/** Fields of `message.metadata`. */
export interface EverthreadMetadata {
  /** The turn of a user's message; the last turn of an assistant's message. */
  turnId?: string;
  /** The status of that turn: `in_progress`, `completed`, `incomplete`, `failed` or `cancelled`. */
  status?: string;
  /** The turns that answer the same parent, oldest first, if there are several: the branches to choose from. */
  branches?: string[];
}

export type EverthreadUIMessage = UIMessage<EverthreadMetadata>;

/**
 * Return items as UI messages.
 *
 * A message of the user or the system is one UI message with the item's id. Everything that the model did between two of
 * them is one UI message with the id of its first turn and a `step-start` for each turn. A turn without an answer has a
 * UI message without content, so that it can be continued.
 */
export function toUIMessages(items: readonly StoredItem[]): EverthreadUIMessage[] {
  const messages: EverthreadUIMessage[] = [];
  const ids = new Set<string>();
  let turn: string | undefined;
  let answer: EverthreadUIMessage | undefined;
  let answersCalls = false;

  function add(id: string, role: UIMessage["role"], parts: Part[]): EverthreadUIMessage {
    let unique = id;
    for (let number = 2; ids.has(unique); number++) unique = `${id}:${number}`;
    ids.add(unique);
    const message: EverthreadUIMessage = { id: unique, role, parts };
    if (turn !== undefined) message.metadata = { turnId: turn };
    messages.push(message);
    return message;
  }

  /** Return the message of the assistant that the current turn writes to. */
  function current(): EverthreadUIMessage {
    if (answer === undefined) answer = add(turn ?? "assistant", "assistant", []);
    else if (answer.metadata?.turnId === turn && answer.parts.length > 0) return answer;
    if (turn !== undefined) answer.metadata = { ...answer.metadata, turnId: turn };
    answer.parts.push({ type: "step-start" });
    return answer;
  }

  /** Give the turn its place if the model has said nothing in it yet. */
  function endTurn(): void {
    if (turn !== undefined && (answersCalls || messages.at(-1)?.role === "user")) current();
    answersCalls = false;
  }

  for (const item of items) {
    if (item.turn_id !== turn) {
      endTurn();
      turn = item.turn_id;
    }
    const role = (item.type ?? "message") === "message" ? text(item.role) : "";
    if (role !== "" && role !== "assistant") {
      answer = undefined;
      answersCalls = false;
      const parts = userParts(item);
      // The AI SDK takes no message without parts.
      if (parts.length === 0) parts.push({ type: "text", text: "" });
      add(text(item.id) || "message", role === "user" ? "user" : "system", parts);
    } else if (isOutput(item)) {
      const callId = text(item.call_id) || text(item.approval_request_id) || text(item.id);
      const called = messages.findLast((message) => message.parts.some((part) => "toolCallId" in part && part.toolCallId === callId));
      // The call of this output may not be part of the history.
      const parts = called?.parts ?? current().parts;
      if (called === undefined) {
        parts.push({ type: "dynamic-tool", toolName: "tool", toolCallId: callId, state: "input-available", input: {} });
      }
      answersCalls = called !== undefined && called === answer;
      applyChunk(parts, outputChunk({ ...item, call_id: callId, approval_request_id: callId }));
    } else {
      for (const chunk of chunksOfItem(item)) applyChunk(current().parts, chunk);
    }
  }
  endTurn();
  return messages;
}
