import { useChat } from "@ai-sdk/react";
import { selectBranch } from "@everthread/ai-sdk";
import { useEffect, useRef, useState } from "react";
import { Composer } from "./Composer";
import { client, type Conversation, isBusy, openChat } from "./everthread";
import { MessageView } from "./MessageView";
import { ShareButton } from "./ShareButton";
import type { Threads } from "./threads";

const keys = new WeakMap<Conversation, number>();
let lastKey = 0;

/** Return a key for React, so that a chat that was loaded again is a new view. */
function keyOf(chat: Conversation): number {
  if (!keys.has(chat)) keys.set(chat, ++lastKey);
  return keys.get(chat)!;
}

/** A thread: loaded, and loaded again when another device or window has changed it. */
export function ConversationOf({ threadId, threads }: { threadId: string; threads: Threads }) {
  const [chat, setChat] = useState<Conversation>();
  const [error, setError] = useState<string>();
  const loaded = useRef<string>(undefined);
  const running = threads.running.get(threadId);
  const newest = running ?? threads.byId.get(threadId)?.head_id ?? undefined;

  useEffect(() => {
    let isLeft = false;
    openChat(threadId).then(
      (chat) => isLeft || setChat(chat),
      (error: Error) => isLeft || setError(error.message),
    );
    return () => void (isLeft = true);
  }, [threadId]);

  /** Load the thread at most twice for each turn: when it has begun elsewhere, and if it ended before it could be followed. */
  function reload(turn: string) {
    if (loaded.current === turn) return;
    loaded.current = turn;
    openChat(threadId).then(
      (chat) => loaded.current === turn && setChat(chat),
      (error: Error) => setError(error.message),
    );
  }

  if (error) return <p role="alert">{error}</p>;
  if (!chat) return <p role="status" className="messages">Loading …</p>;
  return (
    <ChatView
      key={keyOf(chat)}
      chat={chat}
      title={threads.byId.get(threadId)?.title ?? "Chat"}
      newest={newest}
      isRunning={running !== undefined}
      onOutdated={reload}
    />
  );
}

interface ChatViewProps {
  chat: Conversation;
  title: string;
  /** The turn that runs, or else the last one. */
  newest: string | undefined;
  isRunning: boolean;
  /** Called if the newest turn is not shown, or not to its end. */
  onOutdated: (turn: string) => void;
}

function ChatView({ chat, title, newest, isRunning, onOutdated }: ChatViewProps) {
  // Continues an answer that was streaming when the page was loaded. Decided once: `useChat` resumes whenever this becomes true.
  const [resume] = useState(() => !isBusy(chat));
  const { messages, status, error, sendMessage, regenerate, stop, setMessages } = useChat({ chat, resume, throttle: 30 });
  const [problem, setProblem] = useState<string>();
  const busy = status === "submitted" || status === "streaming";
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => {
    end.current?.scrollIntoView({ block: "end" });
  }, [messages]);

  useEffect(() => {
    const isShown = chat.messages.some(
      ({ role, metadata }) =>
        metadata?.turnId === newest && (isRunning || (role === "assistant" && metadata?.status !== "in_progress")),
    );
    if (newest && !busy && !isShown) onOutdated(`${newest} ${isRunning ? "runs" : "has ended"}`);
  }, [chat, busy, newest, isRunning]);

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
      <Composer onSend={(text) => sendMessage({ text })} onStop={busy ? () => void stop() : undefined} />
    </>
  );
}
