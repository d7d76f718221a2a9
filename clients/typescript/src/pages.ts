import type { Query } from "./http.js";

/** A page of a list. */
export interface Page<T> {
  data: T[];
  first_id: string | null;
  last_id: string | null;
  has_more: boolean;
}

/** A list: await it for its first page, or iterate over the entries of all pages. */
export class List<T> implements Promise<Page<T>>, AsyncIterable<T> {
  readonly #load: (query: Query) => Promise<Page<T>>;
  readonly #query: Query;
  #first: Promise<Page<T>> | undefined;

  constructor(load: (query: Query) => Promise<Page<T>>, query: object = {}) {
    this.#load = load;
    this.#query = query as Query;
  }

  then<A = Page<T>, B = never>(
    onfulfilled?: ((page: Page<T>) => A | PromiseLike<A>) | null,
    onrejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#first ??= this.#load(this.#query);
    return this.#first.then(onfulfilled, onrejected);
  }

  catch<B = never>(onrejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<Page<T> | B> {
    return this.then(null, onrejected);
  }

  finally(onfinally?: (() => void) | null): Promise<Page<T>> {
    return this.then().finally(onfinally);
  }

  get [Symbol.toStringTag](): string {
    return "List";
  }

  /** Iterate over the pages. */
  async *pages(): AsyncGenerator<Page<T>, void, undefined> {
    // Pages that end at a cursor are read backwards.
    const backwards = this.#query["before"] != null || this.#query["turns"] != null;
    let page: Page<T> = await this;
    for (;;) {
      yield page;
      const cursor = backwards ? page.first_id : page.last_id;
      if (!page.has_more || cursor === null) return;
      page = await this.#load({ ...this.#query, [backwards ? "before" : "after"]: cursor });
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for await (const page of this.pages()) yield* page.data;
  }
}
