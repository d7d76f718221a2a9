// The public API, by the session's own door.
function say(text) {
  const place = document.querySelector("#said");
  place.textContent = text;
}

// What a request that changes something sends along, as a proof that a page of the session's has made it.
export const PROOF = { "X-CSRF-Token": document.querySelector("meta[name=csrf-token]").content };

export async function call(method, path, body) {
  const answer = await fetch(`/console/api${path}`, {
    method,
    headers: { ...PROOF, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const said = await answer.json().catch(() => null);
  if (!answer.ok) {
    say(said?.error?.message ?? `HTTP ${answer.status}`);
    return null;
  }
  return said;
}
