import { type FormEvent, type KeyboardEvent, useEffect, useRef, useState } from "react";

interface Props {
  /** Rejects if the text is to be written again. */
  onSend: (text: string) => Promise<void>;
  /** Stops the answer that is running, if there is one. */
  onStop?: (() => void) | undefined;
}

export function Composer({ onSend, onStop }: Props) {
  const [text, setText] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    field.current?.focus();
  }, []);

  function submit(event: FormEvent) {
    event.preventDefault();
    if (onStop || !text.trim()) return;
    setText("");
    onSend(text.trim()).catch(() => setText(text));
  }

  function onKeyDown(event: KeyboardEvent<HTMLTextAreaElement>) {
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) submit(event);
  }

  return (
    <form className="composer" onSubmit={submit}>
      <textarea ref={field} rows={1} aria-label="Message" placeholder="Message" value={text} onKeyDown={onKeyDown}
        onChange={(event) => setText(event.target.value)} />
      {onStop ? <button type="button" onClick={onStop}>Stop</button> : <button className="primary" disabled={!text.trim()}>Send</button>}
    </form>
  );
}
