// Turns of the page: each is fetched as rendered by the server, and appended or put in the place of its former state.
import { fetchHtml } from "./api.js";

const NEAR_PIXELS = 160;

export function nearEnd() {
  const page = document.documentElement;
  return page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_PIXELS;
}

export function toEnd() {
  const page = document.documentElement;
  page.scrollTop = page.scrollHeight;
}

const fetching = new Map();

// Shows the present state of a turn. Concurrent requests for the same turn are merged.
export function showTurn(thread, turn) {
  if (!fetching.has(turn)) fetching.set(turn, show(thread, turn).finally(() => fetching.delete(turn)));
  return fetching.get(turn);
}

async function show(thread, turn) {
  const html = await fetchHtml(`/console/threads/${thread}/turns/${turn}`);
  if (html === null) return null;
  const template = document.createElement("template");
  template.innerHTML = html;
  const article = template.content.querySelector("article");
  const turns = document.querySelector("#turns");
  const instead = document.getElementById(turn);
  const branches = instead?.querySelector(".branches");
  if (branches) article.querySelector("footer").append(branches);
  if (instead) {
    // A running turn keeps its streamed output.
    const said = article.dataset.running && instead.querySelector(".stream");
    if (said) article.querySelector(".stream").replaceWith(said);
    const focused = instead.contains(document.activeElement);
    instead.replaceWith(article);
    if (focused) {
      article.tabIndex = -1;
      article.focus({ preventScroll: true });
    }
  } else {
    turns.querySelector(".nothing")?.remove();
    turns.append(article);
  }
  window.htmx?.process(article);
  return article;
}
