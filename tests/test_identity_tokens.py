"""JWTs of customers' identity providers: each opens what its user owns in the one project that accepts it."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import openai
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.projects import key_sets
from tests.identity_provider import IdentityProvider, identity_provider
from tests.service import Service, eventually
from tests.tenants import Tenant

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def public(key: Any, kid: str | None, **fields: Any) -> dict[str, Any]:
    """The public part of a key, as a key set has it."""
    rsa_or_ec = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    name = "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else rsa_or_ec
    made = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
    return {**made, **({} if kid is None else {"kid": kid}), **fields}


class Issuer:
    """A key set at a URL, and what is signed with its keys."""

    def __init__(self) -> None:
        self.document: Any = {"keys": [public(RSA, "one")]}
        self.status, self.location, self.hold = 200, "", threading.Event()
        self.hold.set()
        self.asked = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.hold.wait(20)
                body = issuer.document if isinstance(issuer.document, bytes) else json.dumps(issuer.document).encode()
                self.send_response(issuer.status)
                if issuer.location:
                    self.send_header("Location", issuer.location)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(time.time())
        said = {"iss": self.url, "aud": "app", "sub": "ann", "iat": now - 1, "exp": now + 600, **changed}
        return {name: value for name, value in said.items() if value is not ...}

    def token(
        self, key: Any = RSA, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **changed: Any
    ) -> str:
        return jwt.encode(
            self.claims(**changed), key, algorithm, headers={"kid": "one"} if headers is None else headers
        )


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture(scope="module")
def inside(service_env: dict[str, str]) -> Iterator[Service]:
    """A service whose projects may name key sets of the local machine."""
    service = Service(env={**service_env, "EVERTHREAD_IDENTITY_PROVIDERS_INSIDE": "true"})
    yield service
    assert service.stop() == 0


@pytest.fixture
def tenant(inside: Service) -> Tenant:
    return Tenant(inside)


def entry(of: Issuer, **fields: Any) -> dict[str, Any]:
    return {"issuer": of.url, "jwks_url": f"{of.url}/jwks", "audience": "app", **fields}


def accept(tenant: Tenant, *providers: dict[str, Any]) -> httpx2.Response:
    return tenant.http.patch(f"/admin/projects/{tenant.id}", json={"identity_providers": list(providers)})


def ask(tenant: Tenant, token: str, method: str = "GET", path: str = "/threads", **how: Any) -> httpx2.Response:
    url = f"{tenant.service.url}/v1{path}"
    return httpx2.request(method, url, headers={"Authorization": f"Bearer {token}"}, timeout=30, **how)


def status(tenant: Tenant, token: str) -> int:
    return ask(tenant, token).status_code


def code_of(answer: httpx2.Response) -> Any:
    return answer.json()["error"]["code"]


@pytest.fixture(scope="module")
def real_provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        yield provider


def test_user_of_a_real_identity_provider_holds_a_conversation(tenant: Tenant, real_provider: IdentityProvider) -> None:
    client_id = uuid4().hex
    provider = {"issuer": real_provider.issuer, "jwks_url": real_provider.jwks_url, "audience": client_id}
    answer = accept(tenant, provider)
    assert answer.status_code == 200, answer.text
    assert answer.json()["identity_providers"] == [
        {**provider, "algorithms": ["RS256"], "leeway_seconds": 10, "actions": ["read", "write"],
         "subject_is_user": False}
    ]  # fmt: skip
    token = real_provider.id_token("ann", client_id)
    client = openai.OpenAI(base_url=f"{tenant.service.url}/v1", api_key=token, max_retries=0)
    first = client.responses.create(model="qwen3.5-plus", input="My name is Ada.")
    second = client.responses.create(
        model="qwen3.5-plus", input="What is my name?", previous_response_id=first.id, stream=True
    )
    assert [event.response.output_text for event in second if event.type == "response.completed"] == ["Ada"]
    (thread,) = tenant.http.get("/threads").json()["data"]
    assert thread["user"] == f"{real_provider.issuer}#ann"
    # A token for another client of the same issuer is for somebody else.
    assert status(tenant, real_provider.id_token("ann", uuid4().hex)) == 401


def test_user_reaches_nobody_elses_threads(tenant: Tenant, issuer: Issuer) -> None:
    """Not to be reached: threads of other subjects, other issuers, plain users of the same name, other projects."""
    other = Issuer()
    try:
        assert accept(tenant, entry(issuer), entry(other)).status_code == 200
        token = issuer.token()
        mine = ask(tenant, token, "POST", json={}).json()["id"]
        theirs = [
            tenant.http.post("/threads", json={"user": user}).json()["id"]
            for user in ("ann", f"{issuer.url}#bob", f"{other.url}#ann", f"{issuer.url}#ann#x")
        ]
        neighbour = Tenant(tenant.service)
        theirs.append(neighbour.http.post("/threads", json={"user": f"{issuer.url}#ann"}).json()["id"])
        for thread in theirs:
            assert ask(tenant, token, path=f"/threads/{thread}").status_code == 404
        assert [each["id"] for each in ask(tenant, token).json()["data"]] == [mine]
        # The other issuer's key signs for the other issuer only.
        other.document = {"keys": [public(OTHER_RSA, "one")]}
        assert status(tenant, other.token(OTHER_RSA)) == 200
        assert status(tenant, other.token(OTHER_RSA, iss=issuer.url)) == 401
        assert status(tenant, issuer.token(iss=other.url)) == 401
    finally:
        other.close()


def test_an_issuers_subjects_are_the_projects_users_where_it_says_so(tenant: Tenant, issuer: Issuer) -> None:
    other = Issuer()
    try:
        assert accept(tenant, entry(issuer, subject_is_user=True), entry(other)).status_code == 200
        theirs = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
        assert [each["id"] for each in ask(tenant, issuer.token()).json()["data"]] == [theirs]
        assert ask(tenant, other.token()).json()["data"] == []
        # It names no user of another issuer, and no anonymous user.
        for subject in (f"{other.url}#ann", "a#b", f"anon_{'0' * 32}"):
            assert status(tenant, issuer.token(sub=subject)) == 401, subject
        assert ask(tenant, other.token(sub="a#b"), "POST", json={}).json()["user"] == f"{other.url}#a#b"
    finally:
        other.close()


def unsigned(claims: dict[str, Any], head: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(head).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in parts)


def pem(key: Any) -> bytes:
    public_bytes: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public_bytes


def hs256(claims: dict[str, Any], secret: bytes, kid: str = "one") -> str:
    """Sign with HMAC by hand: the library refuses a public key as a secret."""
    head = unsigned(claims, {"alg": "HS256", "typ": "JWT", "kid": kid}).rpartition(".")[0]
    made = jwt.get_algorithm_by_name("HS256").sign(head.encode(), secret)
    return f"{head}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


NOW = time.time

CONFUSED: dict[str, Callable[[Issuer], str]] = {
    "alg none": lambda i: unsigned(i.claims(), {"alg": "none", "kid": "one"}),
    "alg None": lambda i: unsigned(i.claims(), {"alg": "None", "kid": "one"}),
    "alg missing": lambda i: unsigned(i.claims(), {"kid": "one"}),
    "alg a list": lambda i: unsigned(i.claims(), {"alg": ["RS256"], "kid": "one"}),
    "alg a number": lambda i: unsigned(i.claims(), {"alg": 1, "kid": "one"}),
    "alg HS256 with the public key": lambda i: hs256(i.claims(), pem(RSA)),
    "alg HS256 with the key set": lambda i: hs256(i.claims(), json.dumps(public(RSA, "one")).encode()),
    "alg HS256 with a symmetric key of the set": lambda i: hs256(i.claims(), b"x" * 32, "symmetric"),
    "alg not listed": lambda i: i.token(algorithm="PS256"),
    "alg of another type than the key": lambda i: i.token(P256, "ES256"),
    "alg of another curve than the key": lambda i: i.token(P384, "ES384", {"kid": "curve"}),
    "alg other than the key's": lambda i: i.token(algorithm="RS512", headers={"kid": "one-256"}),
    "key too small": lambda i: i.token(SMALL_RSA, headers={"kid": "small"}),
    "key for encryption": lambda i: i.token(OTHER_RSA, headers={"kid": "encryption"}),
    "another's key": lambda i: i.token(OTHER_RSA),
    "its own key in the header": lambda i: i.token(OTHER_RSA, headers={"jwk": public(OTHER_RSA, "two"), "kid": "two"}),
    "critical extension": lambda i: i.token(headers={"kid": "one", "crit": ["b64"], "b64": True}),
    "type of a logout token": lambda i: i.token(headers={"kid": "one", "typ": "logout+jwt"}),
    "kid missing where several keys suit": lambda i: i.token(headers={}),
    "kid unknown": lambda i: i.token(headers={"kid": "two"}),
    "kid of two keys": lambda i: i.token(headers={"kid": "twice"}),
    "kid like a path": lambda i: i.token(headers={"kid": "../../../dev/null"}),
    "kid like a URL": lambda i: i.token(headers={"kid": "https://evil.example/jwks"}),
    "kid like SQL": lambda i: i.token(headers={"kid": "one' OR '1'='1"}),
    "kid huge": lambda i: i.token(headers={"kid": "x" * 3000}),
    "kid a list": lambda i: unsigned(i.claims(), {"alg": "RS256", "kid": ["one"]}),
    "iss missing": lambda i: i.token(iss=...),
    "iss with a slash more": lambda i: i.token(iss=f"{i.url}/"),
    "iss of nobody": lambda i: i.token(iss="https://nobody.example"),
    "iss a list": lambda i: unsigned(i.claims(iss=[i.url]), {"alg": "RS256", "kid": "one"}),
    "iss with a NUL": lambda i: i.token(iss=f"{i.url}\0"),
    "iss with half a character": lambda i: i.token(iss="\ud800"),
    "iss our own": lambda i: i.token(iss="everthread"),
    "aud missing": lambda i: i.token(aud=...),
    "aud empty": lambda i: i.token(aud=""),
    "aud an empty list": lambda i: i.token(aud=[]),
    "aud of others": lambda i: i.token(aud=["others", "api"]),
    "aud with a NUL": lambda i: i.token(aud=["app\0"]),
    "aud of numbers": lambda i: i.token(aud=["app", 1]),
    "aud an object": lambda i: i.token(aud={"app": True}),
    "aud of very many": lambda i: i.token(aud=["app", *map(str, range(30))]),
    "aud a part": lambda i: i.token(aud="ap"),
    "sub missing": lambda i: i.token(sub=...),
    "sub empty": lambda i: i.token(sub=""),
    "sub huge": lambda i: i.token(sub="x" * 257),
    "sub too long with its issuer": lambda i: i.token(sub="x" * 250),
    "sub a number": lambda i: i.token(sub=1),
    "sub null": lambda i: i.token(sub=None),
    "sub a list": lambda i: i.token(sub=["ann"]),
    "sub with a NUL": lambda i: i.token(sub="ann\0"),
    "sub with half a character": lambda i: i.token(sub="ann\ud800"),
    "exp missing": lambda i: i.token(exp=...),
    "exp past": lambda i: i.token(exp=int(NOW()) - 20),
    "exp text": lambda i: i.token(exp="9999999999"),
    "exp true": lambda i: i.token(exp=True),
    "exp infinite": lambda i: i.token(exp=float("inf")),
    "exp not a number": lambda i: i.token(exp=float("nan")),
    "exp of many digits": lambda i: i.token(exp=10**300),
    "nbf to come": lambda i: i.token(nbf=int(NOW()) + 100),
    "nbf text": lambda i: i.token(nbf="0"),
    "iat missing": lambda i: i.token(iat=...),
    "iat to come": lambda i: i.token(iat=int(NOW()) + 100),
    "iat text": lambda i: i.token(iat="0"),
    "iat two days ago": lambda i: i.token(iat=int(NOW()) - 2 * 86_400, exp=int(NOW()) + 86_400),
    "more bytes than 8192": lambda i: i.token(more="x" * 8000),
    "claims nested deep": lambda i: unsigned({}, {"alg": "RS256"}).replace(
        ".e30.", "." + base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=") + "."
    ),
    "claims a list": lambda i: jwt.PyJWS().encode(b"[]", RSA, "RS256", {"kid": "one"}),
    "signature changed": lambda i: i.token()[:-8] + "AAAAAAAA",
    "signature missing": lambda i: i.token().rpartition(".")[0] + ".",
    "claims changed": lambda i: ".".join(
        (i.token().split(".")[0], unsigned(i.claims(sub="bob"), {}).split(".")[1], i.token().split(".")[2])
    ),
}  # fmt: skip
"""JWTs that no project accepts, by what is wrong with them."""


def test_confused_jwts_open_nothing(tenant: Tenant, issuer: Issuer) -> None:
    issuer.document = {
        "keys": [
            public(RSA, "one"),
            public(RSA, "one-256", alg="RS256"),
            public(OTHER_RSA, "encryption", use="enc"),
            public(SMALL_RSA, "small"),
            public(P256, "curve"),
            public(RSA, "twice"),
            public(OTHER_RSA, "twice"),
            {"kty": "oct", "kid": "symmetric", "k": base64.urlsafe_b64encode(b"x" * 32).decode()},
            {"kty": "RSA", "kid": "huge", "n": "A" * 5000, "e": "AQAB"},
            {"kty": ["RSA"], "kid": 1},
            "no key",
        ]
    }
    algorithms = ["RS256", "RS512", "ES256", "ES384"]
    assert accept(tenant, entry(issuer, algorithms=algorithms)).status_code == 200
    assert status(tenant, issuer.token()) == 200
    answers = {name: ask(tenant, make(issuer)) for name, make in CONFUSED.items()}
    assert {name: answer.status_code for name, answer in answers.items() if answer.status_code != 401} == {}
    assert {code_of(answer) for answer in answers.values()} == {"invalid_api_key"}
    assert status(tenant, issuer.token()) == 200


@pytest.mark.parametrize(
    ("key", "algorithm", "changed"),
    [
        (RSA, "RS512", {}),
        (RSA, "PS256", {}),
        (P256, "ES256", {}),
        (ED25519, "EdDSA", {}),
        (RSA, "RS256", {"aud": ["https://issuer.example/userinfo", "app"]}),
        (RSA, "RS256", {"iat": time.time() - 2.5, "nbf": 0}),
        (RSA, "RS256", {"sub": "auth0|5f7c8ec7c33c6c004bbafe82"}),
    ],
)
def test_valid_jwts_are_accepted(
    tenant: Tenant, issuer: Issuer, key: Any, algorithm: str, changed: dict[str, Any]
) -> None:
    # Without a kid, the one key that suits is used.
    issuer.document = {"keys": [public(RSA, None), public(P256, None), public(ED25519, None)]}
    provider = entry(issuer, algorithms=["RS256", "RS512", "PS256", "ES256", "EdDSA"])
    assert accept(tenant, provider).status_code == 200
    answer = ask(tenant, issuer.token(key, algorithm, {}, **changed), "POST", json={})
    assert answer.status_code == 201, answer.text
    assert answer.json()["user"] == f"{issuer.url}#{changed.get('sub', 'ann')}"


def test_clocks_may_differ_by_the_leeway(tenant: Tenant, issuer: Issuer) -> None:
    assert accept(tenant, entry(issuer, leeway_seconds=60)).status_code == 200
    now = int(time.time())
    accepted: list[dict[str, Any]] = [{"exp": now - 1}, {"iat": now + 30}, {"nbf": now + 30}]
    refused: list[dict[str, Any]] = [{"exp": now - 61}, {"iat": now + 10_000}, {"nbf": now + 10_000}]
    assert [status(tenant, issuer.token(**changed)) for changed in accepted] == [200] * 3
    assert [status(tenant, issuer.token(**changed)) for changed in refused] == [401] * 3
    # However late its exp, it is accepted for a day after its iat.
    assert status(tenant, issuer.token(iat=now - 86_400 + 30, exp=now + 10**6)) == 200
    assert status(tenant, issuer.token(iat=now - 86_461, exp=now + 10**6)) == 401


def test_user_of_a_jwt_claims_the_threads_of_an_anonymous_user(tenant: Tenant, issuer: Issuer) -> None:
    assert accept(tenant, entry(issuer)).status_code == 200
    nobody = tenant.http.post("/user_tokens", json={"anonymous": True}).json()["token"]
    thread = ask(tenant, nobody, "POST", json={}).json()["id"]
    # A JWT proves no anonymous user.
    refused = ask(tenant, issuer.token(), "POST", "/threads/claim", json={"token": issuer.token(sub="bob")})
    assert (refused.status_code, code_of(refused)) == (400, "invalid_anonymous_token")
    answer = ask(tenant, issuer.token(), "POST", "/threads/claim", json={"token": nobody})
    assert (answer.status_code, answer.json()["threads"]) == (200, [thread])
    assert ask(tenant, issuer.token(), path=f"/threads/{thread}").json()["user"] == f"{issuer.url}#ann"
    assert status(tenant, nobody) == 401


def test_jwt_has_the_actions_of_its_provider_and_opens_the_routes_of_user_tokens(
    tenant: Tenant, issuer: Issuer
) -> None:
    assert accept(tenant, entry(issuer, actions=["read"])).status_code == 200
    token = issuer.token()
    answer = ask(tenant, token, "POST", json={})
    assert (answer.status_code, code_of(answer)) == (403, "missing_scope")
    for method, path in (("GET", "/project"), ("GET", "/audit"), ("GET", f"/admin/projects/{tenant.id}")):
        answer = ask(tenant, token, method, path)
        assert (answer.status_code, code_of(answer)) == (403, "not_for_users")
    # A change of the project holds for JWTs that were verified before, too.
    assert accept(tenant, entry(issuer)).status_code == 200
    eventually(lambda: ask(tenant, token, "POST", json={}).status_code == 201)


def test_unknown_kids_cause_one_fetch_and_requests_share_it(tenant: Tenant, issuer: Issuer) -> None:
    assert accept(tenant, entry(issuer)).status_code == 200
    issuer.hold.clear()
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(status, tenant, issuer.token()) for _ in range(12)]
        eventually(lambda: issuer.asked == 1)
        issuer.hold.set()
        assert [answer.result() for answer in answers] == [200] * 12
        unknown = [pool.submit(status, tenant, issuer.token(headers={"kid": str(n)})) for n in range(30)]
        assert {answer.result() for answer in unknown} == {401}
    assert issuer.asked == 1


def test_known_keys_stay_while_the_key_set_cannot_be_fetched(tenant: Tenant, issuer: Issuer) -> None:
    assert accept(tenant, entry(issuer)).status_code == 200
    assert status(tenant, issuer.token()) == 200
    issuer.close()
    assert status(tenant, issuer.token(sub="bob")) == 200
    assert status(tenant, issuer.token(OTHER_RSA, headers={"kid": "two"})) == 401


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"no JSON", id="no JSON"),
        pytest.param([], id="a list"),
        pytest.param({"keys": {}}, id="no list of keys"),
        pytest.param({"keys": [public(RSA, "one")] * 51}, id="too many keys"),
        pytest.param(b" " * 100_000 + b'{"keys": []}', id="too long"),
        pytest.param(b"[" * 60_000, id="too deep"),
        "an error",
        "a redirect",
    ],
)
def test_odd_key_sets_open_nothing(tenant: Tenant, issuer: Issuer, document: Any) -> None:
    if document == "an error":
        issuer.status = 500
    elif document == "a redirect":
        issuer.status, issuer.location = 302, f"{issuer.url}/elsewhere"
    else:
        issuer.document = document
    assert accept(tenant, entry(issuer)).status_code == 200
    assert status(tenant, issuer.token()) == 401
    assert issuer.asked == 1


def test_keys_change(inside: Service, tenant: Tenant, issuer: Issuer) -> None:
    """A new key is fetched for its first token, and a token of a key that is gone is refused."""
    assert accept(tenant, entry(issuer, jwks_url=f"{issuer.url}/first")).status_code == 200
    former = issuer.token()
    assert status(tenant, former) == 200
    issuer.document = {"keys": [public(OTHER_RSA, "two")]}
    # Another URL is another set, so that the test waits for no minute.
    assert accept(tenant, entry(issuer, jwks_url=f"{issuer.url}/second")).status_code == 200
    assert status(tenant, issuer.token(OTHER_RSA, headers={"kid": "two"})) == 200
    eventually(lambda: status(tenant, former) == 401)


async def test_key_set_is_fetched_again_and_kept_for_a_while(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = key_sets.KeySets()
    url = f"{issuer.url}/jwks"

    async def found(kid: str) -> int:
        return len(await sets.find(url, lambda key: key.get("kid") == kid, private=True))

    assert [await found(kid) for kid in ("one", "two", "one")] == [1, 0, 1]
    # A key that is new is found when a minute has passed, once; one that is gone is gone.
    issuer.document = {"keys": [public(OTHER_RSA, "two")]}
    assert [await found("two"), issuer.asked] == [0, 1]
    monkeypatch.setattr(key_sets, "PAUSE_SECONDS", 0.0)
    assert [await found("two"), issuer.asked] == [1, 2]
    monkeypatch.setattr(key_sets, "PAUSE_SECONDS", 60.0)
    assert [await found("one"), issuer.asked] == [0, 2]
    # A known key is refreshed beside the request, and stays while that fails.
    monkeypatch.setattr(key_sets, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(key_sets, "REFRESH_SECONDS", 0.0)
    issuer.status = 500
    for asked in (3, 4):
        assert await found("two") == 1
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "key set"))
        assert issuer.asked == asked
    assert [await found("two"), await found("two")] == [1, 1]
    monkeypatch.setattr(key_sets, "KEPT_SECONDS", 0.0)
    assert await found("two") == 0
    # Keys that were fetched from a private address are none of a project that may not call it.
    monkeypatch.setattr(key_sets, "KEPT_SECONDS", 3600.0)
    assert await sets.find(url, lambda _: True, private=False) == []
    await sets.stop()


def test_issuer_and_audience_belong_to_one_project(inside: Service, tenant: Tenant, issuer: Issuer) -> None:
    other = Tenant(inside)
    assert accept(tenant, entry(issuer)).status_code == 200
    refused = accept(other, entry(issuer))
    assert (refused.status_code, code_of(refused)) == (409, "audience_taken")
    assert other.http.get(f"/admin/projects/{other.id}").json()["identity_providers"] == []
    # Another audience of the same issuer is free. A token for both names no project.
    assert accept(other, entry(issuer, audience="other")).status_code == 200
    assert ask(tenant, issuer.token(), "POST", json={}).status_code == 201
    assert ask(other, issuer.token(aud="other")).json()["data"] == []
    assert status(tenant, issuer.token(aud=["app", "other"])) == 401
    # Two audiences of one project are its own.
    assert accept(tenant, entry(issuer), entry(issuer, audience="more", actions=["read"])).status_code == 200
    assert ask(tenant, issuer.token(aud=["none", "app", "more"]), "POST", json={}).status_code == 201
    assert ask(tenant, issuer.token(aud=["more", "app"]), "POST", json={}).status_code == 403
    assert status(tenant, issuer.token(aud=["more", "other"])) == 401
    # After the project has removed it, nobody else receives its users' requests, until an operator releases it.
    token = issuer.token()
    assert accept(tenant).status_code == 200
    eventually(lambda: status(tenant, token) == 401)
    assert code_of(accept(other, entry(issuer))) == "audience_taken"
    assert accept(tenant, entry(issuer)).status_code == 200
    assert status(tenant, token) == 200
    tenant.settings(identity_providers=[])
    assert accept(other, entry(issuer)).status_code == 200
    assert ask(other, issuer.token()).json()["data"] == []


def test_jwt_ends_with_its_key_and_with_its_user(tenant: Tenant, issuer: Issuer) -> None:
    assert accept(tenant, entry(issuer)).status_code == 200
    before, other = issuer.token(), issuer.token(sub="bob")
    assert [status(tenant, each) for each in (before, other)] == [200, 200]
    revoked = tenant.http.post("/user_tokens/revoke", json={"user": f"{issuer.url}#ann"})
    assert revoked.status_code == 200
    assert [status(tenant, each) for each in (before, other)] == [401, 200]
    # A token of a later second is accepted, by whole seconds and by fractions.
    later = int(revoked.json()["revoked_at"]) + 1
    assert [status(tenant, issuer.token(iat=iat)) for iat in (later - 1, later, later + 0.5)] == [401, 200, 200]
    (key,) = [
        each
        for each in tenant.http.get(f"/admin/projects/{tenant.id}/keys").json()["data"]
        if each["name"].startswith("JWTs of")
    ]
    assert key["scopes"] == ["read", "write"]
    # Rotating it would give somebody its text.
    rotated = tenant.http.post(f"/admin/projects/{tenant.id}/keys/{key['id']}/rotate")
    assert (rotated.status_code, code_of(rotated)) == (404, "key_not_found")
    assert tenant.http.delete(f"/admin/projects/{tenant.id}/keys/{key['id']}").status_code == 200
    eventually(lambda: status(tenant, other) == 401)


def test_open_stream_ends_with_the_jwt(tenant: Tenant, issuer: Issuer) -> None:
    assert accept(tenant, entry(issuer, leeway_seconds=0)).status_code == 200

    def end_of(token: str, end: Callable[[], Any] = lambda: None) -> str | None:
        made = ask(tenant, token, "POST", json={}).json()
        url = f"{tenant.service.url}/v1/threads/{made.get('id')}/events"
        headers = {"Authorization": f"Bearer {token}"}
        with httpx2.stream("GET", url, headers=headers, timeout=60) as answer:
            if answer.status_code == 401:
                return None  # The machine is too busy for a short life.
            end()
            data = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
        code: str = json.loads(data[-1])["code"]
        return code

    def revoke() -> None:
        tenant.http.post("/user_tokens/revoke", json={"user": f"{issuer.url}#bob"})

    ends = (end_of(issuer.token(exp=int(time.time()) + seconds)) for seconds in (4, 8, 30))
    assert next(end for end in ends if end is not None) == "credential_expired"
    assert end_of(issuer.token(sub="bob"), revoke) == "credential_revoked"
    assert end_of(issuer.token(), lambda: accept(tenant)) == "credential_revoked"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"algorithms": ["HS256"]}, "identity_providers.0.algorithms.0"),
        ({"algorithms": ["none"]}, "identity_providers.0.algorithms.0"),
        ({"algorithms": []}, "identity_providers.0.algorithms"),
        ({"audience": ""}, "identity_providers.0.audience"),
        ({"audience": "a\nb"}, "identity_providers.0.audience"),
        ({"audience": None}, "identity_providers.0.audience"),
        ({"issuer": "https://a.example/#b"}, "identity_providers.0.issuer"),
        ({"issuer": "x" * 129}, "identity_providers.0.issuer"),
        ({"leeway_seconds": 61}, "identity_providers.0.leeway_seconds"),
        ({"actions": ["admin"]}, "identity_providers.0.actions.0"),
        ({"jwks_url": "file:///etc/passwd"}, "identity_providers.0.jwks_url"),
        ({"jwks_url": "https://user@a.example/"}, "identity_providers.0.jwks_url"),
    ],
)
def test_wrong_provider_is_refused(tenant: Tenant, issuer: Issuer, fields: dict[str, Any], param: str) -> None:
    answer = accept(tenant, entry(issuer, **fields))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_providers_fit_together(tenant: Tenant, issuer: Issuer) -> None:
    one, other = entry(issuer, subject_is_user=True), entry(issuer, issuer="https://b.example", subject_is_user=True)
    for providers in ([one, one], [one, other], [one, entry(issuer, audience="b")], [one] * 11):
        answer = accept(tenant, *providers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "identity_providers")
    assert accept(tenant, one, entry(issuer, audience="b", subject_is_user=True)).status_code == 200


def test_key_sets_of_a_tenant_lie_at_public_addresses(service: Service, issuer: Issuer) -> None:
    tenant = Tenant(service)
    answer = accept(tenant, entry(issuer))
    assert (answer.status_code, code_of(answer)) == (400, "invalid_url")
    port = issuer.url.rpartition(":")[2]
    # A name that leads inside is found when it is connected to.
    assert accept(tenant, entry(issuer, jwks_url=f"https://localhost:{port}/jwks")).status_code == 200
    assert status(tenant, issuer.token()) == 401
    assert issuer.asked == 0


def test_admin_gives_jwts_no_action_that_its_key_lacks(tenant: Tenant, issuer: Issuer) -> None:
    made = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "a", "scopes": ["admin"]}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    url = f"{tenant.service.url}/v1/admin/projects/{tenant.id}"
    answer = httpx2.patch(url, headers=headers, json={"identity_providers": [entry(issuer)]})
    assert (answer.status_code, code_of(answer)) == (403, "missing_scope")
