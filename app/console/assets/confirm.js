// Confirmation dialogs. The browser keeps the focus inside, and Escape cancels.
import { element, t } from "./words.js";

/**
 * Asks for a confirmation.
 *
 * @param {string} question naming the objects that are deleted.
 * @param {{label: string, typed?: string, opener: Element}} options label: of the confirming button. typed: the text that must
 *   be typed first. opener: gets the focus back; if it is in a menu, which has closed, the menu does.
 * @returns {Promise<boolean>}
 */
export function confirmed(question, { label, typed = "", opener }) {
  const dialog = element("dialog", { className: "confirm" });
  dialog.setAttribute("aria-labelledby", "question");
  const yes = element("button", { type: "submit", value: "yes", className: "danger", textContent: label });
  const no = element("button", { type: "button", textContent: t("Cancel"), onclick: () => dialog.close() });
  const form = element("form", { method: "dialog" }, element("p", { id: "question", textContent: question, dir: "auto" }));
  if (typed) {
    const field = element("input", { id: "typed", autocomplete: "off", spellcheck: false, dir: "auto" });
    field.addEventListener("input", () => (yes.disabled = field.value !== typed));
    yes.disabled = true;
    const name = element("label", { htmlFor: "typed" }, t("Type this to confirm:"), " ", element("code", { textContent: typed, dir: "auto" }));
    form.append(element("div", { className: "field" }, name, field));
  }
  form.append(element("div", { className: "actions" }, no, yes));
  dialog.append(form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (document.activeElement === document.body) (opener.closest("details.menu")?.querySelector("summary") ?? opener).focus();
      resolve(dialog.returnValue === "yes");
    });
    dialog.showModal();
  });
}
