"""Webhooks: what happens is told to others, signed, at least once, whoever is down meanwhile, and nobody inside."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from app.memory.compaction_cipher import CompactionCipher
from tests.databases import migrated_database, query
from tests.postgres_pair import run_sql
from tests.projects import new_key
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant

MODEL = "qwen3.5-plus"


class Receiver:
    """Receiver of webhooks: it keeps each request, and answers as it is told to."""

    def __init__(self) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.hangs = threading.Event()
        self.hangs.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
                receiver.hangs.wait(30)
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._handler = Handler
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.came]

    def told(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type_]

    def up(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def down(self) -> None:
        self.hangs.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.up()
    yield receiver
    receiver.down()


@pytest.fixture(scope="module")
def own_database_url(server_urls: tuple[str, str]) -> str:
    """Any worker of a database delivers: here, only those whose webhooks may lead to this machine."""
    return migrated_database(server_urls[0])


@pytest.fixture(scope="module")
def telling(own_database_url: str, service_env: dict[str, str]) -> Iterator[Service]:
    env = {**service_env, "DATABASE_URL": own_database_url, "EVERTHREAD_AUDIT_KEY": "22" * 32}
    service = Service(env={**env, "EVERTHREAD_WEBHOOKS_INSIDE": "true"})
    yield service
    service.stop()


@pytest.fixture
def project(telling: Service, own_database_url: str, emulator: Emulator) -> Iterator[httpx2.Client]:
    """A project of its own: nobody else's turns are told of."""
    key = new_key(own_database_url, uuid4().hex)
    with httpx2.Client(base_url=f"{telling.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client
        for webhook in client.get("/webhooks").json()["data"]:
            client.delete(f"/webhooks/{webhook['id']}")


def made(client: httpx2.Client, url: str, **fields: Any) -> dict[str, Any]:
    answer = client.post("/webhooks", json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def deliveries(client: httpx2.Client, webhook: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/webhooks/{webhook['id']}/deliveries", params=params).json()["data"]
    return found


def an_hour_passes(database_url: str) -> None:
    query(database_url, "UPDATE webhook_deliveries SET next_at = next_at - interval '1 hour' WHERE status = 'pending'")


def test_what_happens_is_told_signed_as_openai_signs(
    project: httpx2.Client, receiver: Receiver, emulator: Emulator
) -> None:
    webhook = made(project, receiver.url, description="ours")
    response = project.post("/responses", json={"input": "Hello!"}).json()
    emulator.fault("status", status=400, code="InvalidParameter", times=1)
    project.post("/responses", json={"input": "Hello!"})
    thread = project.post("/threads", json={"title": "A talk"}).json()
    project.patch(f"/threads/{thread['id']}", json={"title": "Another"})
    project.delete(f"/threads/{thread['id']}")
    wanted = {"response.completed", "response.failed", "thread.created", "thread.changed", "thread.deleted"}
    eventually(lambda: wanted <= {event["type"] for event in receiver.events})
    (completed,) = receiver.told("response.completed")
    assert completed["data"]["id"] == response["id"]
    assert completed["data"]["thread_id"] == response["conversation"]["id"].replace("conv_", "thread_")
    assert [event["data"] for event in receiver.told("thread.deleted")] == [{"id": thread["id"]}]
    assert "Hello" not in str(receiver.came)
    client = OpenAI(api_key="none", webhook_secret=webhook["secret"])
    for headers, body in receiver.came:
        event = client.webhooks.unwrap(body.decode(), headers)
        assert event.id == headers["webhook-id"] == json.loads(body)["id"]
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(body.decode() + " ", headers)
    eventually(lambda: {each["status"] for each in deliveries(project, webhook)} == {"delivered"})


def test_only_what_was_asked_for_is_told_and_only_of_the_own_project(
    project: httpx2.Client, telling: Service, receiver: Receiver, own_database_url: str
) -> None:
    webhook = made(project, receiver.url, events=["response.completed"])
    other = httpx2.Client(
        base_url=f"{telling.url}/v1",
        headers={"Authorization": f"Bearer {new_key(own_database_url, uuid4().hex)}"},
        timeout=60,
    )
    other.post("/responses", json={"input": "Hello!"})
    mine = project.post("/responses", json={"input": "Hello!"}).json()
    eventually(lambda: len(receiver.came) > 0)
    # All that was before it in the trail has been read.
    assert len(deliveries(project, webhook)) == 1
    assert [(event["type"], event["data"]["id"]) for event in receiver.events] == [("response.completed", mine["id"])]


def last_moment(client: httpx2.Client) -> str:
    """The moment of the last record of the trail."""
    moment: str = client.get("/audit", params={"limit": 1}).json()["data"][0]["at"]
    return moment


def test_events_that_the_trail_has_grown_are_few_and_the_last_one_tells_of_the_last_record(
    project: httpx2.Client, receiver: Receiver
) -> None:
    assert "audit.appended" not in made(project, "https://nobody.example/x")["events"]
    webhook = made(project, receiver.url, events=["audit.appended", "thread.created"])

    def has_events(number: int) -> bool:
        return len(receiver.told("audit.appended")) >= number

    last = ""
    for number in range(3):
        for _ in range(10):
            project.post("/threads", json={"user": "ann", "title": "a private title"})
        last = last_moment(project)
        eventually(partial(has_events, number + 1), 30)
    eventually(lambda: receiver.told("audit.appended")[-1]["data"]["at"] == last, 30)
    eventually(lambda: {each["status"] for each in deliveries(project, webhook, limit=100)} == {"delivered"}, 30)
    assert len(receiver.told("thread.created")) == 30
    told = [each for each in deliveries(project, webhook, limit=100) if each["event"]["type"] == "audit.appended"]
    moments = sorted(each["delivered_at"] for each in told)
    assert [later - earlier >= 4 for earlier, later in pairwise(moments)] == [True] * (len(told) - 1)
    records = project.get("/audit", params={"limit": 1}).json()["data"]
    assert {str(event["data"]) for event in receiver.told("audit.appended")} == {
        str({"id": f"proj_{records[0]['actor']['project']}", "at": each["event"]["data"]["at"]}) for each in told
    }
    # Neither the deliveries nor their list have written a record: nothing is left to tell.
    assert records[0]["at"] == last


def test_a_record_that_is_written_while_its_receiver_is_told_of_others_is_told_of_afterwards(
    project: httpx2.Client, receiver: Receiver, own_database_url: str
) -> None:
    receiver.hangs.clear()
    webhook = made(project, receiver.url, events=["audit.appended"])
    eventually(lambda: len(receiver.came) > 0)
    (first,) = deliveries(project, webhook)
    project.post("/threads", json={})
    last = last_moment(project)
    eventually(lambda: deliveries(project, webhook)[0]["event"]["data"]["at"] == last)
    receiver.hangs.set()
    (pending,) = deliveries(project, webhook)
    assert (pending["status"], pending["id"] > first["id"]) == ("pending", True)
    an_hour_passes(own_database_url)
    eventually(lambda: receiver.told("audit.appended")[-1]["data"]["at"] == last, 30)
    eventually(lambda: [each["status"] for each in deliveries(project, webhook)] == ["delivered"], 30)
    assert len({event["id"] for event in receiver.events}) == 2


def test_a_receiver_that_is_down_for_an_hour_misses_nothing_and_a_killed_worker_loses_nothing(
    fresh_env: dict[str, str], receiver: Receiver
) -> None:
    env = {**fresh_env, "EVERTHREAD_WEBHOOKS_INSIDE": "true"}
    database_url = env["DATABASE_URL"]
    service = Service(env=env)
    try:
        receiver.down()
        webhook = made(service.http, receiver.url, events=["response.completed"])
        turns = [service.http.post("/responses", json={"input": "Hello!"}).json()["id"] for _ in range(5)]
        eventually(lambda: [bool(each["last_error"]) for each in deliveries(service.http, webhook)] == [True] * 5)
        waiting = deliveries(service.http, webhook, status="pending")
        assert [each["next_attempt_at"] > time.time() for each in waiting] == [True] * 5
        service.process.stop(signal.SIGKILL)
        service = Service(env=env, key=service.key)
        turns.append(service.http.post("/responses", json={"input": "Hello!"}).json()["id"])
        receiver.up()
        receiver.hangs.clear()  # It takes what it is sent, and never says so.
        an_hour_passes(database_url)
        eventually(lambda: len(receiver.came) >= 6)
        service.process.stop(signal.SIGKILL)
        receiver.hangs.set()
        service = Service(env=env, key=service.key)
        an_hour_passes(database_url)
        eventually(lambda: {each["status"] for each in deliveries(service.http, webhook)} == {"delivered"}, 30)
        assert {event["data"]["id"] for event in receiver.events} == set(turns)
        assert len({event["id"] for event in receiver.events}) == len(turns) < len(receiver.came)
    finally:
        service.stop()


def test_a_refusal_is_seen_tried_again_and_sent_again_on_demand(
    project: httpx2.Client, receiver: Receiver, own_database_url: str
) -> None:
    receiver.status = 500
    webhook = made(project, receiver.url, events=["response.completed"])
    project.post("/responses", json={"input": "Hello!"})
    eventually(lambda: [each["last_status"] for each in deliveries(project, webhook)] == [500])
    (refused,) = deliveries(project, webhook)
    assert (refused["status"], refused["last_error"]) == ("pending", "It answered 500.")
    receiver.status = 204
    an_hour_passes(own_database_url)
    eventually(lambda: deliveries(project, webhook)[0]["status"] == "delivered")
    again = project.post(f"/webhooks/{webhook['id']}/deliveries/{refused['id']}/replay")
    assert (again.status_code, again.json()["status"]) == (200, "pending")
    eventually(lambda: len(receiver.came) >= 3)
    assert len({event["id"] for event in receiver.events}) == 1


def test_one_that_does_not_answer_holds_up_no_other(project: httpx2.Client, receiver: Receiver) -> None:
    dead = Receiver()
    dead.up()
    dead.hangs.clear()
    try:
        made(project, dead.url, events=["thread.created"])
        made(project, receiver.url, events=["thread.created"])
        threads = {project.post("/threads", json={}).json()["id"] for _ in range(30)}
        eventually(lambda: {event["data"]["id"] for event in receiver.events} == threads, 10)
    finally:
        dead.down()


def test_a_redirect_is_not_followed(project: httpx2.Client, receiver: Receiver) -> None:
    elsewhere = Receiver()
    elsewhere.up()
    try:
        receiver.status, receiver.headers = 307, {"Location": elsewhere.url}
        webhook = made(project, receiver.url)
        project.post("/threads", json={})
        eventually(lambda: [each["last_status"] for each in deliveries(project, webhook)] == [307])
        assert elsewhere.came == []
    finally:
        elsewhere.down()


def test_what_happens_while_it_is_paused_is_told_afterwards(project: httpx2.Client, receiver: Receiver) -> None:
    webhook = made(project, receiver.url, events=["thread.created"])
    assert project.patch(f"/webhooks/{webhook['id']}", json={"paused": True}).json()["paused"] is True
    thread = project.post("/threads", json={}).json()
    eventually(lambda: [each["status"] for each in deliveries(project, webhook)] == ["pending"])
    time.sleep(1.2)
    assert receiver.came == []
    project.patch(f"/webhooks/{webhook['id']}", json={"paused": False})
    eventually(lambda: [event["data"]["id"] for event in receiver.events] == [thread["id"]])


def test_a_rotated_secret_signs_beside_the_former_one(project: httpx2.Client, receiver: Receiver) -> None:
    first = made(project, receiver.url, events=["thread.created"])
    second = project.post(f"/webhooks/{first['id']}/rotate").json()
    assert first["secret"] != second["secret"]
    assert "secret" not in project.get(f"/webhooks/{first['id']}").json()
    project.post("/threads", json={})
    eventually(lambda: len(receiver.came) == 1)
    headers, body = receiver.came[0]
    for secret in (first["secret"], second["secret"]):
        OpenAI(api_key="none").webhooks.unwrap(body.decode(), headers, secret=secret)


def test_a_secret_is_sealed_by_no_key_of_the_database(
    project: httpx2.Client, receiver: Receiver, own_database_url: str
) -> None:
    webhook = made(project, receiver.url, events=["thread.created"])
    project_id = UUID(project.get("/project").json()["id"].removeprefix("proj_"))
    of_database = CompactionCipher(
        run_sql(own_database_url, "SELECT key FROM cache_keys")[0]["key"], "secrets of webhooks"
    )
    mine = f"WHERE project_id = '{project_id}'"
    (row,) = run_sql(own_database_url, f"SELECT secret FROM webhooks {mine}")
    assert of_database.decrypt(project_id, row["secret"]) is None
    project.post("/threads", json={})
    eventually(lambda: len(receiver.came) == 1)
    headers, body = receiver.came[0]
    OpenAI(api_key="none").webhooks.unwrap(body.decode(), headers, secret=webhook["secret"])
    # One that nobody can open signs nothing, and what is unsigned is not sent.
    other = made(project, receiver.url, events=["thread.deleted"])
    this = f"WHERE id = '{UUID(webhook['id'].partition('_')[2])}'"
    of_other = f"SELECT secret FROM webhooks WHERE id = '{UUID(other['id'].partition('_')[2])}'"

    def refused(delivery: dict[str, Any]) -> str | None:
        unopened = delivery["last_error"] == "Its secret cannot be opened here."
        return str(delivery["event"]["data"]["id"]) if unopened else None

    for value in ("'AAAA'", f"({of_other})"):
        run_sql(own_database_url, f"UPDATE webhooks SET secret = {value} {this}")
        event = project.post("/threads", json={}).json()["id"]
        eventually(lambda event=event: refused(deliveries(project, webhook)[0]) == event)  # type: ignore[misc]
    assert len(receiver.came) == 1


def test_an_archived_project_is_told_nothing_until_it_is_restored(
    telling: Service, receiver: Receiver, emulator: Emulator, own_database_url: str
) -> None:
    tenant = Tenant(telling)
    made(tenant.http, receiver.url, events=["response.completed"])
    emulator.fault("slow", seconds_per_event=0.3)
    body = {"model": MODEL, "input": "Echo: hello", "background": True}
    response = tenant.http.post("/responses", json=body).json()["id"]
    tenant.settings(archived=True)
    ended = f"SELECT count(*) AS n FROM turns WHERE id = '{UUID(response.partition('_')[2])}' AND status = 'completed'"
    eventually(lambda: run_sql(own_database_url, ended)[0]["n"] == 1, seconds=30)
    time.sleep(2)  # Deliveries are looked for once a second.
    assert receiver.came == []
    tenant.settings(archived=False)
    eventually(lambda: [event["data"]["id"] for event in receiver.events] == [response])


def test_a_purged_user_is_told_of_without_a_name(project: httpx2.Client, receiver: Receiver) -> None:
    made(project, receiver.url, events=["user.purged", "thread.purged"])
    project.post("/threads", json={"user": "zoe@example.com"})  # No digest has these letters.
    project.delete("/users/zoe@example.com/data")
    eventually(lambda: {event["type"] for event in receiver.events} == {"user.purged", "thread.purged"})
    assert "zoe" not in str(receiver.came)


def test_webhooks_are_listed_changed_and_deleted_and_strangers_find_none(
    project: httpx2.Client, telling: Service, receiver: Receiver
) -> None:
    secret = "whsec_" + "A" * 44
    webhook = made(project, receiver.url, events=["thread.created"], secret=secret)
    assert webhook["secret"] == secret
    assert [each["id"] for each in project.get("/webhooks").json()["data"]] == [webhook["id"]]
    path = f"/webhooks/{webhook['id']}"
    assert project.patch(path, json={"events": ["thread.deleted"]}).json()["events"] == ["thread.deleted"]
    event = f"evt_{'0' * 32}_1"
    for client, status in ((telling.http, 404), (project, 200)):
        assert client.get(path).status_code == status
        assert client.get(f"{path}/deliveries").status_code == status
        assert client.post(f"{path}/deliveries/{event}/replay").status_code == 404
        assert client.post(f"{path}/rotate").status_code == status
        assert client.patch(path, json={"paused": True}).status_code == status
        assert client.delete(path).status_code == status
    assert project.get(path).status_code == 404
    trail = [record["action"] for record in project.get("/audit", params={"order": "asc"}).json()["data"]]
    assert [action for action in trail if action.startswith("webhook.")] == [
        "webhook.created", "webhook.changed", "webhook.changed", "webhook.changed", "webhook.deleted",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://example.com/hook"}, {"url": "https://127.0.0.1/"}, {"url": "https://[::1]:8080/"},
        {"url": "https://10.1.2.3/"}, {"url": "https://169.254.169.254/latest"}, {"url": "https://[::ffff:10.0.0.1]/"},
        {"url": "https://[64:ff9b::a00:1]/"}, {"url": "https://[2002:a00:1::]/"}, {"url": "https://user:pw@example.com/"},
        {"url": "ftp://example.com/"}, {"url": "https://"}, {"url": "https://exa mple.com/"}, {"url": "https://e.com/#x"},
        {"url": "https://e.com:99999/"}, {"url": "https://0.0.0.0/"}, {"url": "https://224.0.0.1/"}, {"url": 5},
        {"url": "https://example.com/", "events": []}, {"url": "https://example.com/", "events": ["nothing.happened"]},
        {"url": "https://example.com/", "secret": "whsec_short"}, {"url": "https://example.com/", "secret": "x" * 50},
    ],
)  # fmt: skip
def test_a_webhook_that_leads_inside_or_is_none_is_refused(service: Service, fields: dict[str, Any]) -> None:
    answer = service.http.post("/webhooks", json=fields)
    field = next(name for name in ("events", "secret", "url") if name in fields)
    assert (answer.status_code, answer.json()["error"]["param"].split(".")[0]) == (400, field), answer.text
    assert service.http.get("/webhooks").json()["data"] == []


def test_a_delivery_to_a_name_that_leads_inside_reaches_nobody(
    service: Service, database_url: str, receiver: Receiver
) -> None:
    with httpx2.Client(
        base_url=f"{service.url}/v1",
        headers={"Authorization": f"Bearer {new_key(database_url, uuid4().hex)}"},
        timeout=60,
    ) as client:
        webhook = made(client, f"https://localhost:{receiver.port}/hook")
        client.post("/threads", json={})
        eventually(lambda: any(each["attempts"] for each in deliveries(client, webhook)))
        eventually(lambda: "could not be reached" in str(deliveries(client, webhook)[0]["last_error"]))
        assert receiver.came == []
        client.delete(f"/webhooks/{webhook['id']}")
