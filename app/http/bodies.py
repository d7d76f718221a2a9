"""Bytes in, bytes out: request bodies checked before anything else sees them, answers as JSON."""

import asyncio
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Self, TypeVar

import orjson
from fastapi import Request, params
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from app.http.errors import BadRequest, BodyTooLarge, BodyTooSlow, UnsupportedEncoding
from app.http.exchange import Exchange, exchange_of
from app.http.fields import field_of, fields_of
from app.http.nesting import Excess, excess
from app.http.services import services
from app.settings import Connected

Model = TypeVar("Model", bound=BaseModel)
Element = TypeVar("Element")

ListOf = Annotated[list[Element], Field(fail_fast=True)]
"""A list of a body, checked up to its first wrong element: an error about each costs more than the list itself."""

MOST_FIELDS = 500
"""Fields of a body, or of an object in one, whose names are checked, known or not."""

JSON_TYPE = "application/json"


class Body(BaseModel):
    """Request body with strict types and without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few(cls, value: Any) -> Any:
        return check_field_count(value)


def examples(*bodies: dict[str, Any], **schema: Any) -> ConfigDict:
    """Return a model's configuration that adds examples, and other keywords, to its JSON schema."""
    return ConfigDict(json_schema_extra={"examples": list(bodies), **schema})


class Changes(Body):
    """A body that changes what is there: with one field at least."""

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"send at least one of {', '.join(type(self).model_fields)}")
        return self


def check_field_count(value: Any) -> Any:
    """Return the value. Raises ValueError for an object of too many fields: an error about each is expensive."""
    if isinstance(value, dict) and len(value) > MOST_FIELDS:
        raise ValueError(f"has more than {MOST_FIELDS} fields")
    return value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Accept whole numbers written as 5.0, since JSON has one kind of number. Place it behind an integer's bounds."""

LARGE_BYTES = 1 << 20
"""A larger body is hashed and measured in a thread, beside the event loop."""

LONGEST_LENGTH = 18
"""Digits of a Content-Length; no body is longer than such a number."""

PAUSES = 10
"""Time limit of a whole body, as a multiple of the longest pause."""


class JSONAnswer(Response):
    """Response in JSON. Its header list is made only where something asks for it."""

    media_type = JSON_TYPE

    def __init__(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self._given: dict[str, str] = headers

    def __getattr__(self, name: str) -> Any:
        if name != "raw_headers":
            raise AttributeError(name)
        self.init_headers(self._given)
        return self.raw_headers

    @property
    def is_unchanged(self) -> bool:
        """True if it has the headers that it was made with, and nothing to do behind it."""
        return "raw_headers" not in self.__dict__ and self.background is None

    def write(self, exchange: Exchange) -> None:
        """Write the answer at once. See `Exchange.respond`."""
        exchange.respond(self.status_code, self._given, JSON_TYPE, bytes(self.body))


def json_response(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> JSONAnswer:
    return JSONAnswer(orjson.dumps(content), status, headers or {})


def checked(model: type[Model], body: dict[str, Any]) -> Model:
    """A body as a model has it.

    Raises:
        BadRequest: naming the field at fault.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise wrong_field(error.errors()[0]) from error


def wrong_field(found: Mapping[str, Any]) -> BadRequest:
    """One of pydantic's errors as the service's own, naming the field."""
    # In a query, the field comes after the word `query`.
    where = [part for part in found["loc"] if part not in ("query", "path", "[key]")]
    param = ".".join(str(part)[:LONGEST_KEY] for part in where) or None
    code = "unknown_parameter" if found["type"] == "extra_forbidden" else "invalid_value"
    message = str(found["msg"]).removeprefix("Value error, ")
    said = "This field is not known here." if code == "unknown_parameter" else f"{message}."
    return BadRequest(said if param is None else f"'{param}': {said}", param=param, code=code)


async def body_of(request: Request, most: int | None = None) -> bytes:
    """The request's body, whatever it is.

    Args:
        most: bytes, where it may have fewer than any body.

    Raises:
        BodyTooLarge: over that, whether or not Content-Length said so.
    """
    return await _body_of(request, services(request)[Connected], most)


async def _body_of(request: Request, settings: Connected, most: int | None) -> bytes:
    most = settings.max_body_bytes if most is None else min(most, settings.max_body_bytes)
    exchange = exchange_of(request.receive)
    raw = None if exchange is None else exchange.whole_body()
    if raw is None:
        raw = await _read(request, most, settings.body_pause_seconds)
    elif len(raw) > most:
        raise too_large(most)
    encoding = field_of(request.scope, b"content-encoding")
    return raw if encoding is None else _unpacked(raw, encoding.strip().lower(), most)


async def json_object(request: Request, *, limited: bool = True) -> dict[str, Any]:
    """The request's body.

    Args:
        limited: False for a route that deletes, which no limit of the project's may refuse.

    Raises:
        BodyTooLarge: over `max_body_bytes`, or the project's limit.
        BadRequest: not UTF-8, not JSON, not an object, nested too deep, of too many values, or with a NUL character.
    """
    settings, state = services(request)[Connected], request.scope.setdefault("state", {})
    raw = await _body_of(request, settings, state.get("most_bytes") if limited else None)
    if not raw:
        raise BadRequest("The request has no body. Send a JSON object.", code="invalid_json")
    measure = asyncio.to_thread(_measured, raw, settings) if len(raw) > LARGE_BYTES else None
    state["body_hash"] = _measured(raw, settings) if measure is None else await measure
    return _object(raw)


def _measured(raw: bytes, settings: Connected) -> bytes:
    """Return the hash of a body that is not too deep, nor of too many values."""
    _check_size(raw, settings)
    return hashlib.sha256(raw).digest()


def parsed(raw: bytes, settings: Connected) -> dict[str, Any]:
    """A body, or a message, as the object that it is.

    Raises:
        BadRequest: not UTF-8, not JSON, not an object, nested too deep, of too many values, or with a NUL character.
    """
    _check_size(raw, settings)
    return _object(raw)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The request body is not valid JSON in UTF-8: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise BadRequest("The request body must be a JSON object.", code="invalid_json")
    if b"\\u0000" in raw and (where := _find_nul(body)) is not None:
        raise BadRequest(
            f"'{where}' contains a NUL character (\\u0000), which cannot be stored. Remove it.",
            param=where,
            code="invalid_character",
        )
    return body


def _check_size(raw: bytes, settings: Connected) -> None:
    match excess(raw, values=settings.max_json_values, levels=settings.max_json_depth):
        case Excess.LEVELS:
            raise BadRequest(
                f"The request body is nested more than {settings.max_json_depth} levels deep. Flatten it.",
                code="nesting_too_deep",
            )
        case Excess.VALUES:
            raise BadRequest(
                f"The request body has more than {settings.max_json_values} JSON values. Send it in parts, or have "
                "EVERTHREAD_MAX_JSON_VALUES raised.",
                code="too_many_values",
            )


@dataclass(frozen=True, slots=True)
class BodyReader(Generic[Model]):
    """Dependency that reads the request's body within its bounds and checks it with a model."""

    model: type[Model]
    optional: bool
    limited: bool

    async def __call__(self, request: Request) -> Model:
        fields = fields_of(request.scope)
        if self.optional and fields.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in fields:
            return checked(self.model, {})
        return checked(self.model, await json_object(request, limited=self.limited))


@dataclass(frozen=True)
class _Read(params.Depends):
    """Dependency on a `BodyReader` for the annotated model.

    FastAPI reads a body that a route declares as a model before it resolves the dependencies, so before the caller is
    authenticated. A dependency is resolved in the order of the parameters: declare it after the caller.
    """

    optional: bool = False
    """True if a request without a body means an empty object."""
    limited: bool = True
    """False if the project's limit on body bytes does not apply."""

    def __post_init__(self) -> None:
        if isinstance(self.dependency, type):  # FastAPI has filled in the annotated model.
            object.__setattr__(self, "dependency", BodyReader(self.dependency, self.optional, self.limited))
        super().__post_init__()


Sent = Annotated[Model, _Read()]
"""The request's body, as a model."""
SentOrEmpty = Annotated[Model, _Read(optional=True)]
SentUnlimited = Annotated[Model, _Read(limited=False)]


async def _read(request: Request, limit: int, pause_seconds: float) -> bytes:
    declared = (field_of(request.scope, b"content-length") or "").lstrip("0")
    if len(declared) > LONGEST_LENGTH or (declared.isdecimal() and int(declared) > limit):
        raise too_large(limit)
    chunks: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    begun = loop.time()
    until = begun + PAUSES * pause_seconds
    try:
        async with asyncio.timeout_at(begun + pause_seconds) as patience:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                chunks.append(chunk)
                if (now := loop.time()) > begun + pause_seconds / 10:  # Most bodies come at once.
                    patience.reschedule(min(until, now + pause_seconds))
    except TimeoutError as error:
        raise BodyTooSlow(
            "The request body did not come in time. Send it again.", headers={"Connection": "close"}
        ) from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _unpacked(raw: bytes, encoding: str, limit: int) -> bytes:
    """A body as it was before its client packed it.

    Raises:
        APIError: it is packed in a way that is not known here, or is not what it says, or is larger than one may be.
    """
    if encoding in ("identity", ""):
        return raw
    if encoding not in ("gzip", "x-gzip"):
        raise UnsupportedEncoding(
            f"The request body is packed as {encoding[:80]!r}. Send it as it is, or as gzip.",
            headers={"Accept-Encoding": "gzip, identity"},
        )
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        body = unpacking.decompress(raw, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"The request body is not gzip: {error}.", code="invalid_encoding") from error
    if len(body) > limit:
        raise too_large(limit)
    if not unpacking.eof or unpacking.unused_data:
        raise BadRequest("The request body is not one whole gzip stream.", code="invalid_encoding")
    return body


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request body is larger than {limit} bytes. Send less, or have the project's limit 'body_bytes', or "
        "EVERTHREAD_MAX_BODY_BYTES, raised."
    )


LONGEST_KEY = 200
"""Characters of a key that an error names."""


def _find_nul(value: Any) -> str | None:
    """Return the path of a string (or key) that holds a NUL character. The nesting of the value is bounded."""
    found = _nul_in(value)
    return None if found is None else found.removeprefix(".").replace("\0", "\\u0000")


def _nul_in(value: Any) -> str | None:
    if isinstance(value, str):
        return "" if "\0" in value else None
    if isinstance(value, list):
        for index, element in enumerate(value):
            if (inner := _nul_in(element)) is not None:
                return f"[{index}]{inner}"
    elif isinstance(value, dict):
        for key, element in value.items():
            inner = "" if "\0" in key else _nul_in(element)
            if inner is not None:
                return f".{key[:LONGEST_KEY]}{inner}"
    return None
