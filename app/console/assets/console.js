// Start of the pages' scripts. Everything else is htmx and plain links.
import "./actions.js";
import "./composer.js";
import "./keyboard.js";
import { liveList } from "./live_list.js";
import { liveThread } from "./live_thread.js";
import { play } from "./replay.js";
import { nearEnd, showTurn, toEnd } from "./turns.js";
import { verify } from "./verify.js";

for (const list of document.querySelectorAll("[data-live]")) if (list.checkVisibility()) liveList(list);

// A conversation opens at its end. Earlier turns that load above do not move the visible ones.
const turns = document.querySelector("#turns");
if (turns) {
  document.querySelector("#end")?.scrollIntoView({ block: "end" });
  let height = 0;
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.matches("[data-upwards]")) height = document.documentElement.scrollHeight;
  });
  document.body.addEventListener("htmx:afterSettle", () => {
    if (height) window.scrollBy(0, document.documentElement.scrollHeight - height);
    height = 0;
  });
  liveThread(turns);
}

document.addEventListener("turn-ended", async (event) => {
  const follows = nearEnd();
  await showTurn(turns.dataset.thread, event.target.id);
  if (follows) toEnd();
});

document.addEventListener("submit", async (event) => {
  if (!event.target.dataset.verify) return;
  event.preventDefault();
  await verify(event.target);
});

const player = document.querySelector("[data-replay]");
if (player) play(player);
