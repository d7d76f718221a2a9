import { path, randomKey, Transport, type ClientOptions, type Query, type RequestOptions } from "./http.js";
import { List, type Page } from "./pages.js";
import { LiveStream, ThreadStream, TurnStream, type LiveOptions, type ResumeOptions, type StreamOptions } from "./streams.js";
import type * as t from "./types.js";

function list<T>(transport: Transport, path: string, params: object, options: RequestOptions): List<T> {
  return new List((query) => transport.json<Page<T>>("GET", path, { ...options, query }), params);
}

/** The methods of one kind of object. */
class Resource {
  protected readonly transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.transport = transport;
  }
}

/** A client of Everthread. */
export class Everthread {
  readonly threads: Threads;
  readonly feedback: Feedbacks;
  readonly models: Models;
  readonly #transport: Transport;

  constructor(options: ClientOptions) {
    this.#transport = new Transport(options);
    this.threads = new Threads(this.#transport);
    this.feedback = new Feedbacks(this.#transport);
    this.models = new Models(this.#transport);
  }

  /** Search titles and messages, best match first. */
  search(q: string, params: t.SearchParams = {}, options: RequestOptions = {}): List<t.Hit> {
    return list(this.#transport, "/search", { ...params, q }, options);
  }

  /** Follow the list of threads: a snapshot, then threads created, changed, deleted, and their turns. `user` is for servers. */
  events({ user, ...options }: LiveOptions & { user?: string } = {}): LiveStream<t.LiveEvent> {
    return new LiveStream(this.#transport, "/events", { user }, options);
  }

  /** Create a ticket that opens one stream, such as `/v1/events`, once and without a header. */
  streamTicket(path: string, options: RequestOptions = {}): Promise<t.StreamTicket> {
    return this.#transport.json("POST", "/stream_tickets", { ...options, body: { path }, repeatable: true });
  }

  /** Return an address for one `EventSource`: that of a stream, with a ticket. */
  async eventSourceURL(path: string, options: RequestOptions = {}): Promise<string> {
    const { ticket } = await this.streamTicket(path, options);
    return `${this.#transport.base}${path}${path.includes("?") ? "&" : "?"}ticket=${encodeURIComponent(ticket)}`;
  }

  /** Read the conversation behind a shared link. `after` is the `next` of the page before. */
  shared(token: string, after = 0, options: RequestOptions = {}): Promise<t.SharedThread> {
    return this.#transport.json("GET", path`/shared/${token}`, { ...options, query: { after } });
  }

  /** Send a request to a route that has no method here. The path begins after `/v1`. */
  request<T>(method: string, path: string, call: { query?: Query; body?: unknown } & RequestOptions = {}): Promise<T> {
    return this.#transport.json<T>(method, path, call);
  }
}

export class Threads extends Resource {
  readonly turns: Turns = new Turns(this.transport);
  readonly shares: Shares = new Shares(this.transport);
  readonly items: Items = new Items(this.transport);

  /** Create a thread. A lost answer is not repeated; `getOrCreate` is safe to repeat. */
  create(params: t.ThreadCreateParams = {}, options: RequestOptions = {}): Promise<t.Thread> {
    return this.transport.json("POST", "/threads", { ...options, body: params });
  }

  /** Return the thread with a name; create it if there is none. */
  getOrCreate(name: string, params: t.ThreadPutParams = {}, options: RequestOptions = {}): Promise<t.Thread> {
    return this.transport.json("PUT", path`/threads/by-name/${name}`, { ...options, body: params });
  }

  retrieve(threadId: string, options: RequestOptions = {}): Promise<t.Thread> {
    return this.transport.json("GET", path`/threads/${threadId}`, options);
  }

  retrieveByName(name: string, options: RequestOptions = {}): Promise<t.Thread> {
    return this.transport.json("GET", path`/threads/by-name/${name}`, options);
  }

  list(params: t.ThreadListParams = {}, options: RequestOptions = {}): List<t.Thread> {
    return list(this.transport, "/threads", params, options);
  }

  count(params: t.ThreadCountParams = {}, options: RequestOptions = {}): Promise<{ count: number; more: boolean }> {
    return this.transport.json("GET", "/threads/count", { ...options, query: params });
  }

  /** Change fields; those left out stay as they are. `head_id` selects a branch. */
  update(threadId: string, params: t.ThreadUpdateParams, options: RequestOptions = {}): Promise<t.Thread> {
    return this.transport.json("PATCH", path`/threads/${threadId}`, { ...options, body: params });
  }

  delete(threadId: string, options: RequestOptions = {}): Promise<t.Deleted> {
    return this.transport.json("DELETE", path`/threads/${threadId}`, options);
  }

  /** Archive or delete up to 100 threads, with a result for each. */
  bulk(params: t.BulkParams, options: RequestOptions = {}): Promise<Page<t.BulkResult>> {
    return this.transport.json("POST", "/threads/bulk", { ...options, body: params });
  }

  /** The items of the selected branch, each with its turn. The cursors of its pages are turns. */
  messages(threadId: string, params: t.MessageListParams = {}, options: RequestOptions = {}): List<t.MessageItem> {
    return list(this.transport, path`/threads/${threadId}/messages`, params, options);
  }

  /** The ends of the branches. */
  branches(threadId: string, params: t.BranchListParams = {}, options: RequestOptions = {}): List<t.Branch> {
    return list(this.transport, path`/threads/${threadId}/branches`, params, options);
  }

  /** Create a thread with the history up to `turn_id`. */
  fork(threadId: string, params: t.ForkParams = {}, options: RequestOptions = {}): Promise<t.Thread> {
    return this.transport.json("POST", path`/threads/${threadId}/fork`, { ...options, body: params });
  }

  /** Summarize the beginning of the conversation now. */
  compact(threadId: string, params: t.CompactParams = {}, options: RequestOptions = {}): Promise<t.Compaction> {
    return this.transport.json("POST", path`/threads/${threadId}/compact`, { ...options, body: params });
  }

  compactions(threadId: string, options: RequestOptions = {}): List<t.Compaction> {
    return list(this.transport, path`/threads/${threadId}/compactions`, {}, options);
  }

  /** Follow a thread: turns of every client, and changes, until it is deleted. */
  events(threadId: string, options: LiveOptions = {}): ThreadStream {
    return new ThreadStream(this.transport, threadId, options);
  }
}

export class Turns extends Resource {
  readonly feedback: TurnFeedback = new TurnFeedback(this.transport);

  /** Create a turn and return it when it has ended. A request whose answer was lost is repeated with the same key. */
  create(threadId: string, params: t.TurnParams, options: RequestOptions & { idempotencyKey?: string } = {}): Promise<t.Turn> {
    const headers = { ...options.headers, "Idempotency-Key": options.idempotencyKey ?? randomKey() };
    return this.transport.json("POST", path`/threads/${threadId}/turns`, { ...options, body: params, headers, repeatable: true });
  }

  /** Create a turn and stream it. The request is sent when the stream is iterated over; `message` is there at once. */
  stream(threadId: string, params: t.TurnParams, options: StreamOptions = {}): TurnStream {
    return new TurnStream(this.transport, threadId, { params }, options);
  }

  /** Stream a turn that exists, for example after a reload. Without a turn's id: the running one, or null. */
  resume(threadId: string, turnId: string, options?: ResumeOptions): Promise<TurnStream>;
  resume(threadId: string, turnId?: string, options?: ResumeOptions): Promise<TurnStream | null>;
  async resume(threadId: string, turnId?: string, options: ResumeOptions = {}): Promise<TurnStream | null> {
    const found = turnId ?? (await this.list(threadId, {}, options)).data.find((turn) => turn.status === "in_progress")?.id;
    return found === undefined ? null : new TurnStream(this.transport, threadId, { turnId: found }, options);
  }

  retrieve(threadId: string, turnId: string, options: RequestOptions = {}): Promise<t.Turn> {
    return this.transport.json("GET", path`/threads/${threadId}/turns/${turnId}`, options);
  }

  /** The turns of all branches, the newest first. */
  list(threadId: string, params: t.TurnListParams = {}, options: RequestOptions = {}): List<t.Turn> {
    return list(this.transport, path`/threads/${threadId}/turns`, params, options);
  }

  /** Stop a turn, and return it with its output so far. */
  cancel(threadId: string, turnId: string, options: RequestOptions = {}): Promise<t.Turn> {
    return this.transport.json("POST", path`/threads/${threadId}/turns/${turnId}/cancel`, { ...options, repeatable: true });
  }
}

export class TurnFeedback extends Resource {
  create(threadId: string, turnId: string, params: t.FeedbackParams, options: RequestOptions = {}): Promise<t.Feedback> {
    return this.transport.json("POST", path`/threads/${threadId}/turns/${turnId}/feedback`, { ...options, body: params });
  }

  list(threadId: string, turnId: string, options: RequestOptions = {}): List<t.Feedback> {
    return list(this.transport, path`/threads/${threadId}/turns/${turnId}/feedback`, {}, options);
  }
}

/** Single items of a conversation. `Threads.messages` reads them by turns. */
export class Items extends Resource {
  list(threadId: string, params: t.ItemListParams = {}, options: RequestOptions = {}): List<t.Item> {
    return list(this.transport, path`/conversations/${threadId}/items`, params, options);
  }

  retrieve(threadId: string, itemId: string, options: RequestOptions = {}): Promise<t.Item> {
    return this.transport.json("GET", path`/conversations/${threadId}/items/${itemId}`, options);
  }

  async delete(threadId: string, itemId: string, options: RequestOptions = {}): Promise<void> {
    await this.transport.json("DELETE", path`/conversations/${threadId}/items/${itemId}`, options);
  }
}

/** Read-only links. */
export class Shares extends Resource {
  /** Create a link. Its `path` is returned once. */
  create(threadId: string, params: t.ShareParams = {}, options: RequestOptions = {}): Promise<t.ShareLink> {
    return this.transport.json("POST", path`/threads/${threadId}/shares`, { ...options, body: params });
  }

  list(threadId: string, params: t.ShareListParams = {}, options: RequestOptions = {}): List<t.Share> {
    return list(this.transport, path`/threads/${threadId}/shares`, params, options);
  }

  delete(shareId: string, options: RequestOptions = {}): Promise<t.Deleted> {
    return this.transport.json("DELETE", path`/shares/${shareId}`, options);
  }
}

/** The feedback of the project, for servers. */
export class Feedbacks extends Resource {
  list(params: t.FeedbackListParams = {}, options: RequestOptions = {}): List<t.Feedback> {
    return list(this.transport, "/feedback", params, options);
  }

  delete(feedbackId: string, options: RequestOptions = {}): Promise<t.Deleted> {
    return this.transport.json("DELETE", path`/feedback/${feedbackId}`, options);
  }
}

export class Models extends Resource {
  list(options: RequestOptions = {}): List<t.Model> {
    return list(this.transport, "/models", {}, options);
  }

  retrieve(model: string, options: RequestOptions = {}): Promise<t.Model> {
    return this.transport.json("GET", path`/models/${model}`, options);
  }
}
