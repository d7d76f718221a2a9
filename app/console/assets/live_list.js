// A list of threads that is reloaded when the API reports a change: its first page, unless more was loaded.
import { fetchHtml } from "./api.js";
import { live, renew } from "./live.js";

const SETTLE_MILLISECONDS = 300;
const LEAST_MILLISECONDS = 2000;

const CHANGES = ["snapshot", "thread.created", "thread.updated", "thread.deleted", "thread.turn.created", "thread.turn.finished"];

export function liveList(list, tell) {
  let timer = 0;
  let renewed = 0;

  async function fetchFirst() {
    timer = 0;
    const search = document.querySelector("#q");
    if (search?.value || list.querySelectorAll("ul.threads").length > 1 || list.querySelector(".htmx-request, .skeleton")) return;
    if (list.contains(document.activeElement)) return; // Rows do not move while one of them has the focus.
    renewed = Date.now();
    const html = await fetchHtml(list.dataset.live, true);
    if (html === null) return;
    if (list.contains(document.activeElement) || search?.value) return changed();
    renew(list, html);
    list.dispatchEvent(new CustomEvent("htmx:afterSettle", { bubbles: true }));
  }

  function changed() {
    timer ||= setTimeout(fetchFirst, Math.max(SETTLE_MILLISECONDS, renewed + LEAST_MILLISECONDS - Date.now()));
  }

  list.addEventListener("focusout", changed);
  return live("/events", Object.fromEntries(CHANGES.map((kind) => [kind, changed])), tell);
}
