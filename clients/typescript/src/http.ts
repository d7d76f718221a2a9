import { EverthreadError } from "./errors.js";

/**
 * A token or API key, or a function that returns a new one. It is called for the first request and after a 401. A
 * `TypeError`, with which `fetch` fails without a network, counts as a lost connection; other errors reach the caller.
 */
export type Token = string | (() => string | Promise<string>);

export interface ClientOptions {
  /** The address of the service, with or without `/v1`. */
  baseURL: string;
  /** A user token in browsers; an API key on servers. */
  token: Token;
  fetch?: typeof fetch;
  /** Number of times that a request is repeated after a lost connection, 408, 429, 502, 503 or 504. Default: 3. */
  maxRetries?: number;
  /** Number of times in a row that a turn's stream reconnects without receiving an event. Default: 10, about one minute. */
  streamRetries?: number;
  /** Milliseconds of silence after which a stream reconnects; the service sends a heartbeat every 15 seconds. Default: 45,000. */
  stallTimeout?: number;
  /** Milliseconds for an answer that is not streamed. Default: 600,000. */
  timeout?: number;
}

export interface RequestOptions {
  signal?: AbortSignal;
  headers?: Record<string, string>;
}

export type Query = Record<string, unknown>;

export interface Call extends RequestOptions {
  query?: Query | undefined;
  body?: unknown;
  /** True if a repetition has no further effect. Default: every method except POST. */
  repeatable?: boolean;
}

/** The reasons for which this client aborts a request. */
const TIMEOUT = Symbol("timeout");
export const STALLED = Symbol("stalled");

const LONGEST_PAUSE = 8_000;
/** A longer `Retry-After` is left to the caller, in seconds. */
const LONGEST_RETRY_AFTER = 60;
const REPEATED = [408, 429, 502, 503, 504];

/** Return the milliseconds before a repetition: `Retry-After`, or exponential back-off with jitter. */
export function pause(attempt: number, error?: EverthreadError): number {
  if (error?.retryAfter != null) return error.retryAfter * 1000;
  return Math.min(500 * 2 ** attempt, LONGEST_PAUSE) * (0.5 + Math.random() / 2);
}

/** Return true if an attempt can succeed later. */
export function isPassing(error: unknown): error is EverthreadError {
  return (
    error instanceof EverthreadError &&
    (error.code === "connection_lost" || REPEATED.includes(error.status)) &&
    (error.retryAfter ?? 0) <= LONGEST_RETRY_AFTER
  );
}

/** Wait; return early if the signal is aborted. */
export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    if (signal?.aborted) done();
    else signal?.addEventListener("abort", done);
  });
}

/** Return a path whose segments are escaped. A segment that would lead elsewhere is refused. */
export function path(strings: TemplateStringsArray, ...segments: string[]): string {
  return String.raw(
    { raw: strings },
    ...segments.map((segment) => {
      if (typeof segment !== "string" || /^\.{0,2}$/.test(segment)) throw new TypeError(`Not an id: ${JSON.stringify(segment)}`);
      return encodeURIComponent(segment);
    }),
  );
}

/** Return a random key: a UUID, or as many random bits where pages without TLS have no `randomUUID`, and Node 18 no `crypto`. */
export function randomKey(): string {
  const { crypto } = globalThis as { crypto?: Partial<Crypto> };
  if (crypto?.randomUUID) return crypto.randomUUID();
  const bytes = crypto?.getRandomValues?.(new Uint8Array(16)) ?? Array.from({ length: 16 }, () => Math.random() * 256);
  return Array.from(bytes, (byte) => Math.floor(byte).toString(16).padStart(2, "0")).join("");
}

/** Sends requests: address, token, repetitions and errors in one place. */
export class Transport {
  readonly maxRetries: number;
  readonly streamRetries: number;
  readonly stallTimeout: number;
  /** The address without `/v1`. */
  readonly base: string;
  readonly #token: Token;
  readonly #fetch: typeof fetch;
  readonly #timeout: number;
  #current: Promise<string> | undefined;

  constructor(options: ClientOptions) {
    this.base = options.baseURL.replace(/\/+$/, "").replace(/\/v1$/, "");
    this.#token = options.token;
    this.#fetch = options.fetch ?? ((...request) => globalThis.fetch(...request));
    this.#timeout = options.timeout ?? 600_000;
    this.maxRetries = options.maxRetries ?? 3;
    this.streamRetries = options.streamRetries ?? 10;
    this.stallTimeout = options.stallTimeout ?? 45_000;
  }

  /** Send a request until it is answered, and return the JSON of its answer. */
  async json<T>(method: string, path: string, call: Call = {}): Promise<T> {
    const repeatable = call.repeatable ?? method !== "POST";
    for (let attempt = 0; ; attempt++) {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(TIMEOUT), this.#timeout);
      const leave = () => abort.abort(call.signal?.reason);
      call.signal?.addEventListener("abort", leave);
      try {
        call.signal?.throwIfAborted();
        const response = await this.open(method, path, { ...call, signal: abort.signal });
        return await response.json().catch((cause) => Promise.reject(this.#lost(cause, abort.signal)));
      } catch (error) {
        call.signal?.throwIfAborted();
        // A refusal with a status has had no effect; a lost answer may have had one.
        const again = repeatable || (error instanceof EverthreadError && [429, 503].includes(error.status));
        if (!again || attempt >= this.maxRetries || !isPassing(error)) throw error;
        await sleep(pause(attempt, error), call.signal);
      } finally {
        clearTimeout(timer);
        call.signal?.removeEventListener("abort", leave);
      }
    }
  }

  /** Send a request once, or twice if its token has ended, and return the answer before its body is read. */
  async open(method: string, path: string, call: Call): Promise<Response> {
    const used = this.#authorization();
    let response = await this.#send(method, path, call, await used);
    if (response.status === 401 && typeof this.#token !== "string") {
      await response.body?.cancel();
      // Requests that are refused with the same token share its successor.
      if (this.#current === used) this.#current = undefined;
      response = await this.#send(method, path, call, await this.#authorization());
    }
    if (!response.ok) throw await EverthreadError.from(response);
    return response;
  }

  /** Drop a token that has ended. Return false if no new one can be had. */
  expire(): boolean {
    this.#current = undefined;
    return typeof this.#token !== "string";
  }

  #authorization(): Promise<string> {
    const token = this.#token;
    if (typeof token === "string") return Promise.resolve(token);
    if (this.#current === undefined) {
      const current = Promise.resolve().then(token).then(usable, (cause) => {
        throw cause instanceof TypeError ? this.#lost(cause) : cause;
      });
      this.#current = current;
      current.catch(() => {
        if (this.#current === current) this.#current = undefined; // The next request asks again.
      });
    }
    return this.#current;
  }

  async #send(method: string, path: string, { query, body, headers, signal }: Call, token: string): Promise<Response> {
    try {
      return await this.#fetch(`${this.base}/v1${path}${queryString(query)}`, {
        method,
        headers: {
          Authorization: `Bearer ${token}`,
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        ...(signal === undefined ? {} : { signal }),
      });
    } catch (cause) {
      throw this.#lost(cause, signal);
    }
  }

  #lost(cause: unknown, signal?: AbortSignal): unknown {
    if (signal?.reason === TIMEOUT) {
      return new EverthreadError({ status: 0, code: "timeout", message: "The service did not answer in time.", cause });
    }
    if (signal?.aborted && signal.reason !== STALLED) return cause;
    return new EverthreadError({ status: 0, code: "connection_lost", message: "The connection was lost.", cause });
  }
}

/** Return a token; refuse what is none, such as the error page of a proxy. */
function usable(token: string): string {
  if (typeof token === "string" && /^[!-~]+$/.test(token)) return token;
  throw new EverthreadError({ status: 0, code: "bad_token", message: "The function `token` has returned no token." });
}

function queryString(query: Query = {}): string {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === null) continue;
    if (typeof value !== "object") pairs.append(name, String(value));
    else for (const [key, each] of Object.entries(value)) pairs.append(`${name}[${key}]`, String(each));
  }
  const text = pairs.toString();
  return text && `?${text}`;
}
