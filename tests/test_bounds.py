"""Bounds on the cost of an input: none before the key is known, linear work at most, no more than the capacity."""

import contextlib
import re
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psutil
import pytest

from tests.service import Emulator, Process, Service, eventually
from tests.tenants import Tenant


def converse(service: Service, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send bytes and return the answer of the service, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # It may close before all is sent.
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
        return answer


def cpu_of(service: Service) -> float:
    process = psutil.Process(service.process.process.pid)
    return sum(sum(p.cpu_times()[:2]) for p in [process, *process.children(recursive=True)])


def test_a_head_without_an_end_is_refused_before_it_costs_anything(service: Service) -> None:
    before = cpu_of(service)
    answer = converse(service, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ", *[b"x" * 65_536] * 1600)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert cpu_of(service) - before < 2
    for head in (b"GET /healthz?" + b"x" * 70_000, b"GET /healthz HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 7000):
        answer = converse(service, head, pause=0.1)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b'"code":"request_head_too_large"' in answer
    assert converse(service, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_who_is_slow_with_a_head_or_a_body_is_not_waited_for(service_env: dict[str, str]) -> None:
    service = Service(env={**service_env, "EVERTHREAD_HEAD_SECONDS": "1", "EVERTHREAD_BODY_PAUSE_SECONDS": "0.8"})
    head = f"POST /v1/threads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.key}\r\n".encode()
    slow_head = [head[:20], *(head[20 + n : 21 + n] for n in range(12))]
    body = head + b"Content-Length: 40\r\n\r\n"
    trickle = [body + b'{"title": "', *[b"x"] * 27, b'"}']
    closing = head + b"Connection: close\r\nContent-Length: 40\r\n\r\n"
    in_time = [closing + b'{"title": "', *[b"x" * 9] * 3, b'"}']
    with ThreadPoolExecutor() as pool:
        too_slow = [
            pool.submit(converse, service, *pieces, pause=pause)
            # The last one in all: ten times as long as a pause.
            for pieces, pause in ((slow_head, 0.2), ([b""], 0), ([body + b'{"title":'], 0), (trickle, 0.35))
        ]
        taken = pool.submit(converse, service, *in_time, pause=0.3)
        assert b"201 Created" in taken.result()
        assert [each.result()[:13] for each in too_slow] == [b"HTTP/1.1 408 "] * 4
    service.stop()


def test_large_bodies_and_kept_connections_are_as_before(service: Service) -> None:
    for _ in range(3):
        words = "word " * 100_000
        thread = service.thread()
        assert service.http.post(f"/threads/{thread}/turns", json={"input": f"Echo: {words}"}).status_code == 200


def test_nobody_without_a_key_gets_more_than_a_refusal(service: Service) -> None:
    before = cpu_of(service)
    body = b"x" * 1_000_000
    head = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(20):
        assert converse(service, head, body).startswith((b"HTTP/1.1 401 ", b""))
    assert cpu_of(service) - before < 2


def test_with_few_files_what_is_too_much_is_refused_and_the_rest_is_served(
    service_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(
        env={**service_env, "EVERTHREAD_PROVIDER_STALL_SECONDS": "60"}, within=["prlimit", "--nofile=400:400"]
    )
    emulator.fault("slow", seconds=4, seconds_per_event=1, times=1000)
    threads = [service.thread() for _ in range(60)]

    def begin(number: int) -> int:
        body = {"input": "Hi", "background": True}
        # Each a thread of its own: none of them is refused for being busy.
        answer = service.http.post("/responses", json=body)
        if answer.status_code != 200:
            # One project alone has three quarters of the places.
            assert answer.json()["error"]["code"] == "project_busy"
            assert answer.headers["retry-after"] == "1"
        return answer.status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(begin, range(300)))
    assert set(statuses) == {200, 429}
    assert 75 <= statuses.count(200) < 300
    assert service.http.get(f"/threads/{threads[0]}").status_code == 200
    assert service.http.get(f"{service.url}/readyz").status_code == 200
    service.process.process.kill()
    service.process.ended()


def test_no_more_connections_than_files_and_who_is_too_many_is_told_so(service_env: dict[str, str]) -> None:
    env = {**service_env, "EVERTHREAD_CONNECTIONS_PER_ADDRESS": "1000"}
    service = Service(env=env, within=["prlimit", "--nofile=300:300"])
    held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(250)]
    select.select(held, (), (), 30)
    time.sleep(0.2)
    told = 0
    for connection in held:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # It was accepted, and receives nothing.
            told += connection.recv(200).startswith(b"HTTP/1.1 503 ")
    assert 0 < told < 250
    for connection in held:
        connection.close()
    eventually(lambda: is_served(service, f"{service.url}/healthz"))
    service.stop()


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(service_env: dict[str, str]) -> None:
    service = Service(env=service_env, within=["prlimit", "--nofile=256:4096"])
    process = psutil.Process(service.process.process.pid)
    assert process.rlimit(psutil.RLIMIT_NOFILE) == (4096, 4096)
    service.stop()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"input":[' + b"[]," * 70 + b'"' + rb"\"" * 400_000,
        b'{"input":' + b"[" * 200_000,
        b'{"input":' + b'{"a":' * 100_000,
        b'{"input":"' + b"\\" * 400_001 + b'"}' + b"[" * 100,
    ],
    ids=["an unterminated string", "arrays", "objects", "backslashes"],
)
def test_the_check_of_a_bodys_depth_is_linear(service: Service, raw: bytes) -> None:
    before = cpu_of(service)
    answer = service.http.post("/responses", content=raw, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert cpu_of(service) - before < 1.5


@pytest.mark.parametrize("number", ["²", "٣", "99999999999999999999999", "-5", "1e3", "nan", "0x1"])
def test_a_number_in_a_header_or_a_query_is_a_number_or_a_400(service: Service, number: str) -> None:
    thread = service.thread()
    turn = service.turn(thread, "Hi")["id"]
    response = f"resp_{turn.partition('_')[2]}"
    asked: list[tuple[str, dict[str, Any]]] = [
        (f"/threads/{thread}/turns/{turn}/events", {"params": {"starting_after": number}}),
        (f"/threads/{thread}/turns/{turn}/events", {"headers": [(b"Last-Event-ID", number.encode())]}),
        (f"/responses/{response}", {"params": {"stream": "true", "starting_after": number}}),
        (f"/threads/{thread}/replay", {"params": {"speed": number, "longest_pause": 0}}),
        ("/threads", {"params": {"limit": number}}),
        ("/threads", {"params": {"created_after": number}}),
        ("/usage", {"params": {"since": number}}),
        ("/search", {"params": {"q": "x", "until": number}}),
        (f"/threads/{thread}/messages", {"params": {"turns": number}}),
    ]
    for path, how in asked:
        answer = service.http.get(path, **how)
        assert answer.status_code in (200, 400), (path, answer.status_code)
        if answer.status_code == 400:
            assert answer.json()["error"]["param"] is not None
    call = service.http.get(f"/calls/call_{turn.partition('_')[2]}_{number}")
    assert (call.status_code, call.json()["error"]["code"]) == (404, "call_not_found")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tool_calls": "x"}, "max_tool_calls"),
        ({"truncation": "bogus"}, "truncation"),
        ({"top_logprobs": 99}, "top_logprobs"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"text": "x"}, "text"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    ],
)
def test_create_parameters_are_checked_and_named(service: Service, fields: dict[str, Any], param: str) -> None:
    for path in ("/responses", f"/threads/{service.thread()}/turns"):
        answer = service.http.post(path, json={"input": "Hi", **fields})
        assert answer.status_code == 400
        assert (answer.json()["error"]["param"] or "").startswith(param.split(".")[0])


def test_a_response_that_nobody_could_read_is_refused(service: Service) -> None:
    refused = service.http.post("/responses", json={"input": "Hi", "background": True, "store": False})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")


@pytest.mark.parametrize("form", ["responses", "chat"])
def test_one_function_that_must_be_called_is_called(service: Service, emulator: Emulator, form: str) -> None:
    choice = (
        {"type": "function", "name": "g"} if form == "responses" else {"type": "function", "function": {"name": "g"}}
    )
    tools: list[Any] = [{"type": "function", "name": name, "parameters": {}} for name in ("f", "g")]
    turn = service.turn(service.thread(), "Hi", tools=tools, tool_choice=choice)
    assert turn["output"][0]["name"] == "g"
    assert turn["tool_choice"] == choice


def is_served(service: Service, path: str) -> bool:
    try:
        return service.http.get(path).status_code == 200
    except httpx2.TransportError:
        return False


def told(service: Service, connections: int) -> list[bytes]:
    """Return what each of some idle connections is told; nothing for one that is accepted."""
    held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(connections)]
    time.sleep(0.5)
    said = []
    for connection in held:
        connection.setblocking(False)
        try:
            said.append(connection.recv(1000))
        except BlockingIOError:
            said.append(b"")
    for connection in held:
        connection.close()
    return said


def test_one_address_has_so_many_connections_and_a_proxy_that_is_trusted_more(service_env: dict[str, str]) -> None:
    env = {**service_env, "EVERTHREAD_CONNECTIONS_PER_ADDRESS": "5"}
    service = Service(env=env)
    refused = [said for said in told(service, 20) if said]
    assert 14 <= len(refused) <= 16  # One is the client's own.
    assert all(b" 429 " in said and b"too_many_connections" in said for said in refused)
    eventually(lambda: is_served(service, "/threads"))  # Those that have gone count no more.
    service.stop()
    service = Service(env={**env, "EVERTHREAD_TRUSTED_PROXIES": "127.0.0.0/8"})
    assert not any(told(service, 20))
    service.stop()


@pytest.mark.parametrize(
    ("trusted", "believed"), [(None, False), ("10.0.0.0/8", False), ("127.0.0.1", True), ("10.0.0.1,127.0.0.0/8", True)]
)
def test_address_of_another_is_believed_of_proxies_that_a_setting_names(
    service_env: dict[str, str], trusted: str | None, believed: bool
) -> None:
    """The trail names an address by a digest: two turns from two addresses that are believed have two."""
    service = Service(env={**service_env, **({"EVERTHREAD_TRUSTED_PROXIES": trusted} if trusted else {})})
    for address in ("203.0.113.1", "203.0.113.2"):
        answer = service.http.post("/threads", json={"user": "ann"}, headers={"X-Forwarded-For": address})
        assert answer.status_code == 201
    records = service.http.get("/audit", params={"action": "thread.created", "limit": 2}).json()["data"]
    assert (len({record["actor"]["address"] for record in records}) == 2) == believed
    service.stop()


def test_proxy_that_is_no_address_is_told_at_the_start(service_env: dict[str, str]) -> None:
    process = Process("serve", "--port", "0", env={**service_env, "EVERTHREAD_TRUSTED_PROXIES": "everybody"})
    assert process.ended() == 1
    assert "EVERTHREAD_TRUSTED_PROXIES" in process.lines[-1]


def test_every_answer_tells_browsers_to_take_it_for_what_it_says(service: Service) -> None:
    for answer in (service.http.get("/threads"), service.http.get("/nothing"), service.http.get(f"{service.url}/docs")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_metrics_name_no_tenant(service: Service) -> None:
    tenant = Tenant(service)
    tenant.account("own", "https://127.0.0.1.nip.example/v1", "sk-of-a-tenant-of-ours")
    tenant.http.post("/responses", json={"input": "Hi", "user": "a-user-of-theirs"})
    shown = httpx2.get(f"{service.url}/metrics").text
    for word in ("nip.example", "a-user-of-theirs", tenant.id, tenant.id.removeprefix("proj_"), "proj_", "sk-of-a"):
        assert word not in shown, word


DEEP = b'{"x": ' + b"[" * 1000 + b"]" * 1000 + b"}"
MANY = b'{"x": [' + b"1," * 200_000 + b"1]}"


def bodies(service: Service) -> list[tuple[str, str]]:
    """Method and path of every operation with a body, for a thread that is there; the provider's own paths, too."""
    thread = service.http.put("/threads/by-name/bodies").json()["id"]
    places = {"{thread_id}": thread, "{name}": "bodies", "{conversation_id}": thread}
    document = httpx2.get(f"{service.url}/openapi.json").json()
    found = [
        (method.upper(), re.sub(r"{\w+}", lambda found: places.get(found[0], "x"), path))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if "requestBody" in operation
    ]
    assert len(found) > 20
    return [*found, *((method, f"/compatible-mode{path}") for method, path in found if path == "/v1/responses")]


def test_no_route_reads_a_body_before_the_key_is_known(service: Service) -> None:
    for method, path in bodies(service):
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n"
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(f"{head}\r\n".encode())  # And nothing of its body.
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 "), path


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (DEEP, 400, "nesting_too_deep"),
        (MANY, 400, "too_many_values"),
        (b'{"x": "\\u0000"}', 400, "invalid_character"),
        (b'{"x": "\\ud800"}', 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"x": "' + b"x" * 1_000_000 + b'"}', 413, "request_too_large"),
    ],
    ids=["deep", "many values", "NUL", "a lone surrogate", "no object", "long"],
)
def test_every_route_reads_its_body_within_the_bounds(service: Service, body: bytes, status: int, code: str) -> None:
    for method, path in bodies(service):
        answer = service.http.request(method, service.url + path, content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), (method, path)


def test_an_error_names_no_more_than_the_beginning_of_a_key(service: Service) -> None:
    key = "k" * 900_000
    for body in ({key: 1}, {"metadata": {key: 1}}):
        answer = service.http.post("/threads", json=body)
        assert answer.status_code == 400
        assert len(answer.content) < 2000


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("PATCH", "/admin/projects/{project}", {"origins": [f"https://{'a' * 10_000}"]}, "origins.0"),
        ("POST", "/chat/completions", {"model": "m" * 257, "messages": [{"role": "user", "content": "Hi"}]}, "model"),
    ],
)
def test_what_is_stored_of_a_request_has_a_length(
    service: Service, method: str, path: str, body: dict[str, Any], param: str
) -> None:
    project = service.http.get("/project").json()["id"]
    answer = service.http.request(method, path.format(project=project), json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
