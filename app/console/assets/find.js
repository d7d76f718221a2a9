// The page of all threads: its live list follows the search and the filters, and applying filters closes their popover.
const list = document.querySelector("#list");
const popover = document.querySelector(".more-filters");

list.addEventListener("htmx:afterSwap", (event) => {
  if (event.target !== list) return;
  const asked = new URL(event.detail.pathInfo.finalRequestPath, location.href);
  list.dataset.live = asked.pathname + asked.search;
});

document.addEventListener("click", (event) => {
  if (!popover.contains(event.target)) popover.open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !popover.open) return;
  popover.open = false;
  popover.querySelector("summary").focus();
});

// Content that replaces a focused button or link takes over the focus.
let before = null;
let held = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  const more = event.target;
  held = more === list && list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  before = more.matches(".more") && more.contains(document.activeElement) ? more.previousElementSibling : null;
});
document.addEventListener("htmx:afterSettle", () => {
  before?.nextElementSibling?.querySelector("a")?.focus();
  before = null;
  if (held) list.querySelector(`a[href="${CSS.escape(held)}"]`)?.focus();
  held = null;
});
