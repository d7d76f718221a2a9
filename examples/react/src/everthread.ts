import { Everthread } from "@everthread/client";
import { Chat } from "@ai-sdk/react";
import { EverthreadTransport, loadHistory, type EverthreadUIMessage } from "@everthread/ai-sdk";

export type Message = EverthreadUIMessage;
export type Conversation = Chat<Message>;

/** Return a user token and the address of the service, from our own server. */
async function signIn(): Promise<{ token: string; url: string }> {
  const answer = await fetch("/token", { method: "POST" });
  if (!answer.ok) throw new Error("You could not be signed in.");
  return answer.json();
}

export let client: Everthread;
let transport: EverthreadTransport;

export async function connect(): Promise<void> {
  const first = await signIn();
  let unused: string | undefined = first.token;
  // The client asks for a new token when the service refuses the last one.
  const token = async () => {
    const next = unused ?? (await signIn()).token;
    unused = undefined;
    return next;
  };
  client = new Everthread({ baseURL: first.url, token });
  transport = new EverthreadTransport({ client });
}

/** Chats by thread. One that streams goes on while another thread is shown. */
const chats = new Map<string, Conversation>();

export function isBusy(chat: Conversation | undefined): boolean {
  return chat?.status === "submitted" || chat?.status === "streaming";
}

/** Return the chat of a thread: as it streams here, or else as the service has stored it. */
export async function openChat(threadId: string): Promise<Conversation> {
  const open = chats.get(threadId);
  if (open && isBusy(open)) return open;
  const { messages } = await loadHistory(client, threadId);
  const chat = new Chat<Message>({ id: threadId, messages, transport });
  chats.set(threadId, chat);
  return chat;
}

/** Create a thread with its first message, and return its id. */
export async function begin(text: string): Promise<string> {
  const { id } = await client.threads.create({ title: text.slice(0, 60) });
  const chat = new Chat<Message>({ id, transport });
  chats.set(id, chat);
  void chat.sendMessage({ text });
  return id;
}
