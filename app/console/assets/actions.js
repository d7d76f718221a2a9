// Buttons and forms that call the API:
//   data-call="METHOD /path" with data-body (JSON), or the fields of a form
//   data-confirm: the question to confirm first; data-typed: the text to type as confirmation
//   data-open: the page to open afterwards, followed by the new object's id; data-then: the same without the id; data-shows: a field of the answer to show once
//   data-changed: the message after a change that the page shows without a reload; data-undo="METHOD /path {…}"
//   data-event: the event that makes the page reload its changed parts; default "changed"
//   data-dialog: the id of a dialog that a button opens
import { call, explained, report, request } from "./api.js";
import { confirmed } from "./confirm.js";
import { toast } from "./toast.js";
import { element, t } from "./words.js";

function fields(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.name.endsWith("[]")) {
      const name = field.name.slice(0, -2);
      body[name] ??= [];
      if (field.checked) body[name].push(field.value);
    } else if (field.type === "checkbox") body[field.name] = field.checked;
    else if (field.value !== "") body[field.name] = field.type === "number" || "number" in field.dataset ? Number(field.value) : field.value;
    else if ("null" in field.dataset) body[field.name] = null;
  }
  const pairs = form.querySelector("[data-pairs]");
  if (pairs) body[pairs.dataset.pairs] = Object.fromEntries(rows(pairs).map((row) => [row[0].value, row[1].value]).filter(([name]) => name));
  return form.dataset.within ? { [form.dataset.within]: body } : body;
}

async function done(origin, answer) {
  const { shows, open, then, changed, undo } = origin.dataset;
  if (shows) {
    const shown = document.querySelector(origin.dataset.place ?? "#shown");
    const text = (origin.dataset.before === "origin" ? location.origin : "") + answer[shows];
    const copy = element("button", { type: "button", textContent: t("Copy"), data: { copy: text, copied: t("Copied") } });
    shown.replaceChildren(`${shown.dataset.copy} `, element("code", { textContent: text }), " ", copy);
    changes(origin);
  } else if (open) location.assign(open + answer.id);
  else if (then) location.assign(then);
  else if (changed) {
    if (origin.tagName === "FORM") origin.closest("dialog")?.close();
    const action = undo && { label: t("Undo"), run: () => undone(undo) };
    toast(changed, { action });
    changes(origin);
  } else location.reload();
}

async function undone(what) {
  const [method, path, ...body] = what.split(" ");
  const answer = await call(method, path, body.length ? JSON.parse(body.join(" ")) : undefined, () => undone(what));
  if (!answer) return;
  toast(t("Undone."));
  changes(document.body);
}

/** Reloads the parts of the page that may have changed. */
function changes(origin) {
  window.htmx?.trigger(document.body, origin.dataset.event ?? "changed");
}

async function act(origin, body) {
  const question = origin.dataset.confirm;
  const { label = origin.textContent.trim(), typed } = origin.dataset;
  if (!question || (await confirmed(question, { label, typed, opener: origin }))) await perform(origin, body);
}

async function perform(origin, body) {
  if (origin.ariaBusy) return;
  const [method, path] = origin.dataset.call.split(" ");
  forgetErrors(origin.closest("dialog") ?? origin);
  origin.ariaBusy = "true"; // Not `disabled`: a disabled button loses the focus.
  try {
    await done(origin, await request(method, path, body));
  } catch (error) {
    if (!refused(origin, error)) report(error, method === "POST" ? null : () => perform(origin, body));
  } finally {
    origin.ariaBusy = null;
  }
}

/** Shows an error at its field, or in the dialog. Returns false if there is neither. */
function refused(origin, error) {
  const name = error.field?.split(/[.[]/)[0];
  const field = name && origin.tagName === "FORM" ? origin.querySelector(`[name="${CSS.escape(name)}"], [data-pairs="${CSS.escape(name)}"] input`) : null;
  const place = field?.closest("[data-pairs], .field, label") ?? origin.closest("dialog")?.querySelector(".dialog-foot");
  if (!place) return false;
  const { text, link } = explained(error);
  const said = element("p", { id: "refused", className: "wrong", dir: "auto" }, text);
  said.setAttribute("role", "alert");
  if (link) said.append(" ", element("a", { href: link.href, textContent: link.label }));
  if (!field) place.before(said);
  else {
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", said.id);
    place.after(said);
    field.focus();
  }
  return true;
}

function forgetErrors(place) {
  place.querySelector("#refused")?.remove();
  place.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.call) return;
  event.preventDefault();
  await act(form, fields(form));
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.call) await act(button, button.dataset.body ? JSON.parse(button.dataset.body) : undefined);
  else if (button.dataset.dialog) {
    const dialog = document.querySelector(`#${button.dataset.dialog}`);
    dialog.showModal();
    window.htmx?.trigger(dialog, "opened");
  } else if ("close" in button.dataset) button.closest("dialog").close();
  else if ("addPair" in button.dataset) add(button);
  else if ("dropPair" in button.dataset) {
    const pairs = button.closest("[data-pairs]");
    button.closest(".pair").remove();
    (pairs.querySelector("input") ?? pairs.querySelector("[data-add-pair]")).focus();
    bound(pairs);
  }
});

// Pairs of a key and a value, up to the API's maximum.
function rows(pairs) {
  return [...pairs.querySelectorAll(".pair")].map((row) => row.querySelectorAll("input"));
}

function add(button) {
  const pairs = button.closest("[data-pairs]");
  const row = pairs.querySelector("template").content.cloneNode(true);
  button.before(row);
  rows(pairs).at(-1)[0].focus();
  bound(pairs);
}

function bound(pairs) {
  pairs.querySelector("[data-add-pair]").disabled = rows(pairs).length >= Number(pairs.dataset.most);
}
