// The public API, by the session's own door.
export function say(text) {
  const place = document.querySelector("#said");
  place.textContent = text;
}

export async function call(method, path, body) {
  const answer = await fetch(`/console/api${path}`, {
    method,
    headers: {
      "X-CSRF-Token": document.querySelector("meta[name=csrf-token]").content,
      ...(body === undefined ? {} : { "Content-Type": "application/json" }),
    },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const said = await answer.json().catch(() => null);
  if (!answer.ok) {
    say(said?.error?.message ?? `HTTP ${answer.status}`);
    return null;
  }
  return said;
}
