// A live conversation: turns from any client appear and stream in.
import { announcer, hear } from "./heard.js";
import { indicator, live } from "./live.js";
import { nearEnd, showTurn, toEnd } from "./turns.js";

export function liveThread(turns) {
  const thread = turns.dataset.thread;
  const below = document.querySelector("#below");
  const announcers = new Map(); // By turn.
  let unread = 0;

  function read() {
    unread = 0;
    if (below) below.hidden = true;
  }

  async function created({ turn }) {
    const there = document.getElementById(turn.id);
    if (there) {
      there.querySelector(".stream")?.replaceChildren(); // The stream repeats the whole output.
      return;
    }
    const shown = turns.querySelectorAll("article");
    const end = shown[shown.length - 1]?.id ?? null;
    if (turns.dataset.until !== undefined || (turn.parent_id !== end && shown.length > 0)) {
      document.querySelector("#elsewhere").hidden = false;
      return;
    }
    const follows = nearEnd();
    const before = turns.lastElementChild;
    if (!(await showTurn(thread, turn.id)) || turns.lastElementChild === before) return;
    hear(turns.dataset.newTurn);
    if (follows) return toEnd();
    unread += 1;
    below.querySelector("span").textContent = unread === 1 ? turns.dataset.newBelow : turns.dataset.moreBelow.replace("{n}", unread);
    below.hidden = false;
  }

  function delta({ turn_id, delta: text }) {
    const place = document.getElementById(turn_id)?.querySelector(".stream");
    if (!place) return;
    const follows = nearEnd();
    place.append(text);
    if (!announcers.has(turn_id)) announcers.set(turn_id, announcer());
    announcers.get(turn_id).add(text);
    if (follows) toEnd();
  }

  function ended({ turn_id }) {
    announcers.get(turn_id)?.end();
    announcers.delete(turn_id);
    const article = document.getElementById(turn_id);
    if (article?.dataset.running) article.dispatchEvent(new CustomEvent("turn-ended", { bubbles: true }));
  }

  below?.addEventListener("click", () => {
    toEnd();
    read();
  });
  document.addEventListener("scroll", () => unread && nearEnd() && read(), { passive: true });

  const stream = live(`/threads/${thread}/events`, {
    "snapshot": ({ running }) => {
      const now = new Set(running.map((each) => each.turn_id));
      // The turn ended while the stream was closed.
      for (const article of turns.querySelectorAll("[data-running]")) if (!now.has(article.id)) ended({ turn_id: article.id });
    },
    "thread.turn.created": created,
    "response.output_text.delta": delta,
    "response.completed": ended,
    "response.incomplete": ended,
    "response.failed": ended,
    "error": ended,
    "thread.turn.deleted": ({ turn_id }) => document.getElementById(turn_id)?.remove(),
    "thread.updated": () => window.htmx?.trigger(document.body, "changed"),
    "thread.deleted": () => {
      stream.stop();
      const gone = document.querySelector("#gone");
      gone.hidden = false;
      hear(gone.textContent.trim());
    },
  }, indicator(document.querySelector("#live")));
}
