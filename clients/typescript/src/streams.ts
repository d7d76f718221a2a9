import { EverthreadError } from "./errors.js";
import { isPassing, pause, randomKey, sleep, STALLED, path, type Query, type RequestOptions, type Transport } from "./http.js";
import { serverEvents, type ServerEvent } from "./sse.js";
import type { InputItem, Item, LocalMessage, ThreadEvent, Turn, TurnEvent, TurnParams, TurnResponse } from "./types.js";

/** A connection that brought bytes for this many milliseconds counts as a success, even without an event. */
const LASTING = 10_000;

interface ErrorEvent {
  type: "error";
  code: string;
  message: string;
  param?: string | null;
  status?: number;
  starting_after?: number;
  last_event_id?: string;
}

/** Events that go on over as many connections as they need. */
abstract class ResumedStream<E> implements AsyncIterable<E> {
  protected readonly transport: Transport;
  readonly #abort = new AbortController();
  #started = false;

  constructor(transport: Transport, signal: AbortSignal | undefined) {
    this.transport = transport;
    if (signal?.aborted) this.#abort.abort();
    else signal?.addEventListener("abort", () => this.abort(), { signal: this.#abort.signal });
  }

  protected abstract connect(signal: AbortSignal): Promise<Response>;
  /** Return the events to pass on. */
  protected abstract read(event: ServerEvent): E[];
  protected abstract get ended(): boolean;
  /** Return how often in a row the stream reconnects after such a failure. */
  protected abstract retries(failure: EverthreadError): number;

  protected get started(): boolean {
    return this.#started;
  }

  /** Stop reading. What runs at the service goes on. */
  abort(): void {
    this.#abort.abort();
  }

  /** The events as a web stream. Cancelling it only stops reading. */
  toReadableStream(): ReadableStream<E> {
    const events = this[Symbol.asyncIterator]();
    return new ReadableStream<E>({
      async pull(controller) {
        const { done, value } = await events.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: () => this.abort(),
    });
  }

  /** Iterate over the events, once. The request is sent now. */
  async *[Symbol.asyncIterator](): AsyncGenerator<E, void, undefined> {
    if (this.#started) throw new TypeError("A stream can be iterated over once.");
    this.#started = true;
    try {
      yield* this.#connections(this.#abort.signal);
    } finally {
      this.#abort.abort(); // Lets go of the caller's signal, too.
    }
  }

  async *#connections(signal: AbortSignal): AsyncGenerator<E, void, undefined> {
    for (let attempt = 0; !signal.aborted; ) {
      const began = Date.now();
      let heard = 0;
      const connection = new AbortController();
      const leave = () => connection.abort();
      signal.addEventListener("abort", leave);
      let timer: ReturnType<typeof setTimeout> | undefined;
      const waits = (silent = true) => {
        clearTimeout(timer);
        if (silent && this.transport.stallTimeout > 0) timer = setTimeout(() => connection.abort(STALLED), this.transport.stallTimeout);
      };
      let failure: EverthreadError;
      try {
        waits();
        const { headers, body } = await this.connect(connection.signal);
        if (body === null || !headers.get("content-type")?.startsWith("text/event-stream")) throw badStream("no stream of events");
        for await (const event of serverEvents(body, () => (waits(), (heard = Date.now())))) {
          for (const each of this.read(event)) {
            attempt = 0;
            waits(false);
            yield each;
            if (signal.aborted) return;
            waits();
          }
          if (this.ended) return;
        }
        failure = lost("The stream ended before its last event.");
      } catch (error) {
        if (signal.aborted) return;
        if (!isPassing(error)) throw error;
        failure = error;
      } finally {
        waits(false);
        signal.removeEventListener("abort", leave);
        connection.abort();
      }
      if (heard - began > LASTING) attempt = 0;
      if (++attempt > this.retries(failure)) throw failure;
      await sleep(pause(attempt - 1, failure), signal);
    }
  }

  /** Return the data of an event; throw what an event `error` says. */
  protected dataOf<T>(event: ServerEvent): T {
    let data: T | ErrorEvent;
    try {
      data = JSON.parse(event.data) as T | ErrorEvent;
    } catch {
      throw badStream("an event that is not JSON");
    }
    if ((data as ErrorEvent).type !== "error") return data as T;
    const { code, message, param = null, status, starting_after, last_event_id } = data as ErrorEvent;
    const resumable = starting_after !== undefined || last_event_id !== undefined || code === "service_stopping";
    if (code === "credential_expired" && this.transport.expire()) throw lost(message);
    const final = ["credential_expired", "credential_revoked", "project_archived", "thread_not_found"].includes(code);
    if (resumable && !final) throw lost(message);
    throw new EverthreadError({ status: status ?? (code === "thread_not_found" ? 404 : final ? 401 : 0), code, message, param });
  }
}

export interface StreamOptions extends RequestOptions {
  /** Called at once with the message to show, before the request is sent. */
  onOptimistic?: (message: LocalMessage) => void;
  /** The key that makes a repeated request the same turn. Default: a random one. */
  idempotencyKey?: string;
}

export interface ResumeOptions extends RequestOptions {
  /** The `sequence_number` of the last event that was read. Default: -1, from the beginning. */
  startingAfter?: number;
}

/**
 * The events of one turn, to its end. Iterate over it once; a lost connection is resumed where it broke off, so that no
 * event is missing or doubled. It ends after `response.completed`, `response.incomplete` or `response.failed`, or
 * throws an `EverthreadError`.
 */
export class TurnStream extends ResumedStream<TurnEvent> {
  readonly threadId: string;
  /** The idempotency key of a turn that this stream creates. */
  readonly idempotencyKey: string | undefined;
  /** The message to show at once. */
  readonly message: LocalMessage | undefined;
  readonly #params: TurnParams | undefined;
  readonly #headers: Record<string, string>;
  readonly #opened = deferred<string | undefined>();
  readonly #final = deferred<TurnResponse>();
  readonly #output: Output | undefined;
  #turnId: string | undefined;
  #last: number;
  #ended = false;

  /** @internal */
  constructor(transport: Transport, threadId: string, how: { params: TurnParams } | { turnId: string }, options: StreamOptions & ResumeOptions) {
    super(transport, options.signal);
    this.threadId = threadId;
    this.#headers = options.headers ?? {};
    this.#last = options.startingAfter ?? -1;
    this.#output = this.#last < 0 ? new Output() : undefined;
    if ("turnId" in how) {
      this.#turnId = how.turnId;
      this.#opened.resolve(how.turnId);
    } else {
      this.#params = how.params;
      this.idempotencyKey = options.idempotencyKey ?? randomKey();
      const { input = [] } = how.params;
      this.message = { id: this.idempotencyKey, role: "user", text: textOf(input), input };
      options.onOptimistic?.(this.message);
    }
  }

  /** The id of the turn, once it is known. */
  get turnId(): string | undefined {
    return this.#turnId;
  }

  /** The number of the last event that was read; -1 before the first. Keep it with the turn's id to resume later. */
  get sequenceNumber(): number {
    return this.#last;
  }

  /** The text of the answer so far. Incomplete if the stream was resumed with `startingAfter`. */
  get text(): string {
    return this.#output?.text ?? "";
  }

  /** Resolve to the turn's id as soon as it is known; to undefined if the stream ends without a turn. Iterate meanwhile. */
  get opened(): Promise<string | undefined> {
    return this.#opened.promise;
  }

  /** Stop the turn, and return it with its output so far; null if it was not created. The stream ends with `response.incomplete`. */
  async cancel(): Promise<Turn | null> {
    if (!this.started && this.#turnId === undefined) this.abort();
    const turnId = await this.#opened.promise;
    if (turnId === undefined) return null;
    return this.transport.json<Turn>("POST", path`/threads/${this.threadId}/turns/${turnId}/cancel`, { repeatable: true });
  }

  override abort(): void {
    super.abort();
    this.#opened.resolve(this.#turnId);
    this.#final.reject(new EverthreadError({ status: 0, code: "aborted", message: "The stream was aborted." }));
  }

  /** Return the response with which the turn ends. Reads the stream if nothing else does. */
  async finalResponse(): Promise<TurnResponse> {
    if (!this.started) for await (const _ of this) if (this.#ended) break;
    return this.#final.promise;
  }

  /** Return the turn after its end, with usage, cost and input. */
  async finalTurn(): Promise<Turn> {
    await this.finalResponse();
    return this.transport.json<Turn>("GET", path`/threads/${this.threadId}/turns/${this.#turnId ?? ""}`);
  }

  override async *[Symbol.asyncIterator](): AsyncGenerator<TurnEvent, void, undefined> {
    try {
      yield* super[Symbol.asyncIterator]();
    } catch (error) {
      this.#final.reject(error);
      throw error;
    } finally {
      if (!this.#ended) this.abort();
      this.#opened.resolve(this.#turnId);
    }
  }

  protected override retries(failure: EverthreadError): number {
    // A turn that is refused is requested as often as others are. One that has begun outlasts a restart of the service.
    return failure.status > 0 && this.#turnId === undefined ? this.transport.maxRetries : this.transport.streamRetries;
  }

  protected override async connect(signal: AbortSignal): Promise<Response> {
    const turns = path`/threads/${this.threadId}/turns`;
    if (this.#turnId !== undefined) {
      const query = { starting_after: this.#last };
      return this.transport.open("GET", turns + path`/${this.#turnId}/events`, { query, headers: this.#headers, signal });
    }
    // The same key again, so that a request whose answer was lost creates no second turn.
    const headers = { ...this.#headers, "Idempotency-Key": this.idempotencyKey ?? "" };
    const response = await this.transport.open("POST", turns, { body: { ...this.#params, stream: true }, headers, signal });
    this.#isOpened(response.headers.get("everthread-turn"));
    return response;
  }

  protected override read(event: ServerEvent): TurnEvent[] {
    const data = this.dataOf<TurnEvent>(event);
    if (data.sequence_number <= this.#last) return [];
    this.#last = data.sequence_number;
    if ("response" in data) this.#isOpened(data.response.id);
    if (!isLast(data)) {
      this.#output?.add(data);
      return [data];
    }
    this.#ended = true;
    this.#final.resolve(data.response);
    return [...(this.#output?.missing(data.response.output, data.sequence_number) ?? []), data];
  }

  protected override get ended(): boolean {
    return this.#ended;
  }

  #isOpened(id: string | null): void {
    if (id === null || this.#turnId !== undefined) return;
    this.#turnId = id.replace(/^resp_/, "turn_");
    this.#opened.resolve(this.#turnId);
  }
}

/**
 * The output that a turn's events have shown.
 *
 * The service keeps single events for a limited time. After that, a stream that is resumed gets its last event only,
 * with the whole output: the rest is then told as events, under the number of the last one.
 */
class Output {
  readonly #texts = new Map<string, string>();
  readonly #added = new Set<number>();
  readonly #done = new Set<number>();

  get text(): string {
    return [...this.#texts.values()].join("");
  }

  add(event: TurnEvent): void {
    if (event.type === "response.output_text.delta") {
      const place = `${event.output_index}.${event.content_index}`;
      this.#texts.set(place, (this.#texts.get(place) ?? "") + event.delta);
    } else if (event.type === "response.output_item.added") this.#added.add(event.output_index);
    else if (event.type === "response.output_item.done") this.#done.add(event.output_index);
  }

  missing(output: Item[], sequence_number: number): TurnEvent[] {
    const events: TurnEvent[] = [];
    for (const [output_index, item] of output.entries()) {
      if (this.#done.has(output_index)) continue;
      const at = { sequence_number, output_index };
      const before = events.length;
      if (!this.#added.has(output_index)) {
        const item_ = item.type === "message" ? { ...item, content: [] } : item;
        events.push({ type: "response.output_item.added", ...at, item: { ...item_, status: "in_progress" } });
      }
      for (const [content_index, part] of (Array.isArray(item.content) ? item.content : []).entries()) {
        if (item.type !== "message" || part.type !== "output_text" || !part.text) continue;
        const said = this.#texts.get(`${output_index}.${content_index}`) ?? "";
        if (part.text.length <= said.length || !part.text.startsWith(said)) continue;
        const delta = part.text.slice(said.length);
        events.push({ type: "response.output_text.delta", ...at, item_id: item.id ?? "", content_index, delta });
        this.#texts.set(`${output_index}.${content_index}`, part.text);
      }
      // An item that was broken off has no such event.
      if (events.length > before || item.status === "completed") events.push({ type: "response.output_item.done", ...at, item });
    }
    return events;
  }
}

export interface LiveOptions extends RequestOptions {
  /** The `lastEventId` of an earlier stream. */
  after?: string;
}

/** Events without a last one: a thread's, or the live list. It reconnects until it is aborted or refused. */
export class LiveStream<E extends { type: string }> extends ResumedStream<E> {
  readonly #path: string;
  readonly #query: Query;
  readonly #options: LiveOptions;
  readonly #end: string | undefined;
  #lastEventId: string | undefined;
  #ended = false;

  /** @internal */
  constructor(transport: Transport, path: string, query: Query, options: LiveOptions, end?: string) {
    super(transport, options.signal);
    this.#path = path;
    this.#query = query;
    this.#options = options;
    this.#end = end;
    this.#lastEventId = options.after;
  }

  /** The position in the stream, to resume after a reload. */
  get lastEventId(): string | undefined {
    return this.#lastEventId;
  }

  protected override retries(): number {
    return Infinity;
  }

  protected override connect(signal: AbortSignal): Promise<Response> {
    const after = this.#lastEventId === undefined ? {} : { "Last-Event-ID": this.#lastEventId };
    return this.transport.open("GET", this.#path, { query: this.#query, headers: { ...this.#options.headers, ...after }, signal });
  }

  protected override read(event: ServerEvent): E[] {
    if (event.id !== undefined) this.#lastEventId = event.id;
    const data = this.dataOf<E>(event);
    this.#ended = data.type === this.#end;
    return [data];
  }

  protected override get ended(): boolean {
    return this.#ended;
  }
}

/** The events of a thread: its turns, from any client, and its changes. It ends with `thread.deleted`. */
export class ThreadStream extends LiveStream<ThreadEvent> {
  readonly #outputs = new Map<string, Output>();

  /** @internal */
  constructor(transport: Transport, threadId: string, options: LiveOptions) {
    super(transport, path`/threads/${threadId}/events`, {}, options, "thread.deleted");
  }

  protected override read(event: ServerEvent): ThreadEvent[] {
    const found = super.read(event);
    const [data] = found;
    if (data === undefined || !("sequence_number" in data)) return found;
    if (data.sequence_number === 0) this.#outputs.set(data.turn_id, new Output());
    const output = this.#outputs.get(data.turn_id);
    if (!isLast(data)) output?.add(data);
    if (!isLast(data) || output === undefined) return found;
    this.#outputs.delete(data.turn_id);
    const missing = output.missing(data.response.output, data.sequence_number);
    return [...missing.map((each) => ({ ...each, turn_id: data.turn_id })), data];
  }
}

type LastEvent = Extract<TurnEvent, { type: "response.completed" | "response.incomplete" | "response.failed" }>;

function isLast<E extends TurnEvent>(event: E): event is E & LastEvent {
  return ["response.completed", "response.incomplete", "response.failed"].includes(event.type);
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (reason: unknown) => void } {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((...both) => ([resolve, reject] = both));
  promise.catch(() => {}); // Nobody may be waiting.
  return { promise, resolve, reject };
}

/** Return the user's own text of an input. */
function textOf(input: string | InputItem[]): string {
  if (typeof input === "string") return input;
  const contents = input.map((item) => ("role" in item && item.role === "user" ? item.content : ""));
  const parts = contents.flatMap((content) => (Array.isArray(content) ? content : [{ type: "text", text: content as string }]));
  return parts.map((part: { text?: string }) => part.text ?? "").filter(Boolean).join("\n");
}

function lost(message: string): EverthreadError {
  return new EverthreadError({ status: 0, code: "connection_lost", message });
}

function badStream(what: string): EverthreadError {
  return new EverthreadError({ status: 0, code: "bad_stream", message: `The service sent ${what}.` });
}
