"""Sign-in to the console with OpenID Connect, at a real identity provider: who gets a session, and who does not."""

import asyncio
import html
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import uuid4

import asyncpg
import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from playwright.sync_api import expect, sync_playwright

from app.console import oidc, session
from app.console.identity_provider import IdentityProvider, ProviderFailed
from app.console.oidc_config import BadOidc, oidc_config
from app.console.words import CHINESE
from app.settings import Settings
from tests.console import violations
from tests.databases import migrated_database
from tests.oidc_front import CLIENT, SECRET, Forgery, Front, expired, oidc_front
from tests.projects import Project, new_key
from tests.service import Process, Service, eventually, free_port
from tests.test_command_line import lines_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

CALLBACK = "/console/sign-in/oidc/callback"
SESSION, STATE = "everthread_console", "everthread_sign_in"

SHOP, CLINIC, ABSENT = (f"{name}-{uuid4().hex[:8]}" for name in ("shop", "clinic", "absent"))

GROUPS = (
    f"support={SHOP}:read,write; cn=staff,dc=example={SHOP}:audit; auditors={SHOP}:read,audit;"
    f"admins={SHOP}:read,write,audit,admin; doctors={CLINIC}:read; planners={ABSENT}:read"
)

_addresses = itertools.count(1)


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with oidc_front(free_port()) as front:
        yield front


@pytest.fixture(scope="module")
def own_env(server_urls: tuple[str, str], service_env: dict[str, str], front: Front) -> dict[str, str]:
    return {
        **service_env,
        "DATABASE_URL": migrated_database(server_urls[0]),
        "EVERTHREAD_OIDC_ISSUER": front.issuer + "/",
        "EVERTHREAD_OIDC_CLIENT_ID": CLIENT,
        "EVERTHREAD_OIDC_CLIENT_SECRET": SECRET,
        "EVERTHREAD_OIDC_GROUPS": GROUPS,
    }


@pytest.fixture(scope="module")
def running(own_env: dict[str, str]) -> Iterator[Service]:
    for project in (SHOP, CLINIC):
        new_key(own_env["DATABASE_URL"], project)
    port = free_port()
    # Another site than the provider's, for the browser: cookies are strict about sites, not about ports.
    own_env["EVERTHREAD_OIDC_REDIRECT_URL"] = f"http://localhost:{port}{CALLBACK}"
    service = Service("--port", str(port), env=own_env)
    yield service
    assert service.stop() == 0


@pytest.fixture
def project(running: Service, own_env: dict[str, str], tmp_path: Path) -> Project:
    """The project that people sign in to."""
    project = Project(running, own_env, tmp_path)
    project.name = SHOP
    return project


class Visitor:
    """A browser of one person, without scripts, at an address of its own."""

    def __init__(self, service: Service, front: Front, subject: str | None = None, **claims: Any) -> None:
        self.front = front
        self.subject = subject or uuid4().hex
        if claims:
            front.set_claims(self.subject, **claims)
        number = next(_addresses)
        address = f"127.0.{1 + number // 250}.{1 + number % 250}"
        self.http = httpx2.Client(
            base_url=service.url, transport=httpx2.HTTPTransport(local_address=address), timeout=60
        )

    def begin(self, **asked: str) -> str:
        """Begin to sign in. Returns the URL at the provider."""
        answer = self.http.get("/console/sign-in/oidc", params=asked)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def approved(self, **asked: str) -> str:
        """Begin to sign in and do so at the provider. Returns the path and query of the callback."""
        parts = urlsplit(self.front.approve(self.begin(**asked), self.subject))
        assert parts.path == CALLBACK
        return f"{parts.path}?{parts.query}"

    def sign_in(self, **asked: str) -> httpx2.Response:
        return self.http.get(self.approved(**asked))

    @property
    def is_signed_in(self) -> bool:
        return self.api("GET", "/project").status_code == 200

    def api(self, method: str, path: str, **body: Any) -> httpx2.Response:
        """Call the API as the console's scripts do."""
        page = self.http.get("/console/threads").text
        proof = re.search(r'name="csrf-token" content="(\w+)"', page)
        headers = {} if proof is None else {"X-CSRF-Token": proof[1]}
        return self.http.request(method, f"/console/api{path}", headers=headers, json=body or None)


def message(answer: httpx2.Response) -> str:
    found = re.search(r'role="alert">([^<]*)<', answer.text)
    assert found is not None, answer.text
    return html.unescape(found[1])


def sql(env: dict[str, str], statement: str, *arguments: Any) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(env["DATABASE_URL"])
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium here")
def test_a_person_signs_in_in_a_browser_is_named_in_the_trail_and_signs_out(
    running: Service, front: Front, project: Project
) -> None:
    subject = uuid4().hex
    front.set_claims(subject, name="Ada Lovelace", email="ada@example.com", groups=["auditors", "others"])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(locale="en-US")
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route("https://**", lambda route: route.abort())  # The provider's page has a style sheet elsewhere.
        console = running.url.replace("127.0.0.1", "localhost") + "/console"
        page.goto(f"{console}/usage?model=qwen")
        assert violations(page) == []
        page.get_by_role("link", name="Sign in with 127.0.0.1").click(no_wait_after=True)
        page.locator("input[name=sub]").fill(subject)
        page.get_by_role("button", name="Authorize").click(no_wait_after=True)
        page.wait_for_url("**/console/usage?model=qwen")
        expect(page.locator("header .person .label")).to_have_text("Ada Lovelace <ada@example.com>")
        page.set_viewport_size({"width": 375, "height": 720})
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        page.set_viewport_size({"width": 1280, "height": 720})
        (cookie,) = context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
            SESSION, True, "Strict", "/console",
        )  # fmt: skip
        page.goto(f"{console}/audit?action=key.signed_in")
        expect(page.locator("tbody tr").first).to_contain_text("Ada Lovelace <ada@example.com>")
        expect(page.locator("header nav a")).to_have_text(["Threads", "Failures", "Now", "Usage", "Audit"])
        page.click("text=Sign out")
        page.goto(f"{console}/usage")
        assert "/console/sign-in" in page.url
        assert wrong == []
        browser.close()


def test_groups_give_scopes_and_nothing_more(running: Service, front: Front) -> None:
    reader = Visitor(running, front, groups=["auditors"])
    assert reader.sign_in().status_code == 200
    assert reader.api("GET", "/threads").status_code == 200
    assert reader.api("GET", "/audit").status_code == 200
    for method, path, body in (("POST", "/threads", {"title": "Mine"}), ("GET", "/admin/projects", {})):
        refused = reader.api(method, path, **body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    # Groups of one project add up; one name is a list of one.
    both = Visitor(running, front, groups=["support", "cn=staff,dc=example"])
    both.sign_in()
    assert both.api("POST", "/threads", title="Ours").status_code == 201
    assert both.api("GET", "/audit").status_code == 200
    single = Visitor(running, front, groups="support")
    single.sign_in()
    assert single.api("POST", "/threads", title="Ours").status_code == 201
    assert single.api("GET", "/audit").status_code == 403


def test_the_trail_names_the_person_who_has_read_a_thread_in_the_console(
    running: Service, front: Front, project: Project
) -> None:
    ada = Visitor(running, front, groups=["support"], name="Ada", email="ada@example.com")
    auditor = Visitor(running, front, groups=["auditors"], name="Al", email="al@example.com")
    admin = Visitor(running, front, groups=["admins"])
    for visitor in (ada, auditor, admin):
        visitor.sign_in()
    thread = admin.api("POST", "/threads", title="A talk").json()["id"]
    admin.api("POST", f"/threads/{thread}/turns", input="Echo: secret")
    for place in ("", "/about", "/tree", "/replay"):
        assert ada.http.get(f"/console/threads/{thread}{place}").status_code == 200
    assert ada.api("GET", f"/threads/{thread}/messages").status_code == 200
    assert ada.http.get("/console/threads", params={"q": "secret"}).status_code == 200
    found = admin.api("GET", f"/threads/{thread}/audit?action=thread.read&order=asc").json()
    assert [(found["names"][record["actor"]["key"]], record["detail"]) for record in found["data"]] == [
        ("Ada <ada@example.com>", "conversation in the console"), ("Ada <ada@example.com>", "thread in the console"),
        ("Ada <ada@example.com>", "chain in the console"),
    ]  # fmt: skip
    assert "Ada" not in str(found["data"])
    assert project.verify().problems == []
    # The console shows it to auditors, and to nobody else.
    place = f"/console/threads/{thread}"
    for language, said, label in (("en", "Who read", "Recorded reads"), ("zh-CN", "谁读过", "记录的读取")):
        headers = {"Accept-Language": language}
        for link, page in ((f"{place}/trail", place), ("/console/audit", "/console/audit")):
            text = auditor.http.get(page, headers=headers).text
            assert (f'{link}?action=thread.read"' in text, said in text) == (True, True)
        assert said not in ada.http.get(place, headers=headers).text
        settings = admin.http.get("/console/settings", headers=headers).text
        assert ('<option value="staff" selected>' in settings, label in settings) == (True, True)
    shown = auditor.http.get(f"{place}/trail", params={"action": "thread.read"}).text
    assert "Ada &lt;ada@example.com&gt;" in shown
    assert "conversation in the console" in shown


def test_the_trail_names_the_person_and_verifies(running: Service, front: Front, project: Project) -> None:
    ada = Visitor(running, front, groups=["admins"], name="Ada", email="ada@example.com", email_verified=False)
    bob = Visitor(running, front, groups=["admins"], preferred_username="bob\u202e", email="bob@example.com")
    for visitor in (ada, bob):
        visitor.sign_in()
    thread = ada.api("POST", "/threads", title="Hers").json()["id"]
    bob.api("PATCH", f"/threads/{thread}", title="His")
    listed = bob.api("GET", f"/threads/{thread}/audit").json()
    changed, created = listed["data"]
    names = [listed["names"][record["actor"]["key"]] for record in (created, changed)]
    # An address that nobody has verified is not shown: it could be anybody's.
    assert names == [f"Ada <{ada.subject}>", "bob <bob@example.com>"]
    signed_in = bob.api("GET", f"/audit?action=key.signed_in&key={changed['actor']['key']}").json()["data"]
    assert [record["detail"] for record in signed_in] == [
        f"{changed['actor']['key']} read,write,audit,admin bob <bob@example.com> [{front.issuer} {bob.subject}]"
    ]
    assert signed_in[0]["actor"]["address"] is not None
    assert project.verify().problems == []
    project.run(
        lambda database, id_: database.fetch(
            "UPDATE api_keys SET subject = $2 WHERE project_id = $1 AND subject LIKE $3 RETURNING id",
            id_, f"{front.issuer} {bob.subject}2", f"%{bob.subject}",
        )
    )  # fmt: skip
    assert [problem.what for problem in project.verify().problems] == [
        f"{changed['actor']['key']}: it is not what was recorded"
    ]
    project.run(
        lambda database, id_: database.fetch(
            "UPDATE api_keys SET subject = $2 WHERE project_id = $1 AND subject = $3 RETURNING id",
            id_, f"{front.issuer} {bob.subject}", f"{front.issuer} {bob.subject}2",
        )
    )  # fmt: skip
    assert project.verify().problems == []


def signed(**changes: Any) -> Forgery:
    """A token that is signed as it should be, with other claims; None removes one."""

    def forgery(front: Front, claims: dict[str, Any]) -> str:
        changed = {**claims, **changes}
        return front.sign({name: value for name, value in changed.items() if value is not None})

    return forgery


def by_stranger(front: Front, claims: dict[str, Any]) -> str:
    return front.sign(claims, key=rsa.generate_private_key(65537, 2048))


def with_public_key_as_secret(front: Front, claims: dict[str, Any]) -> str:
    def part(content: bytes) -> str:
        return jwt.utils.base64url_encode(content).decode()

    # By hand: the library refuses to sign so.
    signing = f"{part(json.dumps({'alg': 'HS256', 'kid': 'front'}).encode())}.{part(json.dumps(claims).encode())}"
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{signing}.{part(signature.sign(signing.encode(), front.public_pem))}"


FORGERIES: dict[str, Forgery] = {
    "another audience": signed(aud="another client"),
    "no audience": signed(aud=None),
    "more audiences, for another party": signed(aud=[CLIENT, "another client"], azp="another client"),
    "more audiences, for nobody in particular": signed(aud=[CLIENT, "another client"]),
    "another party": signed(azp="another client"),
    "another issuer": signed(iss="https://login.example.com"),
    "no issuer": signed(iss=None),
    "an issuer that begins with this one": lambda front, claims: signed(iss=f"{front.issuer}.example.com")(
        front, claims
    ),
    "another nonce": signed(nonce="another"),
    "no nonce": signed(nonce=None),
    "expired": signed(**expired(90)),
    "no end": signed(exp=None),
    "issued in the future": signed(iat=2**33, exp=2**33 + 60),
    "no subject": signed(sub=None),
    "an empty subject": signed(sub=""),
    "a subject that is no text": signed(sub=7),
    "a subject of two lines": signed(sub="a\nb"),
    "no signature": lambda front, claims: front.sign(claims, "none", key="", kid="front"),
    "signed by somebody else": by_stranger,
    "signed with the public key as a secret": with_public_key_as_secret,
    "signed with a published secret": lambda front, claims: front.sign(
        claims, "HS256", key=front.state.shared, kid="shared"
    ),
    "signed with a key for encryption": lambda front, claims: front.sign(claims, kid="encryption"),
    "an algorithm that the key is not for": lambda front, claims: front.sign(claims, "RS512"),
    "an unknown kid": lambda front, claims: front.sign(claims, kid="another"),
    "no kid where there are several keys": lambda front, claims: front.sign(claims, kid=None),
    "no token": lambda front, claims: "",
    "deeply nested": lambda front, claims: ".".join(
        jwt.utils.base64url_encode(part).decode() for part in (b"[" * 20_000, b"{}", b"")
    ),
    "an endless token": lambda front, claims: front.sign({**claims, "more": "x" * 100_000}),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_no_other_id_token_begins_a_session(running: Service, front: Front, kind: str) -> None:
    visitor = Visitor(running, front, groups=["admins"])
    with front.giving(FORGERIES[kind]):
        refused = visitor.sign_in()
    assert (refused.status_code, message(refused)) == (403, oidc.REFUSED)
    assert SESSION not in visitor.http.cookies
    assert not visitor.is_signed_in


def test_a_token_that_is_right_in_another_form_begins_one(running: Service, front: Front) -> None:
    """The forgeries above are refused for what is wrong with them."""
    for forgery in (signed(), signed(aud=[CLIENT], azp=CLIENT), signed(aud=[CLIENT, "other"], azp=CLIENT)):
        visitor = Visitor(running, front, groups=["admins"])
        with front.giving(forgery):
            assert visitor.sign_in().status_code == 200
        assert visitor.is_signed_in


def test_a_code_or_state_of_another_browser_begins_no_session(running: Service, front: Front) -> None:
    victim, attacker = (Visitor(running, front, groups=["admins"]) for _ in range(2))
    victim.begin()
    injected = attacker.approved()
    code = parse_qs(urlsplit(injected).query)["code"][0]
    not_begun = oidc.NOT_BEGUN.format(host="localhost")
    # The attacker's whole answer: its state is not this browser's.
    refused = victim.http.get(injected)
    assert (refused.status_code, message(refused)) == (403, not_begun)
    # The attacker's code with the victim's state: it was given for another code challenge and nonce.
    fresh = Visitor(running, front)
    state = parse_qs(urlsplit(fresh.begin()).query)["state"][0]
    refused = fresh.http.get(f"{CALLBACK}?code={code}&state={state}")
    assert (refused.status_code, message(refused)) == (403, oidc.REFUSED)
    # Without the cookie, with an altered one, with an empty state.
    for cookie, given in ((None, state), ("x" + "." * 2, state), ("", "")):
        bare = Visitor(running, front)
        if cookie is not None:
            bare.http.cookies.set(STATE, cookie, domain="127.0.0.1", path="/console/sign-in/oidc")
        refused = bare.http.get(f"{CALLBACK}?code={code}&state={given}")
        assert (refused.status_code, message(refused)) == (403, not_begun)
    for visitor in (victim, fresh):
        assert not visitor.is_signed_in


def test_the_state_is_kept_from_scripts_and_other_sites(running: Service, front: Front) -> None:
    answer = Visitor(running, front).http.get("/console/sign-in/oidc")
    (cookie,) = answer.headers.get_list("set-cookie")
    assert cookie.lower().endswith("; httponly; max-age=600; path=/console/sign-in/oidc; samesite=lax")
    said = jwt.decode(cookie.partition("=")[2].partition(";")[0], options={"verify_signature": False})
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["state"] == [said["state"]]
    assert set(said) == {"state", "next", "project", "exp"}
    assert {name: value[0] for name, value in asked.items() if name not in ("state", "nonce", "code_challenge")} == {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": running.url.replace("127.0.0.1", "localhost") + CALLBACK,
        "scope": "openid profile email",
        "code_challenge_method": "S256",
    }


def test_a_used_answer_begins_no_other_session(running: Service, front: Front) -> None:
    visitor = Visitor(running, front, groups=["admins"])
    callback = visitor.approved()
    begun = visitor.http.cookies[STATE]
    with front.accepting_codes_twice():
        assert visitor.http.get(callback).status_code == 200
        assert visitor.is_signed_in
        assert STATE not in visitor.http.cookies
        refused = visitor.http.get(callback)
        assert message(refused) == oidc.NOT_BEGUN.format(host="localhost")
        for _ in range(2):  # Also after the sign-out.
            again = Visitor(running, front)
            again.http.cookies.set(STATE, begun, domain="127.0.0.1", path="/console/sign-in/oidc")
            refused = again.http.get(callback)
            assert (refused.status_code, message(refused)) == (403, oidc.USED)
            assert not again.is_signed_in
            visitor.http.post("/console/sign-out")


@pytest.mark.parametrize(
    "next_",
    ["https://evil.example", "//evil.example", "/console/\\evil.example", "/console//evil.example", "/v1/threads",
     "/console/\n", "/console/%2e%2e/v1/usage", "/console/../v1/usage", "/console/" + "x" * 1000,
     "javascript:alert(1)"],
)  # fmt: skip
def test_the_sign_in_leads_to_pages_of_the_console_alone(running: Service, front: Front, next_: str) -> None:
    visitor = Visitor(running, front, groups=["admins"])
    answer = visitor.sign_in(next=next_)
    assert re.findall(r'http-equiv="refresh" content="([^"]*)"', answer.text) == ["0; url=/console/threads"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


def test_the_page_that_was_asked_for_is_opened(running: Service, front: Front) -> None:
    visitor = Visitor(running, front, groups=["admins"])
    asked = visitor.http.get("/console/audit?user=a%20b").headers["location"]
    page = visitor.http.get(asked).text
    (link,) = re.findall(r'href="(/console/sign-in/oidc[^"]*)"', page)
    location = visitor.http.get(html.unescape(link)).headers["location"]
    parts = urlsplit(front.approve(location, visitor.subject))
    answer = visitor.http.get(f"{parts.path}?{parts.query}")
    assert 'content="0; url=/console/audit?user=a%20b"' in answer.text


def test_who_is_in_no_group_gets_no_session_and_reads_what_to_ask_for(running: Service, front: Front) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"groups": ["others", "support2", "Support"]}, "Your groups: Support, others, support2."),
        ({"name": "Eve <script>"}, "Eve <script> <{subject}>: your sign-in names no groups."),
        ({"groups": {"support": True}}, "list your groups in the claim 'groups' of the ID token"),
        ({"groups": [["support"], 7]}, "your sign-in names no groups"),
        ({"groups": ["planners"]}, f"does not exist or is archived: {ABSENT}."),
    )
    for claims, said in cases:
        visitor = Visitor(running, front, **claims)
        refused = visitor.sign_in()
        assert refused.status_code == 403
        assert said.replace("{subject}", visitor.subject) in message(refused)
        assert not visitor.is_signed_in
    assert any(ABSENT in line and "projects create" in line for line in running.process.lines)


def test_the_provider_may_refuse(running: Service, front: Front) -> None:
    visitor = Visitor(running, front, groups=["admins"])
    state = parse_qs(urlsplit(visitor.begin()).query)["state"][0]
    refused = visitor.http.get(f"{CALLBACK}?error=access_denied&error_description=Call+0900&state={state}")
    assert message(refused) == oidc.REFUSED
    for more in ({"iss": "https://login.example.com"}, {"code": "x" * 5000}):
        given = {"code": "x", "state": parse_qs(urlsplit(visitor.begin()).query)["state"][0], **more}
        assert message(visitor.http.get(CALLBACK, params=given)) == oidc.REFUSED


def test_guessing_codes_is_slowed_down(running: Service, front: Front) -> None:
    visitor = Visitor(running, front, groups=["admins"])
    answers = []
    for _ in range(11):
        state = parse_qs(urlsplit(visitor.begin()).query)["state"][0]
        answers.append(visitor.http.get(CALLBACK, params={"code": "x", "state": state}).status_code)
    assert answers == [403] * 10 + [429]


def test_a_person_with_several_projects_chooses_one(running: Service, front: Front) -> None:
    visitor = Visitor(running, front, groups=["admins", "doctors"])
    choice = visitor.sign_in(next="/console/usage")
    assert choice.status_code == 200
    assert not visitor.is_signed_in
    links = re.findall(r'href="(/console/sign-in/oidc\?[^"]*)">([^<]*)<', choice.text)
    assert [name for _, name in links] == [CLINIC, SHOP]
    location = visitor.http.get(html.unescape(links[0][0])).headers["location"]
    parts = urlsplit(front.approve(location, visitor.subject))
    answer = visitor.http.get(f"{parts.path}?{parts.query}")
    assert 'url=/console/usage"' in answer.text
    assert visitor.api("GET", "/project").json()["name"] == CLINIC
    assert visitor.api("POST", "/threads", title="Mine").status_code == 403
    # A project that the groups do not give is no choice.
    other = Visitor(running, front, groups=["doctors"])
    other.sign_in(project=SHOP)
    assert other.api("GET", "/project").json()["name"] == CLINIC


def test_a_session_ends_with_its_sign_out_its_time_and_the_persons_groups(
    running: Service, front: Front, own_env: dict[str, str]
) -> None:
    visitor, other = (Visitor(running, front, groups=["admins"]) for _ in range(2))
    for each in (visitor, other):
        each.sign_in()
    kept = visitor.http.cookies[SESSION]
    assert visitor.http.post("/console/sign-out").status_code == 303
    visitor.http.cookies.set(SESSION, kept, domain="127.0.0.1", path="/console")
    assert not visitor.is_signed_in
    assert other.is_signed_in
    of_other = "project_id IN (SELECT project_id FROM api_keys WHERE subject = $1) AND key_id IN " \
        "(SELECT id FROM api_keys WHERE subject = $1)"  # fmt: skip
    subject = f"{front.issuer} {other.subject}"
    (life,) = sql(own_env, f"SELECT extract(epoch FROM expires_at - now()) AS left FROM console_sessions "
                           f"WHERE {of_other}", subject)  # fmt: skip
    assert 0 < life["left"] <= 12 * 3600
    sql(own_env, f"UPDATE console_sessions SET expires_at = now() WHERE {of_other}", subject)
    assert not other.is_signed_in
    # Fewer groups at the next sign-in: sessions in other browsers have no more than those.
    other.sign_in()
    second = Visitor(running, front, other.subject, groups=["auditors"])
    second.sign_in()
    assert second.api("POST", "/threads", title="Mine").status_code == 403
    eventually(lambda: other.http.get("/console/threads").status_code != 200)
    third = Visitor(running, front, other.subject, groups=["others"])
    assert third.sign_in().status_code == 403
    eventually(lambda: second.http.get("/console/threads").status_code == 303)


def test_browsers_of_one_person_that_come_at_once_have_one_row(
    running: Service, front: Front, own_env: dict[str, str]
) -> None:
    first = Visitor(running, front, groups=["admins"])
    visitors = [first, *(Visitor(running, front, first.subject) for _ in range(5))]
    callbacks = [visitor.approved() for visitor in visitors]
    with ThreadPoolExecutor(len(visitors)) as pool:
        answers = list(pool.map(lambda visitor, path: visitor.http.get(path), visitors, callbacks))
    assert [answer.status_code for answer in answers] == [200] * len(visitors)
    assert all(visitor.is_signed_in for visitor in visitors)
    rows = sql(own_env, "SELECT id FROM api_keys WHERE subject = $1", f"{front.issuer} {first.subject}")
    assert len(rows) == 1


def test_a_project_has_room_for_a_thousand_people(running: Service, front: Front, own_env: dict[str, str]) -> None:
    known, new = (Visitor(running, front, groups=["doctors"]) for _ in range(2))
    known.sign_in()
    filled = sql(
        own_env,
        "INSERT INTO api_keys (project_id, id, name, key_hash, hint, scopes, subject) SELECT project_id, "
        "gen_random_uuid(), 'one', sha256(number::text::bytea), '', '{read}', 'https://login.example.com ' || number "
        "FROM projects, generate_series(1, 1000) AS number WHERE name = $1 RETURNING id",
        CLINIC,
    )
    try:
        refused = new.sign_in()
        assert (refused.status_code, message(refused)) == (403, oidc.NO_ROOM.format(name=new.subject))
        assert known.sign_in().status_code == 200
    finally:
        sql(own_env, "DELETE FROM api_keys WHERE id = ANY($1::uuid[])", [row["id"] for row in filled])


def test_an_admin_revokes_a_person_like_a_key_and_nobody_has_that_key(running: Service, front: Front) -> None:
    admin, ada = (Visitor(running, front, groups=["admins"], name=name) for name in ("Grace", "Ada"))
    for each in (admin, ada):
        each.sign_in()
    project = admin.api("GET", "/project").json()["id"]
    keys = f"/admin/projects/{project}/keys"
    (row,) = (key for key in admin.api("GET", keys).json()["data"] if (key["subject"] or "").endswith(ada.subject))
    assert (row["name"], row["hint"]) == (f"Ada <{ada.subject}>", "")
    # Rotation would give a key that acts in the person's name.
    refused = admin.api("POST", f"{keys}/{row['id']}/rotate")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "key_not_found")
    assert ada.is_signed_in
    page = admin.http.get("/console/settings").text
    assert 'aria-label="Revoke Ada' in page
    assert 'aria-label="Rotate Ada' not in page
    assert admin.api("DELETE", f"{keys}/{row['id']}").status_code == 200
    eventually(lambda: ada.http.get("/console/threads").status_code == 303)
    ada.sign_in()
    again = [key["id"] for key in admin.api("GET", keys).json()["data"] if (key["subject"] or "").endswith(ada.subject)]
    assert len(again) == 2


def test_neither_secrets_nor_tokens_are_in_a_log_or_a_url(running: Service, front: Front) -> None:
    visitor = Visitor(running, front, groups=["admins"])
    location = visitor.begin()
    callback = front.approve(location, visitor.subject)
    code = parse_qs(urlsplit(callback).query)["code"][0]
    visitor.http.get(callback[callback.index(CALLBACK) :])
    with front.giving(signed(aud="another client")):
        Visitor(running, front, groups=["admins"]).sign_in()
    said = "\n".join(running.process.lines)
    assert "InvalidAudienceError" in said
    assert SECRET not in location
    assert quote(SECRET, safe="") not in location
    assert len(front.state.tokens) >= 4
    for secret in (SECRET, code, visitor.http.cookies[SESSION], *front.state.tokens):
        assert not secret or secret not in said


def test_keys_can_be_turned_off(running: Service, front: Front, own_env: dict[str, str]) -> None:
    port = free_port()
    env = {
        **own_env,
        "EVERTHREAD_OIDC_REDIRECT_URL": f"http://127.0.0.1:{port}{CALLBACK}",
        "EVERTHREAD_CONSOLE_KEYS": "false",
    }
    service = Service("--port", str(port), env=env)
    keyed, person = Visitor(running, front), Visitor(service, front, groups=["admins"])
    keyed.http.post("/console/sign-in", data={"key": running.key})
    assert keyed.is_signed_in
    person.http.cookies.set(SESSION, keyed.http.cookies[SESSION], domain="127.0.0.1", path="/console")
    assert not person.is_signed_in
    page = person.http.get("/console/sign-in").text
    assert 'id="key"' not in page
    assert "/console/sign-in/oidc" in page
    refused = person.http.post("/console/sign-in", data={"key": running.key})
    assert (refused.status_code, message(refused)) == (403, session.NO_KEYS)
    person.http.cookies.clear()
    person.sign_in()
    assert person.is_signed_in
    assert service.stop() == 0


def test_without_an_issuer_nothing_of_it_is_there(service: Service) -> None:
    assert "oidc" not in httpx2.get(f"{service.url}/console/sign-in").text
    for path in ("/console/sign-in/oidc", CALLBACK):
        answer = httpx2.get(service.url + path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")


RIGHT: dict[str, Any] = {
    "oidc_issuer": "https://login.example.com",
    "oidc_client_id": "console",
    "oidc_client_secret": "secret",
    "oidc_redirect_url": f"https://chat.example.com{CALLBACK}",
    "oidc_groups": "support=shop:read",
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"oidc_client_secret": None, "oidc_groups": None}, "needs EVERTHREAD_OIDC_CLIENT_SECRET and"),
        ({"oidc_issuer": None}, "needs EVERTHREAD_OIDC_ISSUER"),
        ({"oidc_issuer": "http://login.example.com"}, "EVERTHREAD_OIDC_ISSUER must begin with https://"),
        ({"oidc_issuer": "login.example.com"}, "EVERTHREAD_OIDC_ISSUER must be a URL"),
        ({"oidc_issuer": "https://a:b@login.example.com"}, "must have no user"),
        ({"oidc_redirect_url": "https://chat.example.com/callback"}, f"must end with {CALLBACK}. Set it to https://HOST"),
        ({"oidc_redirect_url": f"http://chat.example.com{CALLBACK}"}, "must begin with https://"),
        ({"oidc_groups": "support=shop:read,delete"}, "unknown scope 'delete'. Scopes are read, write, audit, admin"),
        ({"oidc_groups": "support=shop"}, "form"),
        ({"oidc_groups": "support=shop:"}, "unknown scope ''"),
        ({"oidc_groups": "support"}, "is not of the form GROUP=PROJECT:SCOPES"),
        ({"oidc_scope": "profile"}, "EVERTHREAD_OIDC_SCOPE must contain 'openid'"),
        ({**dict.fromkeys(RIGHT), "console_keys": False}, "nobody could sign in to the console"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_what_to_do(changed: dict[str, Any], said: str) -> None:
    oidc_config(Settings(**RIGHT))
    with pytest.raises(BadOidc) as found:
        oidc_config(Settings(**{**RIGHT, **changed}))
    assert said in str(found.value)


def test_the_service_does_not_start_with_a_wrong_setting(service_env: dict[str, str]) -> None:
    process = Process("serve", env={**service_env, "EVERTHREAD_OIDC_ISSUER": "https://login.example.com"})
    assert process.ended() == 1
    assert "Sign-in with OpenID Connect also needs EVERTHREAD_OIDC_CLIENT_ID and" in process.lines[-1]


def test_the_doctor_asks_the_provider(own_env: dict[str, str], running: Service) -> None:
    lines = lines_of("doctor", env=own_env)[1]
    assert lines[0].startswith("settings:")
    assert ABSENT in lines[0]
    away = {**own_env, "EVERTHREAD_OIDC_ISSUER": f"http://127.0.0.1:{free_port()}"}
    assert "Check EVERTHREAD_OIDC_ISSUER" in lines_of("doctor", env=away)[1][0]
    wrong = {**own_env, "EVERTHREAD_OIDC_GROUPS": "support"}
    assert "GROUP=PROJECT:SCOPE" in lines_of("doctor", env=wrong)[1][0]


WRONG_ANSWERS: dict[str, tuple[int, dict[str, str], Any]] = {
    "an error": (500, {}, {}),
    "a redirect": (302, {"Location": "/elsewhere"}, {}),
    "a list": (200, {}, []),
    "another issuer": (200, {}, {"issuer": "https://login.example.com"}),
    "no endpoints": (200, {}, {}),
    "an endpoint without TLS": (200, {}, {"token_endpoint": "http://login.example.com/token"}),
    "an endpoint that is a script": (200, {}, {"authorization_endpoint": "javascript:alert(1)"}),
    "an endless answer": (200, {}, {"more": "x" * 1_000_000}),
}


@pytest.mark.parametrize("kind", WRONG_ANSWERS)
def test_a_discovery_document_is_read_with_bounds(kind: str) -> None:
    status, headers, body = WRONG_ANSWERS[kind]
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            issuer = f"http://127.0.0.1:{server.server_port}"
            right = {
                "issuer": issuer, "authorization_endpoint": f"{issuer}/a", "token_endpoint": f"{issuer}/t",
                "jwks_uri": f"{issuer}/k",
            }  # fmt: skip
            unnamed = kind == "no endpoints"
            content = json.dumps(
                body if isinstance(body, list) else {**({"issuer": issuer} if unnamed else right), **body}
            ).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()

    async def twice() -> None:
        config = oidc_config(Settings(**RIGHT))
        assert config is not None
        provider = IdentityProvider(replace(config, issuer=f"http://127.0.0.1:{server.server_port}"))
        try:
            for _ in range(2):
                with pytest.raises(ProviderFailed):
                    await provider.authorization_endpoint()
        finally:
            await provider.close()

    asyncio.run(twice())
    server.shutdown()
    server.server_close()
    thread.join()
    # Anybody can begin to sign in: a provider that fails is not asked each time.
    assert asked == ["/.well-known/openid-configuration"]


def test_a_provider_that_is_away_is_said_to_be(own_env: dict[str, str], running: Service) -> None:
    service = Service(env={**own_env, "EVERTHREAD_OIDC_ISSUER": f"http://127.0.0.1:{free_port()}"})
    refused = httpx2.get(f"{service.url}/console/sign-in/oidc")
    assert (refused.status_code, message(refused)) == (503, oidc.UNAVAILABLE)
    assert service.stop() == 0


def test_every_message_has_a_chinese_form() -> None:
    said = {value for name, value in vars(oidc).items() if name.isupper() and isinstance(value, str) and " " in value}
    assert len(said) == 9
    assert {*said, session.NO_KEYS} - set(CHINESE) == set()
    for sentence in said:
        fields = [re.findall(r"{(\w+)}", text) for text in (sentence, CHINESE[sentence])]
        assert sorted(fields[0]) == sorted(fields[1])
