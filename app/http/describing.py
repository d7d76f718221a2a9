"""Parts of the OpenAPI document that FastAPI does not derive from a route: errors, other media types, headers."""

from typing import Any

from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel
from typing_extensions import TypedDict

REF = "#/components/schemas/{model}"

EVENT: dict[str, Any] = {
    "schema": {
        "type": "object",
        "description": "An event of the stream: `data` is JSON, of the Responses API's events.",
        "properties": {name: {"type": "string"} for name in ("event", "data", "id")},
        "required": ["data"],
    }
}


class ErrorFields(TypedDict):
    message: str
    """Says what to do next."""
    type: str
    param: str | None
    """The field at fault."""
    code: str | None


class Error(TypedDict):
    error: ErrorFields


class Deleted(TypedDict):
    id: str
    object: str
    deleted: bool


class ItemObject(TypedDict):
    """One element of an input or output, in one of the Responses API's own types."""

    type: str


EVENTS = "text/event-stream"
NDJSON = "application/x-ndjson"

Responses = dict[int | str, dict[str, Any]]
"""The form of a route's `responses`."""


def as_text(media_type: str) -> Responses:
    """Return the success response of a route that answers with text of this type."""
    return {200: {"content": {media_type: {"schema": {"type": "string"}}}}}


def error(description: str) -> dict[str, Any]:
    """Return a response that is an error."""
    return {"model": Error, "description": description}


AS_EVENTS: Responses = {200: {"content": {EVENTS: EVENT}}}
AS_LINES = as_text(NDJSON)
AS_TEXT = as_text("text/plain")

UNCHANGED: Responses = {304: {"description": "It is what If-None-Match names."}}
CONFLICT: Responses = {409: error("Something else has the name, or has changed it meanwhile.")}
FORBIDDEN: Responses = {403: error("The key may not do this.")}
OF_A_MODEL: Responses = {
    402: error("The provider's account has no money left."),
    403: error("The provider refuses the account, or the model to it."),
    409: error("The thread is busy, or the Idempotency-Key was another request's."),
    422: error("The provider refuses what it was sent."),
    429: error("The provider is throttled."),
    502: error("The provider has failed."),
    504: error("The provider has not answered in time."),
}


def request_body(model: type[BaseModel], *, required: bool) -> dict[str, Any]:
    """Return a request body in OpenAPI's words, without nulls, as FastAPI writes its own."""
    schema = jsonable_encoder(model.model_json_schema(ref_template=REF), exclude_none=True)
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _header(name: str, said: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"in": "header", "name": name, "required": False, "description": said, "schema": schema}


LAST_EVENT_ID = _header(
    "Last-Event-ID",
    "The number of the last event that was read; `starting_after` goes before it.",
    {"type": "string", "pattern": "^[0-9]{1,9}$"},
)
LIFE_EVENT_ID = _header(
    "Last-Event-ID",
    "The id of the last event that was read; from now on, if left out.",
    {"type": "string", "pattern": "^[0-9]{1,9}@[0-9]{1,18}(;[0-9]{1,9}\\.[0-9]{1,9}){0,64}$"},
)
LIVE_EVENT_ID = _header(
    "Last-Event-ID",
    "The id of the last event that was read; a snapshot and what follows it, if left out.",
    {"type": "string", "pattern": "^[0-9]{1,17}(\\.[0-9a-f]{32}\\.[0-9]{1,18})?$"},
)
IDEMPOTENCY_KEY = _header(
    "Idempotency-Key",
    "A request that is sent again with the same key gets the same turn.",
    {"type": "string", "minLength": 1, "maxLength": 255},
)
HEARTBEAT_HEADER = "Everthread-Heartbeat"
HEARTBEAT = _header(
    HEARTBEAT_HEADER,
    "`off`: a silent stream has no comments to keep the connection alive.",
    {"type": "string", "enum": ["on", "off"]},
)
METADATA: dict[str, Any] = {
    "in": "query",
    "name": "metadata",
    "required": False,
    "style": "deepObject",
    "explode": True,
    "description": "`metadata[key]=value`: threads that have all of these.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}
