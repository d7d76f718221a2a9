import { toUIMessages } from "@everthread/ai-sdk";
import { useEffect, useState } from "react";
import { client, type Message } from "./everthread";
import { MessageView } from "./MessageView";

/** A conversation that somebody has shared. */
export function Shared({ token }: { token: string }) {
  const [shared, setShared] = useState<{ title: string | null; messages: Message[] }>();
  const [error, setError] = useState<string>();
  useEffect(() => {
    client.shared(token).then(
      ({ title, messages }) => setShared({ title, messages: toUIMessages(messages as Parameters<typeof toUIMessages>[0]) }),
      (error: Error) => setError(error.message),
    );
  }, [token]);
  return (
    <main className="shared">
      <header>
        <h1>{shared?.title ?? "Shared conversation"}</h1>
        <a className="button" href="#">New chat</a>
      </header>
      <div className="messages">
        {error && <p role="alert">{error}</p>}
        {shared?.messages.map((message) => <MessageView key={message.id} message={message} />)}
      </div>
    </main>
  );
}
