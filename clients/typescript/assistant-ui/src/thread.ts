/** One thread: its history, and the turns that are sent and taken up. */

import type { Everthread, Turn, TurnParams, TurnStream } from "@everthread/client";
import {
  applyChunk,
  branching,
  continuing,
  EventReader,
  type Part,
  replayed,
  type RunningTurn,
  TurnTree,
} from "@everthread/ai-sdk/core";
import {
  type ChatModelAdapter,
  type ChatModelRunOptions,
  type ChatModelRunResult,
  ExportedMessageRepository,
  type ThreadAssistantMessagePart,
  type ThreadHistoryAdapter,
} from "@assistant-ui/react";
import { toToolsJSONSchema } from "assistant-stream";
import { contentOf, type CustomMetadata, fromThreadMessage, toThreadMessage } from "./convert.js";

export type TurnBody = TurnParams | (() => TurnParams | Promise<TurnParams>);

type Chunk = Parameters<typeof applyChunk>[1];

export class EverthreadThread implements ChatModelAdapter, ThreadHistoryAdapter {
  readonly #client: Everthread;
  readonly #threadId: () => string | undefined;
  readonly #body: () => TurnBody | undefined;
  /** The turns that answered a question, by the id of its message. */
  readonly #answers = new Map<string, string>();
  #running: RunningTurn | undefined;
  #stopping: Promise<Turn | null> | undefined;

  /** @param threadId returns undefined for a thread that is not created yet. */
  constructor(client: Everthread, threadId: () => string | undefined, body: () => TurnBody | undefined) {
    this.#client = client;
    this.#threadId = threadId;
    this.#body = body;
  }

  /** Load the messages of all branches. */
  async load(): ReturnType<ThreadHistoryAdapter["load"]> {
    const threadId = this.#threadId();
    if (threadId === undefined) return { messages: [] };
    const tree = await TurnTree.load(this.#client, threadId);
    const { running } = tree;
    const { messages, headId } = tree.tree();
    for (const { parentId, message } of messages) {
      if (message.role === "assistant" && parentId !== null) this.#answers.set(parentId, message.id);
    }
    this.#running = running === undefined ? undefined : tree.runningMessage(running);
    // A running answer becomes a message of its own, whose first parts are those that are stored.
    const answer = running === undefined ? undefined : messages.find(({ message }) => message.id === headId);
    const kept = messages.filter((each) => each !== answer);
    const repository = ExportedMessageRepository.fromBranchableArray(
      kept.map(({ parentId, message }) => ({ parentId, message: toThreadMessage(message) })),
      { headId: answer === undefined ? headId : answer.parentId },
    );
    return { ...repository, unstable_resume: running !== undefined };
  }

  /** Everthread stores messages as turns. Nothing is left to write. */
  async append(): Promise<void> {}

  /** Take up the running turn that `load` found. */
  async *resume({ abortSignal }: ChatModelRunOptions): AsyncGenerator<ChatModelRunResult, void> {
    const threadId = this.#threadId();
    if (threadId === undefined || this.#running === undefined) return;
    const { turnId, earlier } = this.#running;
    const stream = await this.#client.threads.turns.resume(threadId, turnId);
    yield* this.#read(stream, abortSignal, replayed(earlier), []);
  }

  /** Send what the messages say, and stream the answer. */
  async *run(options: ChatModelRunOptions): AsyncGenerator<ChatModelRunResult, void> {
    const { abortSignal, context } = options;
    const threadId = options.unstable_threadId ?? this.#threadId();
    if (threadId === undefined) throw new Error("The thread has not been created.");
    const stopping = this.#stopping;
    this.#stopping = undefined;
    const stopped = await stopping;
    const current = options.unstable_getMessage();
    const continues = current.role === "assistant" && current.content.length > 0;
    const messages = [...options.messages, ...(continues ? [current] : [])].map(fromThreadMessage);
    const question = options.messages.at(-1)?.id ?? "";
    const answer = continues ? undefined : this.#answers.get(question);
    let request = continuing(messages, stopped);
    // Without a parent, the turn would continue the thread's head: this one replaces the first turn.
    if (answer !== undefined || (request.params.parent_id === undefined && this.#answers.size > 0)) {
      request = await branching(this.#client, threadId, messages, answer);
    }
    const body = this.#body();
    const tools = Object.entries(toToolsJSONSchema(context.tools)).map(([name, { description, parameters }]) => ({
      type: "function",
      name,
      parameters,
      ...(description === undefined ? {} : { description }),
    }));
    const params = {
      ...(context.system === undefined ? {} : { instructions: context.system }),
      ...(tools.length === 0 ? {} : { tools }),
      ...(typeof body === "function" ? await body() : body),
      ...request.params,
    } as TurnParams;
    abortSignal.throwIfAborted();
    const stream = this.#client.threads.turns.stream(threadId, params);
    const branches = request.siblings;
    const step = continues ? current.content.length : 0;
    for await (const result of this.#read(stream, abortSignal, [], branches, step)) {
      if (!continues && stream.turnId !== undefined) this.#answers.set(question, stream.turnId);
      yield result;
      if (result.status?.type !== "requires-action") continue;
      yield { content: await runTools(result.content ?? [], options) };
    }
  }

  async *#read(
    stream: TurnStream,
    signal: AbortSignal,
    earlier: readonly Chunk[],
    siblings: readonly string[],
    step?: number,
  ): AsyncGenerator<ChatModelRunResult, void> {
    const parts: Part[] = [];
    for (const chunk of earlier) applyChunk(parts, chunk);
    const begin = step ?? contentOf(parts).length;
    const stop = () => {
      // A thread that is only left runs on.
      if ((signal.reason as { detach?: boolean } | undefined)?.detach) return stream.abort();
      this.#stopping = stream.cancel();
      // The next message reports a failure.
      this.#stopping.catch(() => {});
    };
    signal.addEventListener("abort", stop);
    if (signal.aborted) stop();
    try {
      const reader = new EventReader();
      for await (const event of stream) {
        const turnId = stream.turnId ?? "";
        const custom: CustomMetadata = { turnId, status: "in_progress", step: begin };
        if (siblings.length > 0) custom.branches = [...siblings, turnId];
        const chunks = reader.read(event);
        if (chunks.length === 0 && event.type !== "response.created") continue;
        for (const chunk of chunks) applyChunk(parts, chunk);
        if ("response" in event) custom.status = event.response.status;
        const content = contentOf(parts) as ThreadAssistantMessagePart[];
        const status = statusOf(chunks);
        // A finished step counts towards the most steps of a tool loop.
        const metadata = status === undefined ? { custom } : { custom, steps: [{}] };
        yield { content, metadata, ...(status === undefined ? {} : { status }) };
        const failure = chunks.find((chunk) => chunk.type === "error");
        if (failure) throw new Error(failure.errorText);
      }
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }
}

function statusOf(chunks: readonly Chunk[]): ChatModelRunResult["status"] {
  const finish = chunks.find((chunk) => chunk.type === "finish");
  switch (finish?.finishReason) {
    case undefined:
      return undefined;
    case "tool-calls":
      return { type: "requires-action", reason: "tool-calls" };
    case "length":
    case "content-filter":
      return { type: "incomplete", reason: finish.finishReason };
    case "interrupted":
      return { type: "incomplete", reason: "cancelled" };
    default:
      return { type: "complete", reason: "stop" };
  }
}

/** Run the tools of the page that the last turn called. Other calls wait for a result from the user interface. */
async function runTools(
  content: readonly ThreadAssistantMessagePart[],
  { abortSignal, context }: ChatModelRunOptions,
): Promise<ThreadAssistantMessagePart[]> {
  return Promise.all(
    content.map(async (part): Promise<ThreadAssistantMessagePart> => {
      if (part.type !== "tool-call" || part.result !== undefined) return part;
      const execute = context.tools?.[part.toolName]?.execute;
      if (execute === undefined) return part;
      const waits = () => Promise.reject(new Error("Answer this tool with addResult."));
      try {
        const result: unknown = await execute(part.args, { toolCallId: part.toolCallId, abortSignal, human: waits });
        return { ...part, result: result ?? null };
      } catch (error) {
        return { ...part, result: { error: error instanceof Error ? error.message : String(error) }, isError: true };
      }
    }),
  );
}
