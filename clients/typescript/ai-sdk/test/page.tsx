/** A page with one chat, driven by tests/clients/test_adapters.py. */

import { useChat } from "@ai-sdk/react";
import { Everthread } from "@everthread/client";
import { EverthreadTransport, type EverthreadUIMessage, loadHistory, selectBranch, toItems, toUIMessages } from "@everthread/ai-sdk";
import { lastAssistantMessageIsCompleteWithToolCalls } from "ai";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

interface Config {
  baseURL: string;
  token: string;
  chat: string;
  body: Record<string, unknown>;
}

const page = window as unknown as { config: Config; chat: unknown; select: unknown; convert: unknown; toolRuns: number };
const { config } = page;
const client = new Everthread({ baseURL: config.baseURL, token: config.token });
const transport = new EverthreadTransport({ client, body: config.body });
page.toolRuns = 0;

function Chat({ stored }: { stored: EverthreadUIMessage[] }) {
  const chat = useChat<EverthreadUIMessage>({
    id: config.chat,
    messages: stored,
    transport,
    resume: true,
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onToolCall({ toolCall }) {
      page.toolRuns += 1;
      void chat.addToolOutput({ tool: toolCall.toolName, toolCallId: toolCall.toolCallId, output: { sky: "clear" } });
    },
  });
  const { messages, status, error } = chat;
  page.chat = { ...chat, messages, status, error: error?.message ?? null };
  page.select = async (turnId: string) => chat.setMessages(await selectBranch(client, config.chat, turnId));
  return (
    <ol id={status}>
      {messages.map((message) => (
        <li key={message.id}>{message.parts.map((part) => (part.type === "text" ? part.text : "")).join("")}</li>
      ))}
    </ol>
  );
}

page.convert = (items: Parameters<typeof toUIMessages>[0]) => {
  const messages = toUIMessages(items);
  return { messages, items: toItems(messages) };
};
const stored = config.chat.startsWith("thread_") ? (await loadHistory(client, config.chat)).messages : [];
createRoot(document.body).render(
  <StrictMode>
    <Chat stored={stored} />
  </StrictMode>,
);
