// Drafts: typed texts, kept in the browser's tab until the service has confirmed their turn. A draft belongs to the signed-in
// key or person: signing out, or in as somebody else, deletes it.
const OWNER = document.querySelector("meta[name=person]")?.content ?? "";
const PREFIX = "draft:";
const mine = (key) => `${PREFIX}${OWNER}:${key}`;

function drop(keep) {
  for (const key of Object.keys(sessionStorage)) if (key.startsWith(PREFIX) && !keep(key)) sessionStorage.removeItem(key);
}

if (OWNER) drop((key) => key.startsWith(mine("")));
document.addEventListener("submit", (event) => {
  if (event.target.action?.endsWith("/console/sign-out")) drop(() => false);
});

export function draft(key) {
  return sessionStorage.getItem(mine(key));
}

export function keep(key, text) {
  if (text) sessionStorage.setItem(mine(key), text);
  else sessionStorage.removeItem(mine(key));
}

/** Saves a field's text while it is typed, and restores the saved text. */
export function keepsDraft(field, key) {
  const former = draft(key);
  if (former !== null) field.value = former;
  field.addEventListener("input", () => keep(key, field.value));
}
