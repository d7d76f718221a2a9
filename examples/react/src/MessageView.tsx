import { useState } from "react";
import Markdown from "react-markdown";
import remarkGfm from "remark-gfm";
import type { Message } from "./everthread";

interface Props {
  message: Message;
  isRunning?: boolean;
  onEdit?: ((text: string) => void) | undefined;
  onRegenerate?: (() => void) | undefined;
  onBranch?: ((turnId: string) => void) | undefined;
}

export function MessageView(props: Props) {
  return props.message.role === "user" ? <Question {...props} /> : <Answer {...props} />;
}

function textOf(message: Message): string {
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

function Question({ message, onEdit }: Props) {
  const [draft, setDraft] = useState<string>();
  if (draft !== undefined) {
    return (
      <form
        className="edit"
        onSubmit={(event) => {
          event.preventDefault();
          setDraft(undefined);
          if (draft.trim()) onEdit?.(draft.trim());
        }}
      >
        <textarea aria-label="Edited message" autoFocus value={draft} onChange={(event) => setDraft(event.target.value)} />
        <button type="button" onClick={() => setDraft(undefined)}>Cancel</button>
        <button className="primary">Send again</button>
      </form>
    );
  }
  return (
    <article className="user" aria-label="You">
      <div className="bubble">
        {message.parts.map((part, index) =>
          part.type === "file" && part.mediaType.startsWith("image/") ? <img key={index} src={part.url} alt={part.filename ?? "Image"} /> : null,
        )}
        {textOf(message)}
      </div>
      {onEdit && <footer><button onClick={() => setDraft(textOf(message))}>Edit</button></footer>}
    </article>
  );
}

/** Markdown without images. A link that an answer contains does not replace the chat, and does not learn its address. */
function Text({ text }: { text: string }) {
  return (
    <Markdown
      remarkPlugins={[remarkGfm]}
      disallowedElements={["img"]}
      components={{ a: ({ href, children }) => <a href={href} target="_blank" rel="noreferrer">{children}</a> }}
    >
      {text}
    </Markdown>
  );
}

function Answer({ message, isRunning, onRegenerate, onBranch }: Props) {
  const { branches = [], turnId, status } = message.metadata ?? {};
  // A message of several turns is listed by its first one, which is its id.
  const place = Math.max(branches.indexOf(message.id), branches.indexOf(turnId ?? ""));
  const step = (by: number) => branches[place + by];
  return (
    <article className="assistant" aria-label="Assistant">
      {message.parts.map((part, index) => {
        if (part.type === "text") return <Text key={index} text={part.text} />;
        if (part.type === "reasoning" && part.text) return <details key={index}><summary>Reasoning</summary>{part.text}</details>;
        if (part.type === "dynamic-tool") return <p key={index} className="note">{part.toolName}: {part.state === "output-available" ? "done" : "called"}</p>;
        return null;
      })}
      {isRunning && <span className="cursor" aria-hidden="true" />}
      {status === "cancelled" && <p className="note">Stopped.</p>}
      {!isRunning && (
        <footer>
          {branches.length > 1 && (
            <span role="group" aria-label="Versions of this answer">
              <button aria-label="Previous version" disabled={!step(-1)} onClick={() => onBranch?.(step(-1)!)}>‹</button>
              {place + 1} / {branches.length}
              <button aria-label="Next version" disabled={!step(1)} onClick={() => onBranch?.(step(1)!)}>›</button>
            </span>
          )}
          <button onClick={() => void navigator.clipboard.writeText(textOf(message))}>Copy</button>
          {onRegenerate && <button onClick={onRegenerate}>Try again</button>}
        </footer>
      )}
    </article>
  );
}
