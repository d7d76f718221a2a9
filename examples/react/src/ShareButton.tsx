import { useRef, useState } from "react";
import { client } from "./everthread";

const WEEK = 7 * 24 * 3600;

/** Creates a link with which anyone can read the conversation up to now, for a week. */
export function ShareButton({ threadId }: { threadId: string }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [link, setLink] = useState<{ id: string; url: string }>();
  const [error, setError] = useState<string>();

  async function share() {
    setError(undefined);
    dialog.current?.showModal();
    try {
      const { id, path } = await client.threads.shares.create(threadId, { expires_in: WEEK });
      setLink({ id, url: `${location.origin}/#shared/${path.split("/").at(-1)}` });
    } catch (error) {
      setError((error as Error).message);
    }
  }

  async function revoke() {
    try {
      if (link) await client.threads.shares.delete(link.id);
      setLink(undefined);
      dialog.current?.close();
    } catch (error) {
      setError((error as Error).message);
    }
  }

  return (
    <>
      <button onClick={() => void share()}>Share</button>
      <dialog ref={dialog} aria-labelledby="share-title">
        <h2 id="share-title">Share this conversation</h2>
        <p>Anyone with the link can read it up to the last answer, for a week. Later messages are not shown.</p>
        {error ? <p role="alert">{error}</p> : <input readOnly aria-label="Link" value={link?.url ?? "…"} onFocus={(event) => event.target.select()} />}
        <footer>
          <button disabled={!link} onClick={() => void revoke()}>End the link</button>
          <button disabled={!link} onClick={() => link && void navigator.clipboard.writeText(link.url)}>Copy</button>
          <button className="primary" onClick={() => dialog.current?.close()}>Done</button>
        </footer>
      </dialog>
    </>
  );
}
