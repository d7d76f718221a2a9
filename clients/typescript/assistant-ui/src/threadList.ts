/** The list of threads. */

import type { Everthread, Thread } from "@everthread/client";
import type { RemoteThreadListAdapter } from "@assistant-ui/react";
import { createAssistantStream } from "assistant-stream";

type Metadata = Awaited<ReturnType<RemoteThreadListAdapter["fetch"]>>;

const PAGE = 50;
const TITLE = 60;

/** Return an adapter of the user's threads, the most recently used first. */
export function everthreadThreadList(client: Everthread): RemoteThreadListAdapter {
  return {
    async list({ after } = {}) {
      const page = await client.threads.list({ order_by: "activity", limit: PAGE, ...(after ? { after } : {}) });
      return {
        threads: page.data.map(metadataOf),
        ...(page.has_more && page.last_id !== null ? { nextCursor: page.last_id } : {}),
      };
    },
    async fetch(threadId) {
      return metadataOf(await client.threads.retrieve(threadId));
    },
    async initialize(_localId, { custom } = {}) {
      const thread = await client.threads.create(custom ? { metadata: strings(custom) } : {});
      return { remoteId: thread.id };
    },
    async rename(threadId, title) {
      await client.threads.update(threadId, { title });
    },
    async updateCustom(threadId, custom) {
      await client.threads.update(threadId, { metadata: strings(custom ?? {}) });
    },
    async archive(threadId) {
      await client.threads.update(threadId, { archived: true });
    },
    async unarchive(threadId) {
      await client.threads.update(threadId, { archived: false });
    },
    async delete(threadId) {
      await client.threads.delete(threadId);
    },
    /** Return the title that the service has written, or else the beginning of the first question. */
    async generateTitle(threadId, messages) {
      const thread = await client.threads.retrieve(threadId);
      const question = messages.find((message) => message.role === "user")?.content ?? [];
      const words = question.flatMap((part) => (part.type === "text" ? part.text : [])).join(" ");
      const title = thread.title ?? [...words.trim()].slice(0, TITLE).join("");
      if (thread.title === null && title !== "") await client.threads.update(threadId, { title });
      return createAssistantStream((controller) => controller.appendText(title));
    },
  };
}

function metadataOf(thread: Thread): Metadata {
  return {
    remoteId: thread.id,
    status: thread.archived ? "archived" : "regular",
    title: thread.title ?? undefined,
    lastMessageAt: new Date(thread.updated_at * 1000),
    custom: thread.metadata,
  };
}

/** Return metadata as the service stores it: its values are strings. */
function strings(custom: Record<string, unknown>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(custom).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
  );
}
