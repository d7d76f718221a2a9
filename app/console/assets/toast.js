// Short messages at the bottom of the page, and bars at the top for lasting states. Screen readers announce both.
import { element, t } from "./words.js";

const MILLISECONDS = 6000;
const WITH_ACTION_MILLISECONDS = 12000;
const MOST = 4;

/**
 * Shows a message. Errors stay until they are dismissed; others disappear after a while, but not while they have the focus or
 * the pointer.
 *
 * @param {string} text
 * @param {{bad?: boolean, action?: {label: string, run: () => void}}} options
 */
export function toast(text, { bad = false, action = null } = {}) {
  const place = document.querySelector("#said");
  for (const former of place.children) if (former.dataset.text === text) former.remove();
  while (place.children.length >= MOST) place.firstElementChild.remove();
  const shown = element("div", { className: `toast${bad ? " bad" : ""}`, data: { text } }, element("span", { textContent: text, dir: "auto" }));
  const close = () => {
    const focused = shown.contains(document.activeElement);
    shown.remove();
    if (focused) document.querySelector("#content").focus({ preventScroll: true });
  };
  if (action) {
    shown.append(
      element("button", {
        type: "button",
        textContent: action.label,
        onclick: () => {
          close();
          action.run();
        },
      }),
    );
  }
  shown.append(element("button", { type: "button", className: "quiet icon-only", textContent: "×", ariaLabel: t("Dismiss"), onclick: close }));
  place.append(shown);
  if (bad) return;
  const wait = () =>
    setTimeout(() => (shown.matches(":hover, :focus-within") ? wait() : close()), action ? WITH_ACTION_MILLISECONDS : MILLISECONDS);
  wait();
}

/**
 * Shows a bar above the page until it is removed.
 *
 * @param {string} name of the bar: there is one of each.
 */
export function bar(name, text, link = null) {
  if (document.querySelector(`#${name}`)) return;
  const shown = element("div", { id: name, className: "bar", role: "alert" }, element("span", { textContent: text }));
  if (link) shown.append(element("a", { className: "button primary", href: link.href, textContent: link.label }));
  document.querySelector(".skip").before(shown);
}

export function takeAway(name) {
  document.querySelector(`#${name}`)?.remove();
}
