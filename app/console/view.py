"""A page being made: who looks at it, in which language, and what it is made of."""

import functools
import hashlib
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from app.console import session
from app.console.api import Api, Refused
from app.console.oidc import COOKIE as STATE_COOKIE
from app.console.oidc import PATH as STATE_PATH
from app.console.oidc import UNAVAILABLE, Oidc, SignedIn, SignInFailed
from app.console.reasons import REASONS
from app.console.static_files import STATIC
from app.console.words import SCRIPT_WORDS, Words, language_of, words
from app.http.errors import APIError
from app.http.services import services
from app.limits.spent import NO_CURRENCY
from app.projects.auth import Grant
from app.projects.sessions import Sessions
from app.settings import Connected

HERE = Path(__file__).parent

DAY = 86_400

UNITS = (("{n}d ago", "in {n}d", DAY), ("{n}h ago", "in {n}h", 3600), ("{n}m ago", "in {n}m", 60))

HUES = 8
"""Colours of avatars: `--hue-0` and so on in tokens.css."""

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}

STATUSES = {session.TOO_MANY: 429, UNAVAILABLE: 503}
"""Statuses of messages of the sign-in; of all others: 403."""

_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _language(request: Request) -> str:
    return language_of(request.headers.get("accept-language", ""))


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _machine(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _ago(seconds: float, t: Words) -> str:
    """Return a time relative to now; its date if it is a week or more away."""
    passed = int(time.time() - seconds)
    if abs(passed) >= 7 * DAY:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    if abs(passed) < 60:
        return t("just now")
    past, ahead, unit = next(each for each in UNITS if abs(passed) >= each[2])
    return t(past if passed > 0 else ahead, n=abs(passed) // unit)


def _hue(name: str) -> int:
    """Return the number of a name's colour, which is always the same."""
    return zlib.crc32(name.encode()) % HUES


def _initials(name: str) -> str:
    """Return the first letters of a name's first two words; of an address, without its domain."""
    words_ = re.split(r"[\s._+/:-]+", name.strip().partition("@")[0], maxsplit=3)
    return "".join(word[:1] for word in words_ if word)[:2].upper() or "?"


def _filesize(size: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} GB"


_templates.filters |= {
    "moment": _moment,
    "machine": _machine,
    "ago": _ago,
    "hue": _hue,
    "initials": _initials,
    "filesize": _filesize,
}  # fmt: skip


_templates.globals |= {"REASONS": REASONS}


@dataclass(frozen=True, slots=True)
class View:
    request: Request
    api: Api
    grant: Grant
    t: Words
    language: str

    def asked(self, name: str) -> str:
        """A field of the query; without what no field may hold."""
        return self.request.query_params.get(name, "").replace("\0", "").strip()

    def may(self, scope: str) -> bool:
        return scope in self.grant.scopes

    def more(self, found: dict[str, Any]) -> dict[str, Any] | None:
        """The query of the page behind one of the API's; None behind the last."""
        return {**self.request.query_params, "after": found["last_id"]} if found["has_more"] else None

    def page(self, template: str, *, status: int = 200, **shown: Any) -> Response:
        person = "" if self.grant.subject is None else self.grant.name
        return _html(
            self.request,
            template,
            self.t,
            self.language,
            status,
            may=self.may,
            person=person,
            owner=self.grant.key_id.hex,
            **shown,
        )


_ID = re.compile(r"[a-z]+_[0-9a-f]{32}")

IDS = ("until", "last", "project")
"""Fields of a query that pages put into the path of a request to the API, like the ids in their own paths."""


def _check_ids(view: View) -> None:
    """Raise Refused for an id that would make another request of the one that it is put into."""
    ids = [value for name, value in view.request.path_params.items() if name != "group"]
    ids += [value for name in IDS if (value := view.asked(name))]
    if not all(map(_ID.fullmatch, ids)):
        raise Refused(404, view.t("Nothing has this id."))


Handler = Callable[[View], Awaitable[Response]]


def page(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A route for who is signed in. What the API refuses is shown as a page."""

    @readable
    async def answer(request: Request) -> Response:
        grant = await session.grant_of(request)
        if grant is None:
            return session.to_sign_in(request)
        language = _language(request)
        view = View(request, Api(request.app, request, grant), grant, words(language), language)
        try:
            _check_ids(view)
            return await handler(view)
        except Refused as refused:
            if session.IS_SCRIPT in request.headers:
                return JSONResponse({"error": {"message": refused.message}}, refused.status, headers=SECURITY)
            return view.page("refused.html", status=refused.status, message=refused.message)

    return answer


def readable(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Show errors of the service as a page. Scripts get them as JSON: their page stays, and says what has happened."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except APIError as error:
            if session.IS_SCRIPT in request.headers:
                raise
            language = _language(request)
            return _html(
                request, "refused.html", words(language), language, error.status,
                message=error.message, person="", may=lambda _: False,
            )  # fmt: skip

    return answer


@readable
async def sign_in_page(request: Request) -> Response:
    wrong: str | None = None
    if request.method == "POST":
        answer, wrong = await session.sign_in(request)
        if answer is not None:
            return answer
    return _sign_in_form(request, wrong)


@readable
async def oidc_page(request: Request) -> Response:
    """Send the browser to the identity provider."""
    asked = request.query_params
    try:
        return await services(request)[Oidc].begin(asked.get("next", ""), asked.get("project", ""))
    except SignInFailed as failed:
        return _sign_in_form(request, failed.message, **failed.filled)


@readable
async def oidc_callback_page(request: Request) -> Response:
    """Begin the session of a person whom the identity provider has sent back.

    The browser opens the next page by itself: it sends no `SameSite=Strict` cookie with a redirect from another site.
    """
    oidc = services(request)[Oidc]
    if oidc.config is None:
        return RedirectResponse(session.SIGN_IN, status_code=303)
    language = _language(request)
    try:
        done = await oidc.finish(request)
    except SignInFailed as failed:
        answer = _sign_in_form(request, failed.message, **failed.filled)
    else:
        answer = _html(request, "signed_in.html", words(language), language, 200, done=done, may=lambda _: False)
        if isinstance(done, SignedIn):
            session.set_cookie(answer, done.cookie, secure=oidc.secure)
    answer.delete_cookie(STATE_COOKIE, path=STATE_PATH, secure=oidc.secure, httponly=True, samesite="lax")
    return answer


def _sign_in_form(request: Request, wrong: str | None, **filled: str) -> Response:
    language = _language(request)
    t = words(language)
    status = 200 if wrong is None else STATUSES.get(wrong, 403)
    return _html(
        request, "sign_in.html", t, language, status, wrong=None if wrong is None else t(wrong, **filled),
        next=request.query_params.get("next", ""), keys=services(request)[Connected].console_keys,
        provider=services(request)[Oidc].host, may=lambda _: False,
    )  # fmt: skip


@readable
async def sign_out_page(request: Request) -> Response:
    return await session.sign_out(request) if session.from_here(request) else session.to_sign_in(request)


def _html(request: Request, template: str, t: Words, language: str, status: int, **shown: Any) -> Response:
    proof = services(request)[Sessions].proof(session.cookie_of(request))
    text = _templates.get_template(template).render(
        t=t,
        language=language,
        path=request.url.path,
        query=request.query_params,
        proof=proof,
        http_status=status,
        static=STATIC,
        script_words=SCRIPT_WORDS[language],
        **{"owner": "", **shown},
    )
    headers = {**SECURITY, "ETag": f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'}
    if status == 200 and request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(text, status_code=status, headers=headers)


def money(costs: Mapping[str, float]) -> str:
    """Return amounts with as many digits as their size needs, each with its currency where that has a name."""
    return ", ".join(
        f"{cost:,.{2 if cost >= 1000 or not cost else 4 if cost >= 1 else 6}f}"
        + ("" if currency == NO_CURRENCY else f" {currency}")
        for currency, cost in costs.items()
    )
