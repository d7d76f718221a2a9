"""What a route takes and gives, said beside it for the OpenAPI document, with the types that the code checks with."""

from typing import Any

from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel
from starlette.responses import Response
from typing_extensions import TypedDict

REF = "#/components/schemas/{model}"

TEXT: dict[str, Any] = {"schema": {"type": "string"}}

EVENT: dict[str, Any] = {
    "schema": {
        "type": "object",
        "description": "An event of the stream: `data` is JSON, of the Responses API's events.",
        "properties": {name: {"type": "string"} for name in ("event", "data", "id")},
        "required": ["data"],
    }
}

ERROR: dict[str, Any] = {"application/json": {"schema": {"$ref": REF.format(model="Error")}}}


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
PLAIN = "text/plain"

CONFLICT = {409: "Something else has the name, or has changed it meanwhile."}
FORBIDDEN = {403: "The key may not do this."}
OF_A_BODY = {
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is packed in a way that is not known here.",
}
OF_A_MODEL = {
    402: "The provider's account has no money left.",
    403: "The provider refuses the account, or the model to it.",
    409: "The thread is busy, or the Idempotency-Key was another request's.",
    422: "The provider refuses what it was sent.",
    429: "The provider is throttled.",
    502: "The provider has failed.",
    504: "The provider has not answered in time.",
}


def described(
    says: str,
    gives: Any = None,
    *,
    status: int = 200,
    media: str | None = None,
    also: dict[int, Any] | None = None,
    or_media: tuple[str, ...] = (),
    body: type[BaseModel] | None = None,
    errors: dict[int, str] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A route's description, as the arguments that FastAPI's decorators take.

    Args:
        says: what it does, in a sentence.
        gives: the type of its answer.
        status: the answer's.
        media: of an answer that is not JSON.
        also: what it answers with under other statuses.
        or_media: other media types that the answer can be asked for in.
        body: the model of its body, where the route reads that by itself.
        errors: statuses of its own, and what each means.
        parameters: what the code reads by itself, in OpenAPI's words.
    """
    kinds = or_media if media is None else (media,)
    answers: dict[int | str, dict[str, Any]] = {
        status: {"content": {kind: EVENT if kind == EVENTS else TEXT for kind in kinds}}
    }
    for code, shape in {**({} if gives is None else {status: gives}), **(also or {})}.items():
        answers.setdefault(code, {})["model"] = shape
    for code, said in (errors or {}).items():
        answers[code] = {"description": said, "content": ERROR}
    extra: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if body is not None:
        extra["requestBody"] = request_body(body, required=True)
    kind = {} if media is None else {"response_class": Response}
    return {"summary": says, "status_code": status, "responses": answers, "openapi_extra": extra, **kind}


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
    {"type": "string", "pattern": "^[0-9]{1,9}(;[0-9]{1,9}\\.[0-9]{1,9}){0,64}$"},
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
