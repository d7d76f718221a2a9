import { useEffect, useState, useSyncExternalStore } from "react";
import { begin } from "./everthread";
import { Composer } from "./Composer";
import { ConversationOf } from "./Conversation";
import { Shared } from "./Shared";
import { Sidebar } from "./Sidebar";
import { useThreads } from "./threads";

function subscribe(changed: () => void): () => void {
  addEventListener("hashchange", changed);
  return () => removeEventListener("hashchange", changed);
}

export function App() {
  const place = useSyncExternalStore(subscribe, () => location.hash.slice(1));
  const threads = useThreads();
  const [isMenuOpen, setMenuOpen] = useState(false);
  useEffect(() => setMenuOpen(false), [place]);

  if (place.startsWith("shared/")) return <Shared token={place.slice("shared/".length)} />;
  return (
    <div className="app">
      <Sidebar threads={threads} shown={place} isOpen={isMenuOpen} onClose={() => setMenuOpen(false)} />
      <main>
        <button className="menu" aria-expanded={isMenuOpen} onClick={() => setMenuOpen(true)}>
          Conversations
        </button>
        {threads.error && <p role="alert">The list is not up to date: {threads.error.message}</p>}
        {place ? <ConversationOf key={place} threadId={place} threads={threads} /> : <Welcome />}
      </main>
    </div>
  );
}

function Welcome() {
  const [error, setError] = useState<string>();
  async function send(text: string) {
    try {
      location.hash = await begin(text);
    } catch (error) {
      setError((error as Error).message);
      throw error;
    }
  }
  return (
    <>
      <div className="messages welcome">
        <h1>What would you like to know?</h1>
        {error && <p role="alert">{error}</p>}
      </div>
      <Composer onSend={send} />
    </>
  );
}
