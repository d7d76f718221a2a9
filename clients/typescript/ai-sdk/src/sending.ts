/** The request that a list of UI messages stands for. */

import type { Everthread, Turn } from "@everthread/client";
import type { UIMessage } from "ai";
import { TurnTree } from "./history.js";
import type { EverthreadUIMessage } from "./messages.js";
import { type Item, outputItems, type Part, toItems } from "./parts.js";

export interface TurnRequest {
  /** The fields of the turn's body that follow from the messages. */
  params: { input?: Item[]; parent_id?: string; replaces?: string };
  /** The other turns that answer the same parent, for a request that makes a new branch. */
  siblings: string[];
}

/**
 * Return the request that continues messages: after their last stored answer, with everything that follows it.
 *
 * @param stopped the turn that was stopped just before. If it was the first one and has shown nothing yet, its question
 *   is sent again, and it is replaced.
 */
export function continuing(messages: readonly EverthreadUIMessage[], stopped?: Turn | null): TurnRequest {
  const last = messages.findLastIndex(isStored);
  const answer = messages[last];
  const turnId = answer?.metadata?.turnId;
  const following = messages.slice(last + 1).filter((message) => message.metadata?.status !== "failed");
  const input = [...(answer ? outputItems(lastStep(answer.parts)) : []), ...toItems(following)];
  if (turnId !== undefined) return { params: { input, parent_id: turnId }, siblings: [] };
  return { params: stopped?.parent_id === null ? { input, replaces: stopped.id } : { input }, siblings: [] };
}

/**
 * Return the request that replaces what followed the messages: an edited question, or a new answer to the same one.
 *
 * @param answerId the id of the UI message whose answer is asked for again; undefined if it is not known, or if the
 *   question was edited.
 */
export async function branching(
  client: Everthread,
  threadId: string,
  messages: readonly EverthreadUIMessage[],
  answerId?: string,
): Promise<TurnRequest> {
  const request = continuing(messages);
  const tree = await TurnTree.load(client, threadId);
  const parent = request.params.parent_id ?? null;
  const siblings = tree.children(parent).map((turn) => turn.id);
  if (answerId !== undefined && siblings.includes(answerId)) return { params: { replaces: answerId }, siblings };
  if (parent !== null) return { ...request, siblings };
  // A turn without a parent continues the head. The first turn is replaced by its id.
  const first = siblings[0] ?? tree.items(tree.head)[0]?.turn_id;
  if (first === undefined) return request;
  return { params: { ...request.params, replaces: first }, siblings };
}

function isStored(message: EverthreadUIMessage): boolean {
  const { turnId, status } = message.metadata ?? {};
  return message.role === "assistant" && turnId !== undefined && status !== "failed";
}

function lastStep(parts: readonly Part[]): readonly Part[] {
  return parts.slice(parts.findLastIndex((part: UIMessage["parts"][number]) => part.type === "step-start") + 1);
}
