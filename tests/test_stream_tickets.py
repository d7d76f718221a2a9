"""POST /v1/stream_tickets: a ticket opens one stream, once, within seconds, and gives no more than its credential."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.collector import Collector, collecting
from tests.postgres_pair import run_sql
from tests.service import Emulator, Service, eventually
from tests.streams import Stream
from tests.tenants import Tenant


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def workers(collector: Collector, service_env: dict[str, str], running_emulator: Emulator) -> Iterator[Service]:
    """Two workers that send their traces to a collector."""
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "500"}
    service = Service("--workers", "2", env={**service_env, **told})
    yield service
    assert service.stop() == 0


@pytest.fixture
def tenant(workers: Service) -> Tenant:
    return Tenant(workers)


def token_of(tenant: Tenant, user: str, **fields: Any) -> str:
    token: str = tenant.http.post("/user_tokens", json={"user": user, **fields}).raise_for_status().json()["token"]
    return token


def ticket_of(tenant: Tenant, key: str, path: str = "/v1/events") -> str:
    answer = httpx2.post(
        f"{tenant.service.url}/v1/stream_tickets", json={"path": path}, headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 201, answer.text
    ticket: str = answer.json()["ticket"]
    return ticket


def opened(tenant: Tenant, ticket: str, path: str = "/events", **params: str) -> Stream:
    return Stream(tenant.service, path, ticket=ticket, **params)


def test_a_ticket_opens_one_stream_once_as_its_user(tenant: Tenant) -> None:
    mine = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    tenant.http.post("/threads", json={"user": "bob"})
    ticket = ticket_of(tenant, token_of(tenant, "ann"))
    stream = opened(tenant, ticket)
    assert [thread["id"] for thread in stream.is_told("snapshot")["threads"]] == [mine]
    for _ in range(4):  # Both workers.
        again = opened(tenant, ticket)
        assert (again.status, again.error["code"]) == (401, "invalid_api_key")
    place = stream.ids[-1]
    stream.leave()
    turn = tenant.turn(mine, "Echo: good day")["id"]
    later = opened(tenant, ticket_of(tenant, token_of(tenant, "ann")), last_event_id=place)
    later.is_told("thread.turn.finished", mine)
    assert later.events[0]["type"] == "thread.turn.created"
    later.leave()
    for path in (f"/threads/{mine}/events", f"/threads/{mine}/turns/{turn}/events"):
        one = opened(tenant, ticket_of(tenant, token_of(tenant, "ann"), f"/v1{path}"), path)
        one.is_told("snapshot" if path.endswith(f"{mine}/events") else "response.completed")
        one.leave()


def test_a_page_of_the_project_reads_what_its_ticket_opens(tenant: Tenant) -> None:
    tenant.settings(origins=["https://app.example"])
    eventually(lambda: "access-control-allow-origin" in allowed(tenant, "https://app.example"))
    assert "access-control-allow-origin" not in allowed(tenant, "https://evil.example")


def allowed(tenant: Tenant, origin: str) -> httpx2.Headers:
    url = f"{tenant.service.url}/v1/events?ticket={ticket_of(tenant, tenant.key)}"
    with httpx2.stream("GET", url, headers={"Origin": origin}, timeout=30) as answer:
        assert answer.status_code == 200
        return answer.headers


def test_of_many_connections_with_one_ticket_exactly_one_gets_in(tenant: Tenant) -> None:
    for _ in range(5):
        ticket = ticket_of(tenant, tenant.key)
        with ThreadPoolExecutor(8) as pool:
            streams = list(pool.map(lambda _, ticket=ticket: opened(tenant, ticket), range(8)))
        assert sorted(stream.status for stream in streams) == [200] + [401] * 7
        for stream in streams:
            if stream.status == 200:
                stream.leave()


def test_a_ticket_is_for_its_path_and_for_streams_alone(tenant: Tenant) -> None:
    thread, name = tenant.thread(), "a b/ä".replace("/", "-")
    tenant.http.put(f"/threads/by-name/{name}", json={}).raise_for_status()
    ticket = ticket_of(tenant, tenant.key)
    url, sent = f"{tenant.service.url}/v1", {"ticket": ticket}
    with httpx2.Client(timeout=30) as client:
        for method, path in (
            ("GET", f"/threads/{thread}/events"),
            ("GET", "/threads"),
            ("GET", f"/threads/{thread}"),
            ("POST", "/events"),
            ("HEAD", "/events"),
            ("POST", f"/threads/{thread}/turns"),
            ("POST", "/user_tokens"),
            ("POST", "/stream_tickets"),
            ("GET", "/admin/projects"),
            ("GET", "/audit"),
        ):
            refused = client.request(method, url + path, params=sent)
            assert refused.status_code in (401, 405), (method, path)
        # A header goes before a ticket, which is not used up.
        wrong = client.get(f"{url}/events", params=sent, headers={"Authorization": "Bearer et_wrong"})
        assert wrong.status_code == 401
        for path in (
            "/v1/threads", "/v1/events/", "/v1/events?user=bob", "v1/events", "/v1/events#x", f"/v1/threads/{thread}",
            "/v1/threads//events", "/v1/responses/x", "https://x/v1/events", "/v1/threads/a/b/events", "", "x" * 5000,
        ):  # fmt: skip
            assert tenant.http.post("/stream_tickets", json={"path": path}).status_code == 400, path
    stream = opened(tenant, ticket)
    stream.is_told("snapshot")
    stream.leave()
    encoded = f"/threads/by-name/{httpx2.URL('http://x/' + name).raw_path.decode()[1:]}/events"
    for path in (encoded, f"/threads/by-name/{name}/events"):
        named = opened(tenant, ticket_of(tenant, tenant.key, f"/v1{path}"), encoded)
        named.is_told("snapshot")
        named.leave()


def test_a_ticket_reaches_nothing_that_its_maker_does_not(tenant: Tenant) -> None:
    other = Tenant(tenant.service)
    theirs = tenant.http.post("/threads", json={"user": "bob"}).json()["id"]
    strange = other.thread()
    path = f"/threads/{theirs}/events"
    for token in (token_of(tenant, "ann"), token_of(other, "bob"), other.key):
        assert opened(tenant, ticket_of(tenant, token, f"/v1{path}"), path).status == 404
    path = f"/threads/{strange}/events"
    assert opened(tenant, ticket_of(tenant, tenant.key, f"/v1{path}"), path).status == 404
    assert opened(tenant, ticket_of(tenant, token_of(tenant, "ann")), user="bob").status == 403
    made = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "w", "scopes": ["write"]}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    refused = httpx2.post(f"{tenant.service.url}/v1/stream_tickets", json={"path": "/v1/events"}, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    assert httpx2.post(f"{tenant.service.url}/v1/stream_tickets", json={"path": "/v1/events"}).status_code == 401


def test_a_ticket_ends_after_seconds_and_with_its_credential(tenant: Tenant, database_url: str) -> None:
    made = tenant.http.post("/stream_tickets", json={"path": "/v1/events"}).json()
    rows = str(run_sql(database_url, "SELECT * FROM stream_tickets"))
    assert "path_hash" in rows
    assert tenant.key not in rows
    assert made["ticket"] not in rows
    run_sql(database_url, "UPDATE stream_tickets SET expires_at = now() - interval '1 second'")
    assert opened(tenant, made["ticket"]).status == 401
    # A token's ticket lives no longer than the token, and nor does what it opened.
    token = tenant.http.post("/user_tokens", json={"user": "ann", "expires_in": 8}).json()
    headers = {"Authorization": f"Bearer {token['token']}"}
    short = httpx2.post(f"{tenant.service.url}/v1/stream_tickets", json={"path": "/v1/events"}, headers=headers).json()
    assert short["expires_at"] == token["expires_at"]
    stream = opened(tenant, short["ticket"])
    assert stream.is_told("error")["code"] == "credential_expired"


def test_expired_tickets_and_old_cut_offs_are_deleted(tenant: Tenant, database_url: str) -> None:
    project = f"project_id = '{tenant.id.removeprefix('proj_')}'"
    for user in ("ann", "bob"):
        ticket_of(tenant, token_of(tenant, user))
        tenant.http.post("/user_tokens/revoke", json={"user": user}).raise_for_status()
    old = "1000000 * extract(epoch FROM now() - interval '2 days 1 hour')"
    first = f"SELECT min(cut_at) FROM user_cutoffs WHERE {project}"
    run_sql(database_url, f"UPDATE user_cutoffs SET cut_at = {old} WHERE {project} AND cut_at = ({first})")
    run_sql(database_url, f"UPDATE stream_tickets SET expires_at = now() - interval '1 second' WHERE {project}")

    def left() -> list[int]:
        tenant.http.delete("/users/nobody/data")  # It wakes who cleans.
        return [
            len(run_sql(database_url, f"SELECT FROM {table} WHERE {project}"))
            for table in ("stream_tickets", "user_cutoffs")
        ]

    eventually(lambda: left() == [0, 1])


def test_a_revoked_key_takes_its_tickets_along(tenant: Tenant) -> None:
    made = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "k"}).json()
    minted = httpx2.post(
        f"{tenant.service.url}/v1/user_tokens", json={"user": "ann"}, headers={"Authorization": f"Bearer {made['key']}"}
    ).json()["token"]
    tickets = [ticket_of(tenant, each) for each in (made["key"], minted)]
    tenant.http.delete(f"/admin/projects/{tenant.id}/keys/{made['id']}").raise_for_status()
    for key in (made["key"], minted):
        eventually(lambda key=key: Stream(tenant.service, "/events", key).status == 401)  # type: ignore[misc]
    for stream in (opened(tenant, ticket) for ticket in tickets):
        # The other worker may take the key for some seconds more.
        assert stream.status == 401 or stream.is_told("error")["code"] == "credential_revoked"


def test_a_users_tickets_are_bounded_and_one_more_ends_the_oldest(tenant: Tenant, database_url: str) -> None:
    token, other = token_of(tenant, "ann"), ticket_of(tenant, token_of(tenant, "bob"))
    tickets = [ticket_of(tenant, token) for _ in range(21)]
    assert [opened(tenant, ticket).status for ticket in tickets[:1]] == [401]
    for ticket in (tickets[1], tickets[-1], other):
        stream = opened(tenant, ticket)
        assert stream.status == 200
        stream.leave()


def test_a_ticket_is_in_no_log_trace_metric_or_error(tenant: Tenant, collector: Collector) -> None:
    ticket = ticket_of(tenant, tenant.key)
    url = f"{tenant.service.url}/v1"
    bodies = [
        httpx2.get(f"{url}{path}?ticket={ticket}{more}").text
        for path, more in (
            ("/threads/x/events", ""), ("/nothing", ""), ("/threads", ""), ("/events", "&%FF"),
            ("/events", "&user=%00"),
            ("/events", "&user="), ("/responses/x", ""), ("/threads/x/turns/y/events", "&starting_after=x"),
        )
    ]  # fmt: skip
    stream = opened(tenant, ticket_of(tenant, tenant.key))
    stream.is_told("snapshot")
    stream.leave()
    bodies.append(opened(tenant, ticket, last_event_id="wrong").error["message"])
    bodies.append(httpx2.get(f"{tenant.service.url}/metrics").text)
    eventually(lambda: any(b"/v1/events" in span.SerializeToString() for span in collector.spans), 30)
    told = [*bodies, *tenant.service.process.lines, collector.received.decode("latin-1")]
    assert not any(ticket in each for each in told)
    assert not any("ticket_" in each for each in told), json.dumps([each for each in told if "ticket_" in each])
