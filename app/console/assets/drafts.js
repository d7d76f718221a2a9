// Texts that are typed and not sent yet, kept in the tab until the service has confirmed the turn. They belong to who typed
// them: signing out deletes them, and so does a page that somebody else has opened.
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

/** Keeps what is typed into a field, and puts back what was. */
export function keepsDraft(field, key) {
  const former = draft(key);
  if (former !== null) field.value = former;
  field.addEventListener("input", () => keep(key, field.value));
}
