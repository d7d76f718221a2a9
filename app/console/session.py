"""Sessions of the console: signing in with an API key, and a cookie that only this site sends.

`oidc.py` has the sign-in with OpenID Connect.
"""

import hmac
import re
from urllib.parse import parse_qs, quote

from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response

from app.console.attempts import SignInAttempts
from app.http.bodies import body_of
from app.http.services import services
from app.projects.auth import Grant, KeyRing
from app.projects.sessions import LIFE_SECONDS, Sessions
from app.settings import Connected

COOKIE = "everthread_console"
PATH = "/console"
SIGN_IN = f"{PATH}/sign-in"

LONGEST_FORM = 4096
"""Bytes."""

WRONG_KEY = "This key is unknown, revoked or past its end."
TOO_MANY = "Too many attempts. Wait a minute."
NO_KEYS = "API keys are not accepted here. Sign in with your account."

PROOF = "x-csrf-token"

_PAGE = re.compile(rf"{PATH}/[\w/-]+(\?[^\\]*)?", re.ASCII)
"""A page's address. Its path has no dots: `..` leads out of the console."""
IS_SCRIPT = "hx-request"
"""A header of the requests that a page's scripts send for HTML."""


def cookie_of(request: HTTPConnection) -> str:
    return request.cookies.get(COOKIE, "")


async def grant_of(request: HTTPConnection) -> Grant | None:
    """Return what a request's session may access; None without a session, or if its key is no longer valid."""
    session = await services(request)[Sessions].find(cookie_of(request))
    if session is None:
        return None
    address = None if request.client is None else request.client.host
    grant = await services(request)[KeyRing].of_session(session, address)
    return grant if grant is not None and _is_accepted(services(request)[Connected], grant) else None


def _is_accepted(settings: Connected, grant: Grant) -> bool:
    """Return False if the settings no longer accept the kind of sign-in that began a session."""
    if grant.subject is None:
        return settings.console_keys
    return settings.oidc_issuer is not None and grant.subject.startswith(f"{settings.oidc_issuer.rstrip('/')} ")


def is_own(request: HTTPConnection) -> bool:
    """Return True if a request that changes something comes from a page of the session."""
    given, proof = request.headers.get(PROOF, ""), services(request)[Sessions].proof(cookie_of(request))
    return from_here(request) and hmac.compare_digest(given.encode(), proof.encode())


def from_here(request: HTTPConnection) -> bool:
    """Return True if the request comes from this very site, according to the browser."""
    site = request.headers.get("sec-fetch-site")
    return site in (None, "same-origin")


async def sign_in(request: Request) -> tuple[Response | None, str | None]:
    """Begin a session with the key of a form: the answer that begins it, or why there is none."""
    address = "" if request.client is None else request.client.host
    if not services(request)[Connected].console_keys:
        return None, NO_KEYS
    if not from_here(request):
        return None, WRONG_KEY
    attempts = services(request)[SignInAttempts]
    if not await attempts.may_try(address):
        return None, TOO_MANY
    form = parse_qs((await body_of(request, LONGEST_FORM)).decode("utf-8", "replace"))
    key = form.get("key", [""])[0].strip()
    grant = await services(request)[KeyRing].grant(key, address) if key and "." not in key else None
    if grant is None:
        return None, WRONG_KEY
    attempts.succeeded(address)
    cookie = await services(request)[Sessions].begin(grant.project_id, grant.key_id)
    assert cookie is not None  # Its id is new.
    answer = RedirectResponse(next_page(form.get("next", [""])[0]), status_code=303)
    set_cookie(answer, cookie, secure=request.url.scheme == "https")
    return answer, None


def set_cookie(answer: Response, cookie: str, *, secure: bool) -> None:
    """Give the browser the cookie of a session."""
    answer.set_cookie(COOKIE, cookie, max_age=LIFE_SECONDS, path=PATH, secure=secure, httponly=True, samesite="strict")


async def sign_out(request: Request) -> Response:
    """End the session in Postgres, and take the cookie back. Streams that the session has opened end soon after."""
    await services(request)[Sessions].end(cookie_of(request))
    answer = RedirectResponse(SIGN_IN, status_code=303)
    answer.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="strict")
    return answer


def to_sign_in(request: Request) -> Response:
    """Redirect a request without a session to the sign-in page. Scripts get 401, which their page shows."""
    if IS_SCRIPT in request.headers:
        return Response(status_code=401)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"{SIGN_IN}?next={quote(wanted)}", status_code=303)


def next_page(given: str) -> str:
    """Return the page to open after the sign-in: a page of the console's, and nothing else."""
    return given if _PAGE.fullmatch(given) and "//" not in given and given.isprintable() else f"{PATH}/threads"
