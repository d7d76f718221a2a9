import { newestFirst, type useThreads } from "./threads";

interface Props {
  threads: ReturnType<typeof useThreads>;
  /** The id of the thread that is shown. */
  shown: string;
  isOpen: boolean;
  onClose: () => void;
}

export function Sidebar({ threads, shown, isOpen, onClose }: Props) {
  return (
    <>
      <nav aria-label="Conversations" className={isOpen ? "open" : ""}>
        <a className="button" href="#" onClick={onClose}>
          New chat
        </a>
        <ul>
          {newestFirst(threads).map(({ id, title, last_message }) => (
            <li key={id}>
              <a href={`#${id}`} aria-current={id === shown ? "page" : undefined}>
                <span>{title ?? last_message?.text ?? "New chat"}</span>
                {threads.running.has(id) && <i role="img" aria-label="running" />}
              </a>
            </li>
          ))}
        </ul>
        {threads.hasOlder && <button onClick={() => void threads.loadOlder()}>Older conversations</button>}
      </nav>
      {isOpen && <button className="backdrop" aria-label="Close" onClick={onClose} />}
    </>
  );
}
