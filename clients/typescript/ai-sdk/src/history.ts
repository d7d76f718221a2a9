/** The history of a thread: its messages, branches and running turn. */

import type { Everthread, Turn } from "@everthread/client";
import { type EverthreadMetadata, type EverthreadUIMessage, type StoredItem, toUIMessages } from "./messages.js";

/** The most turns that are read of a thread, newest first. */
const TURNS = 1000;
const PAGE = 100;

export interface RunningTurn {
  turnId: string;
  /** The id of the UI message that the turn writes to. */
  messageId: string;
  /** The items of the earlier turns of that message: calls of tools and their outputs. */
  earlier: StoredItem[];
}

/** A message in the tree of all branches. */
export interface TreeMessage {
  parentId: string | null;
  message: EverthreadUIMessage;
}

/** The turns of a thread on all branches. */
export class TurnTree {
  readonly #turns: Map<string, Turn>;
  readonly #children = new Map<string | null, Turn[]>();
  readonly #earlier = new Map<string, StoredItem[]>();

  /** The turn that the thread continues, or that runs now. */
  readonly head: string | null;

  private constructor(turns: Turn[], head: string | null) {
    this.#turns = new Map(turns.reverse().map((turn) => [turn.id, turn]));
    for (const turn of turns) {
      if (turn.status === "failed") continue;
      const siblings = this.#children.get(turn.parent_id);
      if (siblings) siblings.push(turn);
      else this.#children.set(turn.parent_id, [turn]);
    }
    this.head = this.running?.id ?? head;
  }

  /** Read the newest turns of a thread, and the older turns that they continue. */
  static async load(client: Everthread, threadId: string): Promise<TurnTree> {
    const [thread, turns] = await Promise.all([client.threads.retrieve(threadId), newest(client, threadId)]);
    const tree = new TurnTree(turns, thread.head_id);
    // The history of a fork, or of a very long thread, lies outside of the list.
    for (const parent of new Set([tree.head, ...turns.map((turn) => turn.parent_id)])) {
      if (parent === null || tree.#turns.has(parent)) continue;
      const page = await client.threads.messages(threadId, { until: parent, turns: PAGE });
      tree.#earlier.set(parent, page.data);
    }
    return tree;
  }

  /** Return the newest turn that is running, or undefined. */
  get running(): Turn | undefined {
    return [...this.#turns.values()].findLast((turn) => turn.status === "in_progress");
  }

  /** Return the turns that continue a turn, oldest first, without those that failed. */
  children(parent: string | null): readonly Turn[] {
    return this.#children.get(parent) ?? [];
  }

  /** Return the newest end of the branch that contains a turn. */
  leaf(id: string): string {
    let leaf = id;
    for (let next = this.children(id).at(-1); next !== undefined; next = this.children(leaf).at(-1)) leaf = next.id;
    return leaf;
  }

  /** Return the items from the beginning to a turn. */
  items(leaf: string | null): StoredItem[] {
    const path: StoredItem[][] = [];
    let id = leaf;
    while (id !== null) {
      const turn = this.#turns.get(id);
      path.push(turn ? [...(turn.input ?? []), ...turn.output].map((item) => ({ ...item, turn_id: turn.id })) : []);
      if (turn === undefined) path.push(this.#earlier.get(id) ?? []);
      id = turn?.parent_id ?? null;
    }
    return path.reverse().flat();
  }

  /** Return the messages from the beginning to a turn, with status and branches. */
  messages(leaf: string | null): EverthreadUIMessage[] {
    const messages = toUIMessages(this.items(leaf));
    for (const message of messages) {
      if (message.role !== "assistant") continue;
      const first = this.#turns.get(message.id);
      const last = this.#turns.get(message.metadata?.turnId ?? "");
      const metadata: EverthreadMetadata = { ...message.metadata };
      if (last) metadata.status = last.status;
      const branches = first === undefined ? [] : this.children(first.parent_id).map((turn) => turn.id);
      if (branches.length > 1) metadata.branches = branches;
      message.metadata = metadata;
    }
    return messages;
  }

  /** Return the message that a running turn writes to. */
  runningMessage(turn: Turn): RunningTurn {
    const items = this.items(turn.id);
    const isQuestion = (item: StoredItem) => item.type === "message" && item.role !== "assistant";
    const begin = items.findLastIndex(isQuestion) + 1;
    const earlier = items.slice(begin).filter((item) => item.turn_id !== turn.id || item.type?.endsWith("_output"));
    const messageId = this.messages(turn.id).at(-1)?.id ?? turn.id;
    return { turnId: turn.id, messageId, earlier };
  }

  /** Return the messages of all branches. Branches with the same question share its message. */
  tree(): { messages: TreeMessage[]; headId: string | null } {
    const { head } = this;
    const turns = [...this.#turns.values()];
    const leaves = turns.filter((turn) => turn.status !== "failed" && this.children(turn.id).length === 0);
    const found = new Map<string, TreeMessage>();
    const questions = new Map<string, string>();
    const shared = new Map<string, string>();
    let headId: string | null = null;
    for (const leaf of new Set([...leaves.map((turn) => turn.id), ...(head === null ? [] : [head])])) {
      let parentId: string | null = null;
      for (const message of this.messages(leaf)) {
        let id: string | undefined = shared.get(message.id);
        if (id === undefined) {
          const question: string = JSON.stringify([parentId, message.role, message.parts]);
          id = (message.role === "assistant" ? undefined : questions.get(question)) ?? message.id;
          if (message.role !== "assistant") questions.set(question, id);
          shared.set(message.id, id);
          if (!found.has(id)) found.set(id, { parentId, message });
        }
        parentId = id;
      }
      if (leaf === head) headId = parentId;
    }
    return { messages: [...found.values()], headId };
  }
}

export interface ThreadHistory {
  messages: EverthreadUIMessage[];
  /** The turn that is running, if there is one. */
  running: RunningTurn | null;
}

/** Load the messages of a thread, up to its head or its running turn. */
export async function loadHistory(client: Everthread, threadId: string): Promise<ThreadHistory> {
  const tree = await TurnTree.load(client, threadId);
  const { running } = tree;
  return { messages: tree.messages(tree.head), running: running === undefined ? null : tree.runningMessage(running) };
}

/** Make the newest end of a branch the thread's head, and return its messages. */
export async function selectBranch(client: Everthread, threadId: string, turnId: string): Promise<EverthreadUIMessage[]> {
  const tree = await TurnTree.load(client, threadId);
  const head = tree.leaf(turnId);
  await client.threads.update(threadId, { head_id: head });
  return tree.messages(head);
}

async function newest(client: Everthread, threadId: string): Promise<Turn[]> {
  const turns: Turn[] = [];
  for await (const turn of client.threads.turns.list(threadId, { order: "desc", limit: PAGE })) {
    turns.push(turn);
    if (turns.length === TURNS) break;
  }
  return turns;
}
