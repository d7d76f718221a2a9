// Sending in a thread: messages, edits, regenerated answers and retries.
import { report, request } from "./api.js";
import { draft, keep, keepsDraft } from "./drafts.js";
import { toast } from "./toast.js";
import { showTurn, toEnd } from "./turns.js";
import { element, t } from "./words.js";

const turns = document.querySelector("#turns");

/**
 * Creates a turn. A request that is repeated after a lost answer creates it once.
 *
 * @returns {Promise<boolean>} true if the service has confirmed it.
 */
async function speak(thread, body, { key = once(), retry }) {
  let turn;
  try {
    turn = await request("POST", `/threads/${thread}/turns`, { ...body, background: true, stream: false }, { "Idempotency-Key": key });
  } catch (error) {
    report(error, retry ?? (() => speak(thread, body, { key })));
    return false;
  }
  if (body.replaces || body.parent_id || !turns) location.assign(`/console/threads/${thread}?until=${turn.id}`);
  else {
    await showTurn(thread, turn.id);
    toEnd();
  }
  return true;
}

function once() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends the text of a form. It stays in its field, and in the draft, until the turn is confirmed. */
async function send(form, thread, draftKey, body) {
  if (form.ariaBusy) return;
  const text = form.input.value;
  // The same text keeps its idempotency key until its turn exists.
  if (form.dataset.sentText !== text || !form.dataset.key) Object.assign(form.dataset, { key: once(), sentText: text });
  form.ariaBusy = "true"; // Not `disabled`: a disabled button loses the focus.
  const sent = await speak(thread, body, { key: form.dataset.key, retry: () => form.requestSubmit() });
  form.ariaBusy = null;
  if (!sent) return;
  delete form.dataset.key;
  if (form.input.value === text) {
    keep(draftKey, "");
    form.input.value = "";
  }
}

const editKey = (thread, turn) => `${thread}:edit:${turn}`;

function edit(article, turn, text, { focus }) {
  if (article.querySelector("form")) return;
  const thread = turns.dataset.thread;
  const field = element("textarea", { name: "input", rows: 3, required: true, value: text, dir: "auto", ariaLabel: t("Edit") });
  const form = element("form", { className: "edit", data: { edit: turn } }, field);
  const close = () => {
    keep(editKey(thread, turn), "");
    form.remove();
    article.querySelector("[data-edits]")?.focus();
  };
  form.append(
    element(
      "div",
      { className: "actions" },
      element("button", { type: "submit", className: "primary", textContent: t("Send") }),
      element("button", { type: "button", textContent: t("Cancel"), onclick: close }),
    ),
  );
  article.append(form);
  keepsDraft(field, editKey(thread, turn));
  if (focus) field.focus();
}

if (turns) {
  const composer = document.querySelector("form[data-say]");
  if (composer) keepsDraft(composer.input, `${composer.dataset.say}:say`);
  for (const button of turns.querySelectorAll("[data-edits]")) {
    const former = draft(editKey(turns.dataset.thread, button.dataset.edits));
    if (former !== null) edit(button.closest("article"), button.dataset.edits, former, { focus: false });
  }
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.say) {
    event.preventDefault();
    const body = { input: form.input.value };
    if (form.model.value) body.model = form.model.value;
    if (form.dataset.parent) body.parent_id = form.dataset.parent;
    await send(form, form.dataset.say, `${form.dataset.say}:say`, body);
  } else if (form.dataset.edit) {
    event.preventDefault();
    const thread = turns.dataset.thread;
    await send(form, thread, editKey(thread, form.dataset.edit), { replaces: form.dataset.edit, input: form.input.value });
  }
});

// Ctrl or Cmd with Enter sends.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  const form = event.target.closest?.("form[data-say], form[data-edit]");
  if (form && event.target.tagName === "TEXTAREA") {
    event.preventDefault();
    form.requestSubmit();
  }
});

// data-replaces: regenerates an answer. data-retry: retries a failed turn of this thread, or of the thread in data-thread.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-replaces], button[data-retry], button[data-edits]");
  if (!button) return;
  const thread = button.dataset.thread ?? turns.dataset.thread;
  if (button.dataset.edits) edit(button.closest("article"), button.dataset.edits, button.dataset.text, { focus: true });
  else if (!button.ariaBusy) {
    button.ariaBusy = "true";
    if (button.dataset.retry) toast(t("The turn is sent again."));
    await speak(thread, { replaces: button.dataset.retry ?? button.dataset.replaces }, {});
    button.ariaBusy = null;
  }
});
