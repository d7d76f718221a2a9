// A live conversation: turns from any client appear and stream in.
import { request } from "./api.js";
import { announcer, hear } from "./heard.js";
import { indicator, live } from "./live.js";
import { nearEnd, showTurn, toEnd } from "./turns.js";

const MOST_MISSED = 20;

export function liveThread(turns) {
  const thread = turns.dataset.thread;
  const below = document.querySelector("#below");
  const announcers = new Map(); // By turn.
  let unread = 0;

  function read() {
    unread = 0;
    if (below) below.hidden = true;
  }

  // Return the turns between the last one shown and a new one, as a stream that broke off may have missed some; null if the
  // new one is of another branch.
  async function between(end, turn) {
    if (end === null || turn.parent_id === end) return [];
    const found = await request("GET", `/threads/${thread}/turns?limit=${MOST_MISSED}`).catch(() => null);
    const parents = new Map(found?.data.map((each) => [each.id, each.parent_id]));
    const missed = [];
    for (let at = turn.parent_id; at !== end; at = parents.get(at)) {
      if (!parents.has(at)) return null;
      missed.unshift(at);
    }
    return missed;
  }

  async function created({ turn }) {
    const there = document.getElementById(turn.id);
    if (there) {
      there.querySelector(".stream")?.replaceChildren(); // The stream repeats the whole output.
      return;
    }
    const shown = turns.querySelectorAll("article");
    const end = shown[shown.length - 1]?.id ?? null;
    const missed = turns.dataset.until === undefined ? await between(end, turn) : null;
    if (missed === null) {
      document.querySelector("#elsewhere").hidden = false;
      return;
    }
    const follows = nearEnd();
    const before = turns.lastElementChild;
    for (const each of missed) await showTurn(thread, each);
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
    const article = document.getElementById(turn_id);
    if (!article?.dataset.running) return;
    (announcers.get(turn_id) ?? announcer()).end();
    announcers.delete(turn_id);
    article.dispatchEvent(new CustomEvent("turn-ended", { bubbles: true }));
  }

  // The title and its actions are loaded again, but not under what somebody fills in or is about to choose.
  function changed() {
    const used = document.querySelector("#about dialog[open], #about details[open]");
    if (used) used.addEventListener(used.matches("dialog") ? "close" : "toggle", changed, { once: true });
    else window.htmx?.trigger(document.body, "changed");
  }
  document.body.addEventListener("htmx:beforeSwap", ({ detail }) => {
    if (detail.target.id !== "about" || !detail.target.querySelector("dialog[open], details[open]")) return;
    detail.shouldSwap = false; // A menu was opened while the title was on its way.
    changed();
  });

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
    "thread.updated": changed,
    "thread.deleted": () => {
      stream.stop();
      const gone = document.querySelector("#gone");
      gone.hidden = false;
      hear(gone.textContent.trim());
    },
  }, indicator(document.querySelector("#live")));
}
