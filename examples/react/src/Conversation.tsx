import { useChat } from "@ai-sdk/react";
import { selectBranch } from "@everthread/ai-sdk";
import { useEffect, useRef, useState } from "react";
import { Composer } from "./Composer";
import { client, type Conversation, isBusy, openChat } from "./everthread";
import { MessageView } from "./MessageView";
import { ShareButton } from "./ShareButton";
import type { Threads } from "./threads";

/** A thread: loaded, and loaded again when another device or window has changed it. */
export function ConversationOf({ threadId, threads }: { threadId: string; threads: Threads }) {
  const [chat, setChat] = useState<Conversation>();
  const [error, setError] = useState<string>();
  const loaded = useRef<string>(undefined);
  const newest = threads.running.get(threadId) ?? threads.byId.get(threadId)?.head_id ?? undefined;

  useEffect(() => {
    let isLeft = false;
    openChat(threadId).then(
      (chat) => isLeft || setChat(chat),
      (error: Error) => isLeft || setError(error.message),
    );
    return () => void (isLeft = true);
  }, [threadId]);

  useEffect(() => {
    const isShown = chat?.messages.some((message) => message.metadata?.turnId === newest);
    if (!chat || !newest || isShown || isBusy(chat) || loaded.current === newest) return;
    loaded.current = newest; // At most once for each turn.
    openChat(threadId).then(setChat, (error: Error) => setError(error.message));
  }, [threadId, chat, newest]);

  if (error) return <p role="alert">{error}</p>;
  if (!chat) return <p role="status" className="messages">Loading …</p>;
  return <ChatView key={`${threadId} ${loaded.current}`} chat={chat} title={threads.byId.get(threadId)?.title ?? "Chat"} />;
}

function ChatView({ chat, title }: { chat: Conversation; title: string }) {
  // `resume` continues an answer that was streaming when the page was loaded.
  const { messages, status, error, sendMessage, regenerate, stop, setMessages } = useChat({ chat, resume: !isBusy(chat), throttle: 30 });
  const [problem, setProblem] = useState<string>();
  const busy = status === "submitted" || status === "streaming";
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => {
    end.current?.scrollIntoView({ block: "end" });
  }, [messages]);

  async function tryTo(action: () => Promise<unknown>) {
    setProblem(undefined);
    await action().catch((error: Error) => setProblem(error.message));
  }

  return (
    <>
      <header>
        <h1>{title}</h1>
        <ShareButton threadId={chat.id} />
        <button
          onClick={() =>
            confirm("Delete this conversation?") &&
            void tryTo(async () => {
              await client.threads.delete(chat.id);
              location.hash = "";
            })
          }
        >
          Delete
        </button>
      </header>
      <div className="messages" role="log" aria-label="Messages" aria-busy={busy}>
        {messages.map((message, index) => (
          <MessageView
            key={message.id}
            message={message}
            isRunning={busy && index === messages.length - 1}
            onEdit={busy ? undefined : (text) => void sendMessage({ text, messageId: message.id })}
            onRegenerate={busy ? undefined : () => void regenerate({ messageId: message.id })}
            onBranch={(turnId) => void tryTo(async () => setMessages(await selectBranch(client, chat.id, turnId)))}
          />
        ))}
        {status === "submitted" && <p role="status">Thinking …</p>}
        {(error || problem) && <p role="alert">{error?.message ?? problem}</p>}
        <div ref={end} />
      </div>
      <Composer onSend={(text) => void sendMessage({ text })} onStop={busy ? () => void stop() : undefined} />
    </>
  );
}
