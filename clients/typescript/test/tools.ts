// A real service, its provider emulator, and a proxy that breaks connections.
import assert from "node:assert/strict";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { after } from "node:test";
import { Everthread, type ClientOptions, type TurnEvent } from "@everthread/client";

export function variable(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set`);
  return value;
}

export const URL_ = variable("EVERTHREAD_URL");
export const KEY = variable("EVERTHREAD_KEY");

export function client(options: Partial<ClientOptions> = {}): Everthread {
  return new Everthread({ baseURL: URL_, token: KEY, ...options });
}

export const direct = client();

/** Return a user's token. */
export async function userToken(user: string, fields: object = {}): Promise<string> {
  const made = await direct.request<{ token: string }>("POST", "/user_tokens", { body: { user, ...fields } });
  return made.token;
}

/** Cause a fault in the emulator's next calls. */
export async function fault(kind: string, fields: object = {}): Promise<void> {
  const answer = await fetch(`${variable("EVERTHREAD_EMULATOR")}/_emulator/faults`, {
    method: "POST",
    body: JSON.stringify([{ kind, ...fields }]),
  });
  assert.equal(answer.status, 200);
}

/** Wait until something is true. */
export async function eventually<T>(check: () => Promise<T | null | undefined | false>): Promise<T> {
  for (let left = 600; left > 0; left--) {
    const found = await check();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail("It did not happen within 30 seconds.");
}

/** Run a command of Redis, such as FLUSHALL. */
export async function redis(command: string): Promise<void> {
  const { protocol, hostname, port, pathname } = new URL(variable("EVERTHREAD_REDIS"));
  const socket = protocol === "redis:" ? connect(Number(port), hostname) : connect(pathname);
  socket.write(`${command}\r\n`);
  const answer = await new Promise<string>((resolve, reject) => socket.once("data", (data) => resolve(`${data}`)).once("error", reject));
  socket.destroy();
  assert.equal(answer, "+OK\r\n");
}

/** Read a stream to its end. */
export async function read<E>(stream: AsyncIterable<E>, each: (event: E) => unknown = () => {}): Promise<E[]> {
  const events: E[] = [];
  for await (const event of stream) {
    events.push(event);
    await each(event);
  }
  return events;
}

export function said(events: TurnEvent[]): string {
  return events.map((event) => (event.type === "response.output_text.delta" ? event.delta : "")).join("");
}

/** Return a stream's events without the moments and ids that differ between two turns. */
export function kinds(events: TurnEvent[]): string[] {
  return events.map((event) => `${event.sequence_number} ${event.type} ${"delta" in event ? event.delta : ""}`);
}

/** Returns the number of an answer's bytes that a connection passes on. */
export type Passes = (answer: string) => number;

export const EVERYTHING: Passes = () => Infinity;
export const NOTHING: Passes = () => 0;

/** Pass on the headers and a number of events, and then so many bytes of the next one. */
export function events(number: number, bytes = 0): Passes {
  return (answer) => {
    let end = answer.indexOf("\r\n\r\n") + 4;
    if (end < 4) return Infinity;
    for (let left = number; left > 0; left--) {
      end = answer.indexOf("\n\n", end) + 2;
      if (end < 2) return Infinity;
    }
    return end + bytes;
  };
}

/** A proxy before the service. Each connection is cut after a part of its answer, or left silent. */
export class Proxy {
  /** The requests' first lines and headers. */
  readonly requests: string[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #server;
  /** The limits of the next connections, in order; the last one applies to all that follow. */
  passes: Passes[];
  /** The number of requests that the service has begun to answer. */
  answered = 0;
  /** The service behind it. */
  upstream = URL_;
  /** True to leave a connection open instead of cutting it. */
  silent = false;

  private constructor(passes: Passes[]) {
    this.passes = passes;
    this.#server = createServer((client) => this.#accept(client));
  }

  static async listen(...passes: Passes[]): Promise<Proxy> {
    const proxy = new Proxy(passes);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    after(() => proxy.close());
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  client(options: Partial<ClientOptions> = {}): Everthread {
    return client({ baseURL: this.url, ...options });
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #accept(client: Socket): void {
    const { hostname, port } = new URL(this.upstream);
    const service = connect(Number(port), hostname);
    let passes = EVERYTHING;
    let answer = "";
    let passed = 0;
    for (const socket of [client, service]) {
      this.#sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => (client.destroy(), service.destroy()));
    }
    client.on("data", (data) => {
      const text = data.toString("latin1");
      if (/^[A-Z]+ \//.test(text)) {
        this.requests.push(text);
        // Each request of a connection that is kept alive counts.
        passes = (this.passes.length > 1 ? this.passes.shift() : this.passes[0]) ?? EVERYTHING;
        answer = "";
        passed = 0;
      }
      service.write(data);
    });
    service.on("data", (data) => {
      if (answer === "") this.answered++;
      answer += data.toString("latin1");
      const until = Math.min(passes(answer), answer.length);
      if (until > passed) client.write(Buffer.from(answer.slice(passed, until), "latin1"));
      passed = until;
      if (passes(answer) <= answer.length && !this.silent) client.end();
    });
  }
}
