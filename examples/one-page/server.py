"""Serves the page and creates user tokens. It needs only Python: EVERTHREAD_KEY=et_… python3 server.py"""

import json
import os
import secrets
import sys
from http.cookies import SimpleCookie
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

URL = os.environ.get("EVERTHREAD_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("EVERTHREAD_KEY") or sys.exit("EVERTHREAD_KEY must be an API key.")
PORT = int(os.environ.get("PORT", "3000"))

# The page loads nothing from elsewhere, and is shown in no frame of another page.
POLICY = (
    f"default-src 'none'; connect-src 'self' {URL}; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def everthread(method, path, body=None):
    headers = {"Authorization": f"Bearer {KEY}"}
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(f"{URL}/v1{path}", data, headers, method=method), timeout=10) as answer:
        return json.load(answer)


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.path = "/index.html"  # The page is all that is served.
        super().do_GET()

    def end_headers(self):
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def do_POST(self):
        # Replace the cookie by your own sign-in. A page of another origin cannot use it: it is `SameSite=Strict`.
        cookie = SimpleCookie(self.headers.get("Cookie")).get("guest")
        guest = cookie.value if cookie else secrets.token_urlsafe(18)
        try:
            token = everthread("POST", "/user_tokens", {"user": f"guest-{guest}", "expires_in": 600})
        except OSError as error:
            self.log_error("%s", error)
            self.send_error(502, "No token")
            return
        body = json.dumps({"url": URL, "token": token["token"], "expires_at": token["expires_at"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Set-Cookie", f"guest={guest}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000")
        self.end_headers()
        self.wfile.write(body)


# A browser may call the service only from origins that the project lists. The key needs the scope `admin` for this.
try:
    project = "/admin/projects/" + everthread("GET", "/project")["id"]
    origins = {*everthread("GET", project)["origins"], f"http://127.0.0.1:{PORT}", f"http://localhost:{PORT}"}
    everthread("PATCH", project, {"origins": sorted(origins)})
except OSError as error:
    sys.exit(f"{URL} cannot be used: {error}")

os.chdir(Path(__file__).parent)
print(f"The chat is at http://127.0.0.1:{PORT}", flush=True)
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
