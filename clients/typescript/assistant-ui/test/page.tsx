/** A page with the user's threads, driven by tests/clients/test_adapters.py. */

import { AssistantRuntimeProvider, type AssistantRuntime, useAssistantTool } from "@assistant-ui/react";
import { Everthread } from "@everthread/client";
import { useEverthreadRuntime } from "@everthread/assistant-ui";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

interface Config {
  baseURL: string;
  token: string;
  body: Record<string, unknown>;
}

const page = window as unknown as { config: Config; chat: object; runtime: AssistantRuntime; toolRuns: number };
const client = new Everthread({ baseURL: page.config.baseURL, token: page.config.token });
page.toolRuns = 0;

function Weather() {
  useAssistantTool({
    toolName: "get_weather",
    description: "The weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    execute: async () => {
      page.toolRuns += 1;
      return { sky: "clear" };
    },
  });
  return null;
}

function App() {
  const [threadId, setThreadId] = useState<string | undefined>(location.hash.slice(1) || undefined);
  const runtime = useEverthreadRuntime({
    client,
    body: page.config.body,
    threadId,
    onThreadIdChange: (id) => {
      location.hash = id ?? "";
      setThreadId(id);
    },
  });
  page.runtime = runtime;
  page.chat = {
    get messages() {
      return runtime.thread.getState().messages.map((message) => ({
        id: message.id,
        role: message.role,
        parts: message.content,
        metadata: message.metadata.custom,
        error: (message.status as { error?: { message: string } } | undefined)?.error?.message,
      }));
    },
    get status() {
      const { isRunning, isLoading } = runtime.thread.getState();
      return isRunning || isLoading ? "streaming" : "ready";
    },
    send: (message: Parameters<typeof runtime.thread.append>[0]) => runtime.thread.append(message),
    edit: (parentId: string | null, text: string) =>
      runtime.thread.append({ parentId, role: "user", content: [{ type: "text", text }] }),
    reload: (id: string) => runtime.thread.getMessageById(id).reload(),
    stop: () => runtime.thread.cancelRun(),
  };
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <Weather />
    </AssistantRuntimeProvider>
  );
}

createRoot(document.body).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
