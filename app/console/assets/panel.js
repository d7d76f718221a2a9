// The panel of a turn beside its conversation: opened by its links, named in the address, closed by Escape.
import { report } from "./api.js";
import { hear } from "./heard.js";
import { prepare, prove } from "./turn_proof.js";

const side = document.querySelector("#side");
const phone = window.matchMedia("(max-width: 44.99rem)");
let opener = null;

const panel = () => side?.querySelector("#panel");
const named = () => new URLSearchParams(location.search).get("turn");

function addressed(turn) {
  const url = new URL(location.href);
  if (turn) url.searchParams.set("turn", turn);
  else url.searchParams.delete("turn");
  return url;
}

function select(turn) {
  for (const article of document.querySelectorAll("article.turn")) article.classList.toggle("selected", article.id === turn);
}

// Opens the panel of a turn. focus: it takes the focus, as somebody has opened it.
async function open(turn, { push = true, tab = "", focus = true } = {}) {
  const thread = location.pathname.split("/")[3];
  if (push) history.pushState({}, "", addressed(turn));
  select(turn);
  side.setAttribute("aria-busy", "true");
  const place = `/console/threads/${thread}/turns/${turn}/panel`;
  // Without an answer, api.js shows the error.
  await window.htmx.ajax("GET", tab ? `${place}?tab=${tab}` : place, { target: "#side", swap: "innerHTML" }).catch(() => null);
  side.removeAttribute("aria-busy");
  if (!panel() || !focus) return;
  panel().querySelector("#panel-title").focus({ preventScroll: true });
  hear(panel().dataset.opened);
}

function close({ push = true } = {}) {
  if (!panel()) return;
  const { turn, closed } = panel().dataset;
  side.replaceChildren();
  select(null);
  if (push) history.pushState({}, "", addressed(null));
  const back = opener?.isConnected ? opener : document.querySelector(`[data-details="${CSS.escape(turn)}"]`);
  (back ?? document.querySelector("#content")).focus();
  hear(closed);
}

// A conversation's page has room for the panel; a turn's own page is the panel.
const beside = Boolean(document.querySelector("#turns"));

document.addEventListener("click", async (event) => {
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
  const link = event.target.closest("a");
  if (!link || !plain) return;
  if (link.dataset.details !== undefined && beside && !phone.matches) {
    event.preventDefault();
    opener = link;
    await open(link.dataset.details);
  } else if (link.dataset.closePanel !== undefined) {
    event.preventDefault();
    close();
  } else if (link.dataset.copyFrom && navigator.clipboard) {
    event.preventDefault();
    await copy(link);
  }
});

// Copied texts may be megabytes, so they are fetched on demand.
async function copy(link) {
  const answer = await fetch(link.dataset.copyFrom).catch(report);
  if (!answer) return;
  if (!answer.ok) return location.assign(link.href);
  await navigator.clipboard.writeText(await answer.text());
  const label = link.querySelector("span") ?? link;
  link.dataset.label ??= label.textContent;
  label.textContent = link.dataset.copied;
  hear(link.dataset.copied);
  setTimeout(() => {
    label.textContent = link.dataset.label;
  }, 2000);
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || !beside || !panel()) return;
  if (document.querySelector("dialog[open], details.menu[open]") || event.target.matches("textarea, input, select")) return;
  close();
});

window.addEventListener("popstate", () => {
  if (!beside || (named() ?? undefined) === panel()?.dataset.turn) return; // A link within the page is such a step, too.
  if (named()) open(named(), { push: false });
  else close({ push: false });
});

// The chosen tab keeps the focus when the panel is replaced, unless the focus has moved on.
let tab = false;
document.body.addEventListener("htmx:beforeRequest", (event) => {
  tab = Boolean(event.target.closest?.("#panel .tabs, #panel .choices"));
});
document.body.addEventListener("htmx:afterSettle", (event) => {
  if (event.detail?.target !== side) return;
  if (tab && document.activeElement === document.body) panel()?.querySelector(".choices [aria-current], .tabs [aria-current]")?.focus({ preventScroll: true });
  tab = false;
  ready();
});

function ready() {
  const form = document.querySelector("form[data-prove]");
  if (form) prepare(form);
}

document.addEventListener("submit", async (event) => {
  if (!event.target.dataset.prove) return;
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  await prove(event.target).catch(report);
  button.disabled = false;
});

// The panel of a turn that has ended is reloaded.
document.addEventListener("turn-ended", (event) => {
  if (panel()?.dataset.turn !== event.target.id) return;
  const held = side.contains(document.activeElement);
  open(event.target.id, { push: false, tab: panel().dataset.tab, focus: held });
});

if (beside && panel()) select(panel().dataset.turn);
ready();
