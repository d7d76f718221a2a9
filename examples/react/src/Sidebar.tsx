import type { Threads } from "./threads";

export function Sidebar({ threads, shown, isOpen, onClose }: { threads: Threads; shown: string; isOpen: boolean; onClose: () => void }) {
  const { byId, running } = threads;
  const newest = [...byId.values()].filter((thread) => !thread.archived).sort((a, b) => b.updated_at - a.updated_at);
  return (
    <>
      <nav aria-label="Conversations" className={isOpen ? "open" : ""}>
        <a className="button" href="#" onClick={onClose}>
          New chat
        </a>
        <ul>
          {newest.map(({ id, title, last_message }) => (
            <li key={id}>
              <a href={`#${id}`} aria-current={id === shown ? "page" : undefined}>
                <span>{title ?? last_message?.text ?? "New chat"}</span>
                {running.has(id) && <i role="img" aria-label="running" />}
              </a>
            </li>
          ))}
        </ul>
      </nav>
      {isOpen && <button className="backdrop" aria-label="Close" onClick={onClose} />}
    </>
  );
}
