// Single-key shortcuts and their help. They do nothing in fields, with Ctrl, Alt or Cmd, or when turned off.
import { element, t } from "./words.js";

const OFF = "shortcuts-off";
const PAGES = { t: "threads", f: "failures", n: "now", u: "usage", a: "audit", s: "settings" };
const SECOND_KEY_MILLISECONDS = 1500;
const ROWS = "#turns article, main .threads li > a, main table.data tbody tr";

let after = "";
let timer = 0;

function search() {
  const field = document.querySelector("#q, main input[type=search]");
  if (field) field.focus();
  else location.assign("/console/threads#q");
}
if (location.hash === "#q") search();

/** Moves the focus to the next or the previous row. */
function move(step) {
  const all = [...document.querySelectorAll(ROWS)].filter((row) => row.offsetParent !== null);
  if (!all.length) return;
  const at = all.findIndex((row) => row.contains(document.activeElement));
  const conversation = all[0].matches("article");
  const first = step > 0 && !conversation ? 0 : all.length - 1;
  const row = all[at < 0 ? first : Math.max(0, Math.min(all.length - 1, at + step))];
  const target = row.matches("tr") ? (row.querySelector("a") ?? row) : row;
  if (!target.matches("a, button")) target.tabIndex = -1;
  target.focus();
  row.scrollIntoView({ block: "nearest" });
}

function go(key) {
  document.querySelector(`.rail a[href="/console/${PAGES[key]}"]`)?.click();
}

function branch(which) {
  const focused = document.activeElement.closest("article");
  const links = (focused ?? document).querySelectorAll(`[data-branch=${which}]`);
  links[links.length - 1]?.click();
}

const KEYS = {
  "/": search,
  j: () => move(1),
  k: () => move(-1),
  r: () => document.querySelector("#say")?.focus(),
  e: () => document.querySelector("[data-dialog=edit-thread]")?.click(),
  "[": () => branch("before"),
  "]": () => branch("after"),
  Enter: () => document.activeElement.matches("article") && document.activeElement.querySelector("[data-details]")?.click(),
  z: () => [...document.querySelectorAll("#said .toast button:not(.quiet)")].at(-1)?.click(),
  "?": help,
};

function isTyping(target) {
  return target.closest?.("input, textarea, select, [contenteditable=true], dialog[open]");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
  if (isTyping(event.target) || document.querySelector("dialog[open]") || localStorage.getItem(OFF)) return;
  if (!document.querySelector(".rail")) return;
  clearTimeout(timer);
  const second = after === "g" && event.key in PAGES;
  after = "";
  if (second) {
    event.preventDefault();
    go(event.key);
  } else if (event.key === "g") {
    after = "g";
    timer = setTimeout(() => (after = ""), SECOND_KEY_MILLISECONDS);
  } else if (event.key in KEYS) {
    if (event.key !== "Enter") event.preventDefault();
    KEYS[event.key]();
  }
});

function help() {
  const lines = [
    [["/"], t("Search threads")],
    [["j"], t("Next thread, turn or row")],
    [["k"], t("Previous thread, turn or row")],
    [["Enter"], t("Open the thread, turn or row")],
    [["g", "t"], t("Threads")],
    [["g", "f"], t("Failures")],
    [["g", "n"], t("Now")],
    [["g", "u"], t("Usage")],
    [["g", "a"], t("Audit")],
    [["g", "s"], t("Settings")],
    [["r"], t("Write a message")],
    [["Ctrl", "Enter"], t("Send the message")],
    [["e"], t("Edit title, name, user and metadata")],
    [["[", "]"], t("Previous and next branch")],
    [["z"], t("Undo or retry, as the last message offers")],
    [["?"], t("Show this help")],
  ];
  const list = element("dl", { className: "facts" });
  for (const [keys, said] of lines) {
    const keycaps = keys.flatMap((key) => [element("kbd", { textContent: key }), " "]);
    list.append(element("dt", {}, ...keycaps), element("dd", { textContent: said }));
  }
  const turn = element("input", { type: "checkbox", checked: !localStorage.getItem(OFF) });
  turn.addEventListener("change", () => (turn.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
  const title = element("h2", { id: "help-title", textContent: t("Keyboard shortcuts") });
  const close = element("button", { type: "submit", className: "primary", textContent: t("Close"), autofocus: true });
  const dialog = element(
    "dialog",
    { className: "help", onclose: () => dialog.remove() },
    element("form", { method: "dialog" }, title, list, element("label", { className: "switch" }, turn, ` ${t("Single-key shortcuts")}`), element("div", { className: "actions" }, close)),
  );
  dialog.setAttribute("aria-labelledby", "help-title");
  document.body.append(dialog);
  dialog.showModal();
}

for (const button of document.querySelectorAll("[data-help]")) {
  button.hidden = false;
  button.addEventListener("click", help);
}
