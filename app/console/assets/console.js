// What the pages do by themselves: the rest is htmx and plain links.
import { PROOF, call } from "./api.js";
import { liveList } from "./live_list.js";
import { liveThread } from "./live_thread.js";
import { play } from "./replay.js";
import { nearEnd, showTurn, toEnd } from "./turns.js";
import { verify } from "./verify.js";

document.body.addEventListener("htmx:configRequest", (event) => {
  Object.assign(event.detail.headers, PROOF);
});

for (const list of document.querySelectorAll("[data-live]")) if (list.checkVisibility()) liveList(list);

// A conversation is read from its end; what comes in above does not move what is being read.
const turns = document.querySelector("#turns");
if (turns) {
  document.querySelector("#end")?.scrollIntoView({ block: "end" });
  let height = 0;
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.matches("[data-upwards]")) height = document.documentElement.scrollHeight;
  });
  document.body.addEventListener("htmx:afterSettle", () => {
    if (height) window.scrollBy(0, document.documentElement.scrollHeight - height);
    height = 0;
  });
  liveThread(turns);
}

document.addEventListener("turn-ended", async (event) => {
  const follows = nearEnd();
  await showTurn(turns.dataset.thread, event.target.id);
  if (follows) toEnd();
});

async function speak(body) {
  const thread = turns.dataset.thread;
  const turn = await call("POST", `/threads/${thread}/turns`, { ...body, background: true, stream: false });
  if (!turn) return;
  if (body.replaces || body.parent_id) {
    location.assign(`/console/threads/${thread}?until=${turn.id}`);
    return;
  }
  await showTurn(thread, turn.id);
  toEnd();
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.say) {
    event.preventDefault();
    const body = { input: form.input.value };
    if (form.model.value) body.model = form.model.value;
    if (form.dataset.parent) body.parent_id = form.dataset.parent;
    form.input.value = "";
    await speak(body);
  } else if (form.dataset.edit) {
    event.preventDefault();
    await speak({ replaces: form.dataset.edit, input: form.input.value });
  } else if (form.dataset.verify) {
    event.preventDefault();
    await verify(form);
  } else if (form.dataset.call) {
    event.preventDefault();
    const [method, path] = form.dataset.call.split(" ");
    await done(form, await call(method, path, fields(form)));
  }
});

function fields(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.name.endsWith("[]")) {
      const name = field.name.slice(0, -2);
      body[name] ??= [];
      if (field.checked) body[name].push(field.value);
    } else if (field.type === "checkbox") body[field.name] = field.checked;
    else if (field.value !== "") body[field.name] = field.type === "number" ? Number(field.value) : field.value;
    else if ("null" in field.dataset) body[field.name] = null;
  }
  return form.dataset.within ? { [form.dataset.within]: body } : body;
}

async function done(element, answer) {
  if (!answer) return;
  if (element.dataset.shows) {
    const shown = document.querySelector("#shown");
    shown.replaceChildren(`${shown.dataset.copy} `, Object.assign(document.createElement("code"), { textContent: answer[element.dataset.shows] }));
  } else if (element.dataset.open) location.assign(element.dataset.open + answer.id);
  else if (element.dataset.then) location.assign(element.dataset.then);
  else location.reload();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button || button.form?.dataset.call) return;
  if (button.dataset.call) {
    if (button.dataset.ask && !window.confirm(button.dataset.ask)) return;
    const [method, path] = button.dataset.call.split(" ");
    await done(button, await call(method, path, button.dataset.body ? JSON.parse(button.dataset.body) : undefined));
  } else if (button.dataset.replaces) await speak({ replaces: button.dataset.replaces });
  else if (button.dataset.edits) edit(button);
});

function edit(button) {
  const article = button.closest("article");
  if (article.querySelector("form")) return;
  const form = document.createElement("form");
  form.dataset.edit = button.dataset.edits;
  const text = Object.assign(document.createElement("textarea"), { name: "input", rows: 3, required: true });
  text.value = button.dataset.text;
  text.setAttribute("aria-label", button.textContent);
  const send = Object.assign(document.createElement("button"), { textContent: button.textContent });
  form.append(text, send);
  article.append(form);
  text.focus();
}

const player = document.querySelector("[data-replay]");
if (player) play(player);
