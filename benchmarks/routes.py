"""Every route of the service with the class of its cost: `python -m benchmarks --only growth` holds it to that.

A route that is not in the table fails the benchmark, and tests/test_benchmarks.py. Paths by name are measured as those
by id, the provider's own paths are the same endpoints as those behind /v1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fastapi.routing import iter_route_contexts

from app.main import PROVIDER_PATHS, build
from app.settings import Connected
from benchmarks.slopes import Growth
from benchmarks.targets import MODEL

CONSTANT, LINEAR = Growth.CONSTANT, Growth.LINEAR

Made = Literal["thread", "key", "account", "webhook", "hold", "feedback", "share", "item", "response", "user"]
"""Kinds of rows that are created before each request is measured, because the request deletes or changes them."""

BY_ID, BY_NAME = "/v1/threads/{thread_id}", "/v1/threads/by-name/{name}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a route, and the class of its cost."""

    growth: Growth = CONSTANT
    query: str = ""
    body: Any = None
    makes: Made | None = None
    why: str = ""
    """The reason for a linear cost."""


Routes = dict[str, str | tuple[Asked, ...]]
"""Requests by method and path; for a route that is not measured, the reason."""

PAGE = (Asked(query="limit=20"),)
PLAIN = (Asked(),)
STREAM = "streams without an end: a connection costs what its events do"
OF_THE_SERVICE = "no data of projects: a fixed answer"
ASKS_FOR_SUMMARY = "its cost is that of the model calls for a summary: see the part on memory"
OUTSIDE = "asks a server outside"

REBUILT = "the turn was rebuilt: its call has the whole history; its records are found among all of the thread's"
WALKED = "the first page is the oldest: the branch is walked from its head to its root"
FAILED = "the failures of the range are counted, up to a bound"
SUMS = "one sum a thread, quarter of an hour and model is added up"

SAID = {"model": MODEL, "input": "Hello"}

OF_THREADS: Routes = {
    "GET": PLAIN,
    "PATCH": (Asked(body={"title": "Another title"}),),
    "DELETE": (Asked(makes="thread"),),
    "POST /turns": (Asked(body=SAID),),
    "GET /turns": (Asked(query="limit=20"), Asked(query="limit=20&order=asc")),
    "GET /turns/{turn_id}": PLAIN,
    "POST /turns/{turn_id}/cancel": PLAIN,
    "GET /turns/{turn_id}/events": PLAIN,
    "GET /turns/{turn_id}/calls": PLAIN,
    "GET /turns/{turn_id}/siblings": PLAIN,
    "GET /turns/{turn_id}/rebuilt_input": (Asked(LINEAR, why="the answer is the whole history"),),
    "GET /turns/{turn_id}/proof": (Asked(LINEAR, why=REBUILT),),
    "POST /turns/{turn_id}/feedback": (Asked(body={"score": 1}),),
    "GET /turns/{turn_id}/feedback": PAGE,
    "GET /events": STREAM,
    "POST /fork": (Asked(body={}, growth=LINEAR, why="a short history is copied"),),
    "GET /replay": (Asked(LINEAR, query="speed=0", why="the answer is the whole history"),),
    "GET /branches": (Asked(LINEAR, query="limit=20", why=WALKED),),
    "GET /messages": (
        Asked(LINEAR, query="limit=20", why=WALKED),
        Asked(query="limit=20&order=desc"),
        Asked(query="turns=20"),
    ),
    "GET /chain": (Asked(LINEAR, query="limit=20", why=WALKED), Asked(query="limit=20&order=desc")),
    "POST /shares": (Asked(body={}),),
    "GET /shares": PAGE,
    "POST /compact": ASKS_FOR_SUMMARY,
    "GET /compactions": PLAIN,
    "GET /export": (Asked(LINEAR, why="the answer is the whole thread"),),
    "GET /held": PAGE,
    "GET /audit": PAGE,
    "GET /audit/export": (Asked(LINEAR, why="the answer is the whole chain"),),
}
"""Behind a thread's path."""

OF_V1: Routes = {
    "GET /threads": (
        Asked(query="limit=20"),
        Asked(query="limit=20&user=user-1"),
        Asked(query="limit=20&metadata[a]=b"),
        Asked(query="limit=20&archived=true"),
        Asked(query="limit=20&updated_after=1"),
    ),
    "POST /threads": (Asked(body={}),),
    "PUT /threads/by-name/{name}": (Asked(body={}),),
    "GET /threads/count": (Asked(LINEAR, why="the threads are counted"),),
    "POST /threads/bulk": (Asked(makes="thread", body={"action": "archive", "ids": ["{thread_id}"]}),),
    "POST /threads/claim": "asked with a user token, for threads of one anonymous user",
    "POST /threads/import": "the cost of its body: see tests/test_cost_of_input.py",
    "GET /calls/{call_id}": PLAIN,
    "GET /feedback": PAGE,
    "GET /feedback/export": (Asked(LINEAR, why="the answer is all feedback"),),
    "DELETE /feedback/{feedback_id}": (Asked(makes="feedback"),),
    "DELETE /shares/{share_id}": (Asked(makes="share"),),
    "GET /shared/{token}": (Asked(makes="share"),),
    "GET /audit": PAGE,
    "GET /audit/checkpoint": PLAIN,
    "GET /audit/checkpoints": PAGE,
    "GET /audit/consistency": (Asked(query="from=1"),),
    "GET /audit/witnesses": PLAIN,
    "GET /audit/export": (Asked(LINEAR, why="the answer is the whole trail"),),
    "GET /audit/stream": (Asked(query="limit=20"),),
    "GET /project": PLAIN,
    "PATCH /project": (Asked(body={"record_reads": "staff"}),),
    "GET /users/{user}/data": (Asked(LINEAR, why="the answer is all data of the user"),),
    "DELETE /users/{user}/data": (Asked(makes="user"),),
    "GET /users/{user}/data/preview": (Asked(LINEAR, why="all data of the user is counted"),),
    "GET /purges": PAGE,
    "GET /purges/{purge_id}": PLAIN,
    "GET /purges/{purge_id}/certificate": (Asked(),),
    "POST /holds": (Asked(body={"user": "someone", "reason": "A case"}),),
    "GET /holds": PAGE,
    "GET /holds/{hold_id}": PLAIN,
    "GET /holds/{hold_id}/contents": PAGE,
    "GET /holds/{hold_id}/export": (Asked(),),
    "POST /holds/{hold_id}/release": (Asked(makes="hold", body={"reason": "Over"}),),
    "GET /search": (
        Asked(query="q=nowhere&limit=20"),
        Asked(LINEAR, query="q=word0&limit=20", why="every message that holds the word is ranked"),
    ),
    "GET /find": (Asked(query="id={thread_id}"),),
    "GET /usage": (Asked(LINEAR, why=SUMS),),
    "GET /usage/hours": PLAIN,
    "GET /failures": PAGE,
    "GET /failures/summary": (Asked(LINEAR, why=FAILED),),
    "POST /user_tokens": (Asked(body={"user": "user-1"}),),
    "POST /user_tokens/revoke": (Asked(body={"user": "user-1"}),),
    "POST /stream_tickets": (Asked(body={"path": "/v1/events"}),),
    "GET /events": STREAM,
    "GET /now": PLAIN,
    "GET /now/events": STREAM,
    "POST /webhooks": "a project has 50 at most",
    "GET /webhooks": PAGE,
    "GET /webhooks/{webhook_id}": PLAIN,
    "PATCH /webhooks/{webhook_id}": (Asked(body={"description": "Another"}),),
    "DELETE /webhooks/{webhook_id}": "a project has 50 at most",
    "POST /webhooks/{webhook_id}/rotate": (Asked(body={}),),
    "GET /webhooks/{webhook_id}/deliveries": PAGE,
    "POST /webhooks/{webhook_id}/deliveries/{event_id}/replay": (Asked(),),
    "POST /admin/projects": (Asked(body={"name": "{unique}"}),),
    "GET /admin/projects": (Asked(LINEAR, query="limit=20", why="all projects are sorted"),),
    "GET /admin/projects/{project_id}": PLAIN,
    "PATCH /admin/projects/{project_id}": (Asked(body={"origins": []}),),
    "POST /admin/projects/{project_id}/keys": (Asked(body={"name": "another"}),),
    "GET /admin/projects/{project_id}/keys": PAGE,
    "POST /admin/projects/{project_id}/keys/{key_id}/rotate": (Asked(makes="key", body={}),),
    "DELETE /admin/projects/{project_id}/keys/{key_id}": (Asked(makes="key"),),
    "POST /admin/projects/{project_id}/accounts": "a project has 50 at most",
    "GET /admin/projects/{project_id}/accounts": PAGE,
    "GET /admin/projects/{project_id}/accounts/{account_id}": PLAIN,
    "PATCH /admin/projects/{project_id}/accounts/{account_id}": (Asked(body={"weight": 2}),),
    "DELETE /admin/projects/{project_id}/accounts/{account_id}": "a project has 50 at most",
    "POST /admin/projects/{project_id}/accounts/{account_id}/check": OUTSIDE,
}
"""Behind /v1."""

OF_OPENAI: Routes = {
    "POST /responses": (Asked(body=SAID),),
    "WEBSOCKET /responses": "the same turns as by POST",
    "GET /responses": PAGE,
    "GET /responses/{response_id}": PLAIN,
    "DELETE /responses/{response_id}": (Asked(makes="response"),),
    "POST /responses/{response_id}/cancel": (Asked(),),
    "GET /responses/{response_id}/input_items": PAGE,
    "POST /responses/compact": ASKS_FOR_SUMMARY,
    "POST /responses/input_tokens": (Asked(body=SAID),),
    "POST /chat/completions": (Asked(body={"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}),),
    "GET /models": PLAIN,
    "GET /models/{model}": PLAIN,
    "POST /conversations": (Asked(body={}),),
    "GET /conversations": PAGE,
    "GET /conversations/{conversation_id}": PLAIN,
    "POST /conversations/{conversation_id}": (Asked(body={"metadata": {"a": "b"}}),),
    "DELETE /conversations/{conversation_id}": (Asked(makes="thread"),),
    "GET /conversations/{conversation_id}/items": PAGE,
    "POST /conversations/{conversation_id}/items": (Asked(body={"items": [{"role": "user", "content": "Hello"}]}),),
    "GET /conversations/{conversation_id}/items/{item_id}": (Asked(makes="item"),),
    "DELETE /conversations/{conversation_id}/items/{item_id}": (Asked(makes="item"),),
}
"""Behind /v1, and behind the provider's own paths."""

OF_CONSOLE: Routes = {
    "GET": OF_THE_SERVICE,
    "MOUNT /api": "the API's routes, asked with a session",
    "MOUNT /static/{version}/assets": OF_THE_SERVICE,
    "MOUNT /static/{version}/vendor": OF_THE_SERVICE,
    "GET /sign-in": OF_THE_SERVICE,
    "POST /sign-in": "one key is looked up",
    "GET /sign-in/oidc": OUTSIDE,
    "GET /sign-in/oidc/callback": OUTSIDE,
    "POST /sign-out": "one session is deleted",
    "POST /verify": "one proof of the file that it is sent is checked",
    "GET /audit": PLAIN,
    "GET /audit/rows": PLAIN,
    "GET /failures": (Asked(LINEAR, why=FAILED),),
    "GET /now": PLAIN,
    "GET /now/part": PLAIN,
    "GET /purges": PLAIN,
    "GET /purges/{purge_id}": PLAIN,
    "GET /purges/{purge_id}/state": PLAIN,
    "GET /settings": PLAIN,
    "GET /threads": PLAIN,
    "GET /threads/rows": PLAIN,
    "GET /threads/{thread_id}": PLAIN,
    "GET /threads/{thread_id}/about": PLAIN,
    "GET /threads/{thread_id}/chain": (Asked(LINEAR, why=WALKED),),
    "GET /threads/{thread_id}/earlier": (Asked(query="last={turn_id}"),),
    "GET /threads/{thread_id}/replay": PLAIN,
    "GET /threads/{thread_id}/shares": PLAIN,
    "GET /threads/{thread_id}/trail": PLAIN,
    "GET /threads/{thread_id}/tree": (Asked(LINEAR, why=WALKED),),
    "GET /threads/{thread_id}/turns/{turn_id}": PLAIN,
    "GET /threads/{thread_id}/turns/{turn_id}/calls": PLAIN,
    "GET /threads/{thread_id}/turns/{turn_id}/details": PLAIN,
    "GET /threads/{thread_id}/turns/{turn_id}/panel": PLAIN,
    "GET /usage": (Asked(LINEAR, why=SUMS),),
    "GET /usage/{group}": (Asked(LINEAR, why=SUMS),),
    "GET /usage/{group}/top": (Asked(LINEAR, why=SUMS),),
    "GET /users": PLAIN,
    "GET /users/purge": (Asked(query="user=user-1"),),
}
"""Behind /console."""

OF_NOBODY: Routes = {
    "GET /healthz": PLAIN,
    "GET /readyz": PLAIN,
    "GET /metrics": PLAIN,
    "GET /openapi.json": PLAIN,
    "GET /docs": OF_THE_SERVICE,
    "MOUNT /docs/assets": OF_THE_SERVICE,
    "WEBSOCKET /{path}": "refuses",
}


def table() -> Routes:
    """Return every route of the service, by method and path, with the requests to it."""
    found = dict(OF_NOBODY)
    for path in (BY_ID, BY_NAME):
        found |= _behind(path, OF_THREADS)
    for prefix in PROVIDER_PATHS:
        found |= dict.fromkeys(_behind(prefix, OF_OPENAI), "the same endpoints as behind /v1")
    return found | _behind("/v1", OF_OPENAI) | _behind("/v1", OF_V1) | _behind("/console", OF_CONSOLE)


def served() -> set[str]:
    """Return the methods and paths that the service has."""
    service = build(Connected(database_url="postgresql://nowhere/none", redis_url="redis://nowhere"))
    return set(_served(service))


def _served(service: Any) -> Iterator[str]:
    for context in iter_route_contexts(service.routes):
        path = str(context.path).replace(":path}", "}")
        if isinstance(context.methods, set):
            yield from (f"{method} {path}" for method in context.methods - {"HEAD", "OPTIONS"})
            continue
        route = getattr(context, "original_route", None) or getattr(context, "route", None) or context
        yield f"{'WEBSOCKET' if 'Socket' in type(route).__name__ else 'MOUNT'} {path}"


def _behind(prefix: str, routes: Routes) -> Routes:
    found: Routes = {}
    for name, asked in routes.items():
        method, _, path = name.partition(" ")
        found[f"{method} {prefix}{path}"] = asked
    return found
