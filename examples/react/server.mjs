// Serves dist/ and creates user tokens. It needs only Node: EVERTHREAD_KEY=et_… node server.mjs

import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname } from "node:path";
import { pathToFileURL } from "node:url";

const { EVERTHREAD_URL: URL_OF_SERVICE = "http://127.0.0.1:8080", EVERTHREAD_KEY: KEY } = process.env;

// Images of other hosts are not loaded: the address of one in an answer could carry what the conversation says.
const POLICY =
  `default-src 'self'; connect-src 'self' ${URL_OF_SERVICE}; img-src 'self' data:; object-src 'none'; ` +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

async function everthread(method, path, body) {
  const answer = await fetch(`${URL_OF_SERVICE}/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${KEY}` },
    body: body && JSON.stringify(body),
  });
  const json = await answer.json();
  if (!answer.ok) throw new Error(json.error.message);
  return json;
}

/** Answer `POST /token`; return false for any other request. */
export async function answerToken(request, response) {
  if (request.method !== "POST" || request.url !== "/token") return false;
  // Replace the cookie by your own sign-in. A page of another origin cannot use it: it is `SameSite=Strict`.
  const guest = /(?:^|; )guest=([\w-]+)/.exec(request.headers.cookie)?.[1] ?? randomBytes(18).toString("base64url");
  try {
    const { token } = await everthread("POST", "/user_tokens", { user: `guest-${guest}`, expires_in: 600 });
    response.writeHead(200, {
      "content-type": "application/json",
      "cache-control": "no-store",
      "set-cookie": `guest=${guest}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000`,
    });
    response.end(JSON.stringify({ token, url: URL_OF_SERVICE }));
  } catch (error) {
    console.error(error.message);
    response.writeHead(502, { "content-type": "application/json" }).end(JSON.stringify({ error: { message: "No token." } }));
  }
  return true;
}

/** Add an address to the project's `origins`: a browser may call the service only from these. Needs the scope `admin`. */
export async function allowOrigins(port) {
  const { id } = await everthread("GET", "/project");
  const { origins } = await everthread("GET", `/admin/projects/${id}`);
  const own = [`http://127.0.0.1:${port}`, `http://localhost:${port}`];
  await everthread("PATCH", `/admin/projects/${id}`, { origins: [...new Set([...origins, ...own])] });
}

const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

async function answer(request, response) {
  if (await answerToken(request, response)) return;
  const { pathname } = new URL(request.url, "http://localhost");
  const file = /^\/assets\/[\w.-]+$/.test(pathname) ? pathname : "/index.html";
  const body = await readFile(new URL(`dist${file}`, import.meta.url)).catch(() => null);
  const type = TYPES[extname(file)] ?? "text/plain";
  response.writeHead(body ? 200 : 404, { "content-type": type, "content-security-policy": POLICY }).end(body);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const port = Number(process.env.PORT ?? 3000);
  await allowOrigins(port).catch((error) => {
    console.error(`${URL_OF_SERVICE} cannot be used: ${error.message}`);
    process.exit(1);
  });
  createServer(answer).listen(port, "127.0.0.1", () => console.log(`The chat is at http://127.0.0.1:${port}`));
}
