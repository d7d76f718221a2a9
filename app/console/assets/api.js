// Client of the public API through the console's session. Errors are shown in the page.
import { bar, takeAway, toast } from "./toast.js";
import { t } from "./words.js";

// CSRF token of the session, which every changing request must send.
export const PROOF = { "X-CSRF-Token": document.querySelector("meta[name=csrf-token]").content };

/** An error answer. `field` is the name of the wrong parameter, if there is one. */
export class Refused extends Error {
  constructor(status, error, wait) {
    super(error?.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
    this.field = error?.param ?? null;
    this.wait = wait;
  }
}

/** Sends a request to the API. Throws Refused, or TypeError if no answer has come. */
export async function request(method, path, body, headers = {}) {
  const answer = await fetch(`/console/api${path}`, {
    method,
    headers: { ...PROOF, ...headers, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, said?.error, answer.headers.get("Retry-After"));
  return said;
}

/** Sends a request to the API. Shows an error and returns null if it fails. `retry` repeats the caller's action, if given. */
export async function call(method, path, body, retry = null) {
  try {
    return await request(method, path, body);
  } catch (error) {
    report(error, retry);
    return null;
  }
}

const tags = new Map(); // ETags of polled fragments, by path.

/** Returns the HTML of a page or a fragment; null after an error, which is shown unless `quiet`. A quiet request repeats
 * an earlier one: it returns null also if nothing has changed since. */
export async function fetchHtml(path, quiet = false) {
  try {
    const known = quiet && tags.has(path) ? { "If-None-Match": tags.get(path) } : {};
    const answer = await fetch(path, { headers: { "HX-Request": "true", ...known } });
    if (answer.status === 304) return null;
    if (quiet && answer.ok) tags.set(path, answer.headers.get("ETag"));
    if (answer.ok) return await answer.text();
    const said = await answer.json().catch(() => null);
    if (!quiet || answer.status === 401) report(new Refused(answer.status, said?.error, answer.headers.get("Retry-After")));
  } catch (error) {
    if (!quiet || !(error instanceof TypeError)) report(error);
  }
  return null;
}

/** Returns the message for an error, and a link to the page that helps. */
export function explained(error) {
  if (error instanceof TypeError) {
    return { text: navigator.onLine ? t("The service did not answer. Nothing that you typed is lost.") : t("You are offline. Nothing that you typed is lost.") };
  }
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) {
    const here = encodeURIComponent(location.pathname + location.search);
    return { text: t("You are signed out. Nothing that you typed is lost."), link: { label: t("Sign in again"), href: `/console/sign-in?next=${here}` } };
  }
  if (error.code === "csrf") {
    return { text: t("You have signed in again since this page was loaded. Nothing that you typed is lost."), link: { label: t("Load the page again"), href: location.href } };
  }
  if (error.status === 429) {
    const said = error.wait ? t("Too many requests. Try again in {n} seconds.", { n: error.wait }) : t("Too many requests. Try again later.");
    return { text: `${said} ${error.message}` };
  }
  return { text: error.status >= 500 ? `${t("The service could not do this.")} ${error.message}` : error.message };
}

/** Shows an error and the possible next step. */
export function report(error, retry = null) {
  const { text, link } = explained(error);
  if (link) {
    takeAway("signed-out");
    bar("signed-out", text, link);
  } else {
    const mayPass = !error.status || error.status === 429 || error.status >= 500;
    toast(text, { bad: true, action: retry && mayPass ? { label: t("Retry"), run: retry } : null });
  }
}

function connection() {
  if (navigator.onLine) takeAway("offline");
  else bar("offline", t("You are offline. Nothing that you typed is lost."));
}
addEventListener("offline", connection);
addEventListener("online", connection);

// Requests of htmx.
document.addEventListener("htmx:configRequest", (event) => {
  Object.assign(event.detail.headers, PROOF);
});

function again({ elt, target, pathInfo }) {
  return () => window.htmx.ajax("GET", pathInfo.finalRequestPath ?? pathInfo.requestPath, { source: elt, target, swap: elt.getAttribute("hx-swap") ?? "innerHTML" }).catch(() => null); // Reported below.
}
function errorOf(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return null; // Of a proxy before the service.
  }
}
document.addEventListener("htmx:responseError", ({ detail }) => {
  report(new Refused(detail.xhr.status, errorOf(detail.xhr.responseText), detail.xhr.getResponseHeader("Retry-After")), again(detail));
});
for (const kind of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(kind, ({ detail }) => report(new TypeError(kind), again(detail)));
}
