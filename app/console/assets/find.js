// The page of all threads: what is polled follows the search box and the filters, and the popover of filters closes.
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

// What comes in place of a button that had the focus takes it.
let before = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  const more = event.target;
  before = more.matches(".more") && more.contains(document.activeElement) ? more.previousElementSibling : null;
});
document.addEventListener("htmx:afterSettle", () => {
  before?.nextElementSibling?.querySelector("a")?.focus();
  before = null;
});
