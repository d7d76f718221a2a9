"""The OpenAPI document of the routes as they are, and the page that shows it."""

import base64
import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

import fastapi_offline
import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from app.db import ids
from app.http.bodies import BodyReader
from app.http.describing import REF, request_body

DOCUMENT = "/openapi.json"
PAGE = "/docs"
ASSETS = "/docs/assets"

PUBLIC = ("/healthz", "/readyz", "/metrics", "/v1/shared/{token}")
"""Routes that need no key."""

PARAMETERS = {
    "thread_id": "The id of a thread; on either surface, `thread_…` and `conv_…` are the same.",
    "name": "The name of a thread.",
    "turn_id": "The id of a turn; `turn_…` and `resp_…` are the same.",
    "user": "An end user, as threads name it.",
    "model": "The name of a model.",
}

ERROR: dict[str, Any] = {"application/json": {"schema": {"$ref": REF.format(model="Error")}}}

OF_A_BODY = {
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "415": "The body is packed in a way that is not known here.",
}
OF_ALL = {
    "400": "A field is wrong: `param` names it.",
    "401": "No key was sent, or one that is unknown, revoked or expired.",
    "403": "The key lacks the scope that this request needs.",
    "404": "There is no such thing in this project.",
    "500": "The service failed.",
    "503": "The database is unavailable, or the service is full. `Retry-After` says when to try again.",
}

RENAMED = {"ResponseObject": "ResponseObject", "KeyLimits": "LimitsOfKey"}
"""Schemas whose short names collide in generated clients: openapi-python-client has a `Response` of its own, and calls
the type of the field `limits` of `Key` `KeyLimits`."""

TAGS = {
    "threads": "Named, persistent conversations.",
    "turns": "One request to the model with its answer.",
    "events": "Streams of what happens to threads, and tickets that open a stream.",
    "history": "The conversation of a thread: reading, forking, deleting.",
    "memory": "Summaries of the beginning of long conversations.",
    "responses": "OpenAI's Responses API. A response is a turn.",
    "conversations": "OpenAI's Conversations API. A conversation is a thread.",
    "models": "Abilities and prices of the models.",
    "chat": "Passed on to the provider.",
    "search": "Full text.",
    "failures": "Failed and incomplete turns.",
    "usage": "Turns, tokens, money.",
    "audit": "Who did what, and the proof of it.",
    "retention": "Keeping and forgetting.",
    "transfer": "Whole threads, out and in.",
    "webhooks": "Others told of what happens.",
    "users": "Tokens for end users, so that a browser speaks to the service itself.",
    "admin": "Projects, keys, provider accounts and limits, for keys with the scope admin.",
    "health": "For who runs it.",
}

INTRODUCTION = """Conversation state for Qwen that does not expire. A thread is reached by its id, or by its name under
`/v1/threads/by-name/`. `/v1/responses` and `/v1/conversations` are there under the provider's own paths too, and
`/v1/responses` over a WebSocket. Each path takes `HEAD` where it takes `GET`, and `OPTIONS`."""


CONVERSATION_ID = f"^({'|'.join(ids.THREAD_PREFIXES)})_"
"""The pattern of a conversation's id in a path."""

WITHOUT_NUL = "^[^\\u0000]*$"
"""The pattern of a string that has no other: no text can hold a NUL, which Postgres does not store."""


def operation_id(route: Any) -> str:
    """Return the name of a route in generated clients."""
    by_name = "_by_name" if "/by-name/" in route.path else ""
    return f"{route.tags[0]}_{route.name}{by_name}"


def routes() -> list[Route | Mount]:
    """The document and its page, for anybody: they say nothing of any project."""
    assets = Path(fastapi_offline.__file__).parent / "static"
    return [
        Route(DOCUMENT, _document, methods=["GET"]),
        Route(PAGE, _page, methods=["GET"]),
        Mount(ASSETS, StaticFiles(directory=assets)),
    ]


async def _document(request: Request) -> Response:
    return Response(document_bytes(request.app), media_type="application/json")


def document_bytes(app: FastAPI) -> bytes:
    """The document of an application, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = document(app)
    return orjson.dumps(app.openapi_schema)


async def _page(request: Request) -> Response:
    shown = get_swagger_ui_html(
        openapi_url=DOCUMENT,
        title="Everthread",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
    )
    own = re.findall(rb"<script>(.*?)</script>", bytes(shown.body), re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'" for each in own)
    shown.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return shown


def document(app: FastAPI) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # HEAD has the name of GET; it is taken out below.
        made = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            summary=app.summary,
            description=INTRODUCTION,
            routes=app.routes,
            tags=[{"name": name, "description": said} for name, said in TAGS.items()],
        )
    schemas: dict[str, Any] = made.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"key": []}]
    readers = _body_readers(app)
    for path, operations in made["paths"].items():
        operations.pop("head", None)
        for method, operation in operations.items():
            if (reader := readers.get((path, method))) is not None:
                operation["requestBody"] = request_body(reader.model, required=not reader.optional)
            _complete(path, operation, schemas)
    _forbid_nul(made)
    named: dict[str, Any] = _named({name: _short(name) for name in schemas}, made)
    return named


def _body_readers(app: FastAPI) -> dict[tuple[str, str], BodyReader[Any]]:
    """Return what reads the body of each operation, by its path and method."""
    return {
        (str(route.path_format), method.lower()): dependency.call
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        for dependency in route.dependant.dependencies
        if isinstance(dependency.call, BodyReader)
        for method in route.methods or ()
    }


def _forbid_nul(schema: Any) -> None:
    """Give every string of a document, and every name of a map, the pattern that excludes a NUL."""
    if isinstance(schema, list):
        for each in schema:
            _forbid_nul(each)
    elif isinstance(schema, dict):
        if schema.get("type") == "string" and not {"pattern", "enum", "const", "format"} & schema.keys():
            schema["pattern"] = WITHOUT_NUL
        if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
            schema.setdefault("propertyNames", {}).setdefault("pattern", WITHOUT_NUL)
        for name, each in schema.items():
            if name not in ("examples", "example", "default"):
                _forbid_nul(each)


def _short(name: str) -> str:
    """`ListObject_ThreadObject_` is a `ThreadList`."""
    if name in RENAMED:
        return RENAMED[name]
    of_list = re.fullmatch(r"ListObject_(\w+?)(?:Object)?_", name)
    return f"{of_list[1]}List" if of_list else name.removesuffix("Object")


def _named(names: dict[str, str], made: Any) -> Any:
    """The same with its schemas under other names, and without the titles that pydantic gives to each field."""
    if isinstance(made, list):
        return [_named(names, each) for each in made]
    if not isinstance(made, dict):
        return made
    if isinstance(ref := made.get("$ref"), str):
        return {**made, "$ref": REF.format(model=names[ref.rpartition("/")[2]])}
    is_schema = not {"info", "openapi"} & made.keys() and ("type" in made or "anyOf" in made)
    return {
        names.get(name, name) if names.keys() >= made.keys() else name: _named(names, value)
        for name, value in made.items()
        if not (is_schema and name == "title" and isinstance(value, str))
    }


def _complete(path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Document what FastAPI cannot know of a route that reads its request by itself."""
    parameters: list[dict[str, Any]] = operation.setdefault("parameters", [])
    declared = {each["name"]: each for each in parameters if each["in"] == "path"}
    for name in re.findall(r"{(\w+)}", path):
        if name not in declared:
            declared[name] = {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
            parameters.append(declared[name])
        declared[name]["schema"].setdefault("minLength", 1)
        if name == "conversation_id":
            declared[name]["schema"].setdefault("pattern", CONVERSATION_ID)
        if name in PARAMETERS:
            declared[name].setdefault("description", PARAMETERS[name])
    summary, _, rest = operation.pop("description").partition("\n\n")
    operation |= {"summary": summary, "description": rest} if rest else {"summary": summary}
    body = operation.get("requestBody")
    if body is not None:
        content = body["content"]["application/json"]
        schema = content["schema"]
        schemas.update(schema.pop("$defs", {}))
        schemas[schema["title"]] = schema
        content["schema"] = {"$ref": REF.format(model=schema["title"])}
    answers = operation["responses"]
    if answers.get("422", {}).get("description") == "Validation Error":
        del answers["422"]  # FastAPI's own: here, a wrong field is a 400.
    for answer in answers.values():
        if not answer.get("description"):
            answer["description"] = "As asked."
    if path in PUBLIC:
        operation["security"] = []
    if path in PUBLIC and not path.startswith("/v1/"):
        return
    for status, said in {**OF_ALL, **(OF_A_BODY if body is not None else {})}.items():
        answers.setdefault(status, {"description": said, "content": ERROR})
    answers.setdefault("default", {"description": "Another error.", "content": ERROR})
