/** A page with one chat, driven by tests/clients/test_adapters.py. */

import { useChat } from "@ai-sdk/react";
import { Everthread } from "@everthread/client";
import { EverthreadTransport, type EverthreadUIMessage, loadHistory, selectBranch } from "@everthread/ai-sdk";
import { lastAssistantMessageIsCompleteWithApprovalResponses, lastAssistantMessageIsCompleteWithToolCalls } from "ai";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

interface Config {
  baseURL: string;
  token: string;
  chat: string;
  body: Record<string, unknown>;
  onStop?: "stop" | "leave";
}

const page = window as unknown as { config: Config; chat: unknown; select: unknown; toolRuns: number; resuming: number };
const { config } = page;
const client = new Everthread({ baseURL: config.baseURL, token: config.token });
const transport = new EverthreadTransport({ client, body: config.body, ...(config.onStop ? { onStop: config.onStop } : {}) });
page.toolRuns = 0;
page.resuming = -1;
const reconnect = transport.reconnectToStream.bind(transport);
transport.reconnectToStream = async (options) => {
  page.resuming = Math.max(page.resuming, 0) + 1;
  return reconnect(options).finally(() => (page.resuming -= 1));
};

function Chat({ stored }: { stored: EverthreadUIMessage[] }) {
  const chat = useChat<EverthreadUIMessage>({
    id: config.chat,
    messages: stored,
    transport,
    resume: true,
    sendAutomaticallyWhen: (now) =>
      lastAssistantMessageIsCompleteWithToolCalls(now) || lastAssistantMessageIsCompleteWithApprovalResponses(now),
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

const stored = config.chat.startsWith("thread_") ? (await loadHistory(client, config.chat)).messages : [];
createRoot(document.body).render(
  <StrictMode>
    <Chat stored={stored} />
  </StrictMode>,
);
