/** A transport for the AI SDK's `useChat`. */

import { type Everthread, EverthreadError, type Turn, type TurnParams, type TurnStream } from "@everthread/client";
import type { ChatTransport, UIMessageChunk } from "ai";
import { TurnTree } from "./history.js";
import type { EverthreadMetadata, EverthreadUIMessage } from "./messages.js";
import { branching, continuing } from "./sending.js";
import { EventReader, replayed } from "./stream.js";

type Send = Parameters<ChatTransport<EverthreadUIMessage>["sendMessages"]>[0];
type Reconnect = Parameters<ChatTransport<EverthreadUIMessage>["reconnectToStream"]>[0];

export interface EverthreadTransportOptions {
  client: Everthread;
  /** Parameters of every turn, such as `model` and `tools`. The `body` of a call overrides them. */
  body?: TurnParams | (() => TurnParams | Promise<TurnParams>);
  /**
   * The effect of `stop()` on the turn: `stop` cancels it at the service, `leave` lets it continue. Default: `stop`.
   * `useChat` calls `stop()` when its component unmounts, too, unless it was given a `Chat`.
   */
  onStop?: "stop" | "leave";
}

/**
 * Sends the messages of a chat to Everthread.
 *
 * The id of the chat is the id of a thread. Any other id is the name of a thread, which the first message creates.
 */
export class EverthreadTransport implements ChatTransport<EverthreadUIMessage> {
  /** A running turn is streamed from its beginning. */
  readonly resumeStreamIsReplay = true;
  readonly #client: Everthread;
  readonly #options: EverthreadTransportOptions;
  /** The chats whose own request is streaming, and the end of it. */
  readonly #sending = new Map<string, Promise<void>>();
  readonly #stopping = new Map<string, Promise<Turn | null>>();

  constructor(options: EverthreadTransportOptions) {
    this.#client = options.client;
    this.#options = options;
  }

  async sendMessages(options: Send): Promise<ReadableStream<UIMessageChunk>> {
    const { chatId } = options;
    let end!: () => void;
    const sending = new Promise<void>((resolve) => (end = resolve));
    this.#sending.set(chatId, sending);
    const done = () => {
      if (this.#sending.get(chatId) === sending) this.#sending.delete(chatId);
      end();
    };
    try {
      return await this.#send(options, done);
    } catch (error) {
      done();
      throw error;
    }
  }

  async #send(options: Send, done: () => void): Promise<ReadableStream<UIMessageChunk>> {
    const { chatId, messages, trigger, messageId, abortSignal } = options;
    const threadId = chatId.startsWith("thread_") ? chatId : (await this.#client.threads.getOrCreate(chatId)).id;
    const stopping = this.#stopping.get(threadId);
    this.#stopping.delete(threadId);
    const stopped = await stopping;
    const last = messages.at(-1);
    // A message id means an edited question, or an answer whose tools have been called.
    const branches = trigger === "regenerate-message" || (messageId !== undefined && last?.role === "user");
    const answerId = trigger === "regenerate-message" ? messageId : undefined;
    const { params, siblings } = branches
      ? await branching(this.#client, threadId, messages, answerId)
      : continuing(messages, stopped);
    const { body } = this.#options;
    const fields = { ...(typeof body === "function" ? await body() : body), ...options.body };
    abortSignal?.throwIfAborted();
    const stream = this.#client.threads.turns.stream(threadId, { ...fields, ...params } as TurnParams, headersOf(options));
    const answer = trigger === "submit-message" && last?.role === "assistant" ? last.id : undefined;
    return this.#chunks(stream, (turnId) => {
      const metadata: EverthreadMetadata = { turnId, status: "in_progress" };
      if (siblings.length > 0) metadata.branches = [...siblings, turnId];
      return [{ type: "start", messageId: answer ?? turnId, messageMetadata: metadata }];
    }, abortSignal, done);
  }

  async reconnectToStream(options: Reconnect): Promise<ReadableStream<UIMessageChunk> | null> {
    const threadId = await this.#busyThread(options.chatId);
    if (threadId === null) return null;
    const tree = await TurnTree.load(this.#client, threadId);
    if (tree.running === undefined) return null;
    const { turnId, messageId, earlier } = tree.runningMessage(tree.running);
    const stream = await this.#client.threads.turns.resume(threadId, turnId, headersOf(options));
    // Until here, a chat that is unmounted (as React's strict mode does) has shown nothing that could be stopped.
    if (options.abortSignal?.aborted) return null;
    // A message that was sent meanwhile began this turn.
    const sending = this.#sending.get(options.chatId);
    if (sending !== undefined) return sending.then(() => null);
    const messageMetadata: EverthreadMetadata = { turnId, status: "in_progress" };
    return this.#chunks(stream, () => [{ type: "start", messageId, messageMetadata }, ...replayed(earlier)], options.abortSignal);
  }

  /** Return the id of a chat's thread if a turn is running in it, or else null. */
  async #busyThread(chatId: string): Promise<string | null> {
    const path = chatId.startsWith("thread_") ? chatId : `by-name/${encodeURIComponent(chatId)}`;
    try {
      const thread = await this.#client.request<{ id: string; status: string }>("GET", `/threads/${path}`);
      return thread.status === "busy" ? thread.id : null;
    } catch (error) {
      if (error instanceof EverthreadError && error.status === 404) return null;
      throw error;
    }
  }

  /** Return the chunks of a turn. The signal stops the turn. */
  #chunks(
    stream: TurnStream,
    begin: (turnId: string) => UIMessageChunk[],
    signal: AbortSignal | undefined,
    done: () => void = () => {},
  ): ReadableStream<UIMessageChunk> {
    let reading = true;
    const stop = () => {
      reading = false;
      done();
      if (this.#options.onStop === "leave") return stream.abort();
      const stopping = stream.cancel();
      // The next message reports a failure.
      stopping.catch(() => {});
      this.#stopping.set(stream.threadId, stopping);
    };
    return new ReadableStream<UIMessageChunk>({
      start: (controller) => {
        // The events are read to the end, also after a stop: it is complete when the turn has ended.
        void (async () => {
          const reader = new EventReader();
          let begun = false;
          try {
            for await (const event of stream) {
              if (!reading) continue;
              if (!begun) {
                for (const chunk of begin(stream.turnId ?? "")) controller.enqueue(chunk);
                controller.enqueue({ type: "start-step" });
                begun = true;
              }
              for (const chunk of reader.read(event)) controller.enqueue(chunk);
            }
            if (reading) controller.close();
          } catch (error) {
            if (reading) controller.error(error);
          } finally {
            signal?.removeEventListener("abort", stop);
            done();
          }
        })();
        signal?.addEventListener("abort", stop);
        if (signal?.aborted) stop();
      },
      cancel: () => {
        reading = false;
        if (!signal?.aborted) stream.abort();
      },
    });
  }
}

function headersOf(options: { headers?: Record<string, string> | Headers }): { headers?: Record<string, string> } {
  return options.headers === undefined ? {} : { headers: Object.fromEntries(new Headers(options.headers)) };
}
