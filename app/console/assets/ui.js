// Behaviour of the components: relative times, copying, tooltips and menus.

import { element, t } from "./words.js";

// Relative times.
const language = document.documentElement.lang;
const relative = new Intl.RelativeTimeFormat(language, { style: "narrow" });
const present = t("just now");
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];

function ago(date) {
  const passed = (Date.now() - date) / 1000;
  if (Math.abs(passed) >= 7 * 86400) return null;
  const [unit, seconds] = UNITS.find(([, each]) => Math.abs(passed) >= each) ?? [];
  return unit ? relative.format(-Math.trunc(passed / seconds), unit) : present;
}

function tell(root) {
  for (const time of root.querySelectorAll("time[data-ago]")) {
    const said = ago(new Date(time.dateTime));
    if (said !== null && time.textContent !== said) time.textContent = said;
  }
}

tell(document);
setInterval(() => document.hidden || tell(document), 30000);
document.addEventListener("htmx:load", (event) => tell(event.target.parentElement ?? document));

// The list beside a thread marks the open thread and the hit that led to it.
function mark() {
  const until = (address) => new URL(address).searchParams.get("until");
  for (const link of document.querySelectorAll(".list-column .threads a")) {
    const same = link.pathname === location.pathname && (!link.matches(".hit") || until(link.href) === until(location.href));
    if (same) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}
document.addEventListener("htmx:afterSettle", mark);

// Copy buttons.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  if (navigator.clipboard) await navigator.clipboard.writeText(button.dataset.copy);
  else copyFrom(button); // Neither https nor localhost.
  show(button, button.dataset.copied);
});

// Copies without the clipboard API. The field stands beside the button, because a dialog makes everything outside inert.
function copyFrom(button) {
  const field = element("textarea", { value: button.dataset.copy, className: "hidden" });
  button.after(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  button.focus();
}

// One tooltip for all elements: shown on hover and focus, hidden by Escape.
const tip = element("div", { id: "tip", role: "tooltip", hidden: true });
document.body.append(tip);
let shownFor = null;

function show(element, text) {
  hide();
  shownFor = element;
  tip.textContent = text;
  tip.hidden = false;
  if (!element.hasAttribute("aria-label")) element.setAttribute("aria-describedby", "tip");
  const at = element.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left + at.width / 2 - tip.offsetWidth / 2, innerWidth - tip.offsetWidth - 8));
  const below = at.bottom + 6 + tip.offsetHeight < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? at.bottom + 6 : at.top - tip.offsetHeight - 6}px`;
}

function hide() {
  shownFor?.removeAttribute("aria-describedby");
  shownFor = null;
  tip.hidden = true;
}

for (const kind of ["mouseover", "focusin"]) {
  document.addEventListener(kind, (event) => {
    if (tip.contains(event.target)) return;
    const element = event.target.closest("[data-tip]");
    if (element === shownFor || element?.parentElement.open) return;
    if (element && (kind === "mouseover" || element.matches(":focus-visible"))) show(element, element.dataset.tip);
    else if (kind === "mouseover" && shownFor && !shownFor.matches(":focus-visible")) hide();
  });
}
document.addEventListener("focusout", hide);
document.addEventListener("scroll", hide, true);

// Menus: one is open at a time, and scrolling containers do not clip them.
function place(menu) {
  const items = menu.querySelector(".menu-items");
  const at = menu.getBoundingClientRect();
  const up = at.bottom + items.offsetHeight + 8 > innerHeight && at.top > items.offsetHeight;
  const left = Math.max(8, Math.min(at.right - items.offsetWidth, innerWidth - items.offsetWidth - 8));
  Object.assign(items.style, { position: "fixed", inset: "auto", left: `${left}px`, top: `${up ? at.top - items.offsetHeight - 4 : at.bottom + 4}px` });
}

document.addEventListener("toggle", (event) => {
  const menu = event.target;
  if (!menu.matches?.("details.menu") || !menu.open) return;
  for (const other of document.querySelectorAll("details.menu[open]")) if (other !== menu) other.open = false;
  hide();
  place(menu);
}, true);
document.addEventListener("scroll", () => document.querySelectorAll("details.menu[open]").forEach(place), true);

function close(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(except)) menu.open = false;
}
document.addEventListener("click", (event) => {
  close(event.target);
  if (event.target.closest(".menu-items button, .menu-items a")) close(null);
});
document.addEventListener("focusin", (event) => close(event.target));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hide();
  const menu = document.querySelector("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
