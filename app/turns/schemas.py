"""Requests that open a turn."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from app.db import ids
from app.http.bodies import WHOLE, Body, ListOf, checked
from app.http.errors import BadRequest
from app.items import media
from app.items.client_door import COMPACTION, INPUT_SCHEMA, REFERENCE, check_sendable, items_of
from app.items.input_item import InputItem, with_facts
from app.items.kinds import CONFIGURATION
from app.items.shapes import Item, Modality
from app.limits.room import check_count
from app.limits.rules import user_of
from app.process.values import value
from app.projects.presets import NO_PRESETS, Presets
from app.projects.settings import NO_LIMITS, NO_SETTINGS, KeyLimits, ProjectSettings, least
from app.provider import structured
from app.provider.models import Family, Models
from app.threads.schemas import TURN_ID, Metadata
from app.trail.records import Actor

OURS = ("input", "metadata", "parent_id", "replaces", "if_busy", "model", "on_disconnect")
"""Fields that are not passed on as they are."""

REPLACED = ("previous_response_id", "conversation")
"""The provider's own state: a thread's turns are continued by Everthread."""


TO_RESOLVE = frozenset((REFERENCE, COMPACTION))
"""Types of items that stand for others."""

DATA, TYPE = attrgetter("data"), attrgetter("type")

APPROVAL = "mcp_approval_response"

OF_CONVERSATION = "conversation"
"""The parameter that is kept of a request that named a conversation, and no previous response: it is answered so."""


class IfBusy(StrEnum):
    """The action of a request that finds a turn in progress."""

    REJECT = "reject"
    WAIT = "wait"
    CANCEL = "cancel"
    """Stop that turn."""
    BESIDE = "beside"
    """Run as a branch beside it, also where the thread is free."""
    BESIDE_IF_NEEDED = "beside_if_needed"
    """Run as a branch only where the thread is busy or the parent is not its head. Requests cannot name this."""


class TextFormat(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _has_schema(self) -> "TextFormat":
        if self.type == "json_schema" and self.schema_ is None:
            raise ValueError("a json_schema needs its 'schema'")
        if self.schema_ is not None:
            structured.checked_schema(self.schema_)
        return self


class TextOptions(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    format: TextFormat | None = None


class ContextManagement(Body):
    type: Literal["compaction"]
    compact_threshold: Annotated[int, Field(ge=1), WHOLE] | None = None
    """Tokens."""


class Reasoning(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    effort: str | None = None
    """A model that does not know it gets the next lower one that it knows."""
    summary: str | None = None


class Tool(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    type: str = Field(min_length=1)
    name: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _is_callable(self) -> "Tool":
        if self.type == "function" and self.name is None and self.function is None:
            raise ValueError("a function needs its 'name'")
        return self

    @property
    def function(self) -> Any:
        """Chat's form has its name in here."""
        return (self.model_extra or {}).get("function")


Input = Annotated[Any, WithJsonSchema(INPUT_SCHEMA)]
"""Checked by the door for items (`items/client_door.py`)."""


class ToolChoice(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    type: str = Field(min_length=1)


class TurnCreate(BaseModel):
    """The Responses API's create parameters. Fields that are not named here pass through."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={"examples": [{"input": "Hello!"}, {"input": "Hello!", "stream": True}]},
    )

    input: Input = None
    model: str | None = Field(None, min_length=1, max_length=256)
    instructions: str | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    tools: ListOf[Tool] | None = None
    reasoning: Reasoning | None = None
    include: ListOf[str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    stream_options: dict[str, Any] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: Annotated[int, WHOLE] | None = None
    stop: str | ListOf[str] | None = None
    enable_thinking: bool | None = None
    thinking_budget: Annotated[int, Field(ge=0), WHOLE] | None = None
    max_output_tokens: Annotated[int, Field(ge=16), WHOLE] | None = None
    temperature: float | None = Field(None, ge=0, lt=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tool_calls: Annotated[int, Field(ge=1), WHOLE] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    context_management: ListOf[ContextManagement] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    text: TextOptions | None = None
    parent_id: Annotated[str | None, TURN_ID] = None
    replaces: Annotated[str | None, TURN_ID] = None
    if_busy: Literal["reject", "wait", "cancel", "beside"] | None = None
    on_disconnect: Literal["continue", "cancel"] | None = None
    """The action when the requesting client disconnects; the turn continues if left out."""


class Short:
    """The fields of `TurnCreate` that `new_turn` reads, of a body that has few and simple ones.

    pydantic looks at each of the forty fields of a model, whether a body has them or not.
    """

    __slots__ = ("input", "stream")

    FIELDS = frozenset(("input", "stream"))
    model = metadata = background = parent_id = replaces = if_busy = on_disconnect = None

    def __init__(self, input_: Any, stream: bool) -> None:
        self.input = input_
        self.stream = stream


def _checked(shape: type[TurnCreate], body: dict[str, Any]) -> TurnCreate | Short:
    """Return a body as its model has it. Raises `BadRequest`, naming the field at fault."""
    stream = body.get("stream", False)
    if type(stream) is bool and Short.FIELDS.issuperset(body):
        return Short(body.get("input"), stream)
    return checked(shape, body)


@value
class Origin:
    """The request that a turn came with."""

    api_key_id: UUID | None = None
    address: str | None = None
    """The client's network address."""
    body_hash: bytes | None = None
    idempotency_key: str | None = None
    retry_within_seconds: float | None = None
    """Set for an automatic retry of a client: how long ago its first attempt may have been."""
    session_cache: str | None = None
    """The project's own setting: off, on or auto; None: as the service is set."""
    user: str | None = None
    """The end user whose token it came with."""
    settings: ProjectSettings = NO_SETTINGS
    key_limits: KeyLimits = NO_LIMITS
    """The settings of the project."""
    presets: Presets = NO_PRESETS
    """Presets of an end user's request."""

    @property
    def actor(self) -> Actor:
        return Actor(self.api_key_id, self.address)


@value
class TurnRequest:
    """A turn that is about to be opened."""

    items: Sequence[InputItem]
    model: str
    family: Family
    """The known abilities of the model."""
    params: dict[str, Any]
    """The parameters sent to the provider besides input and model."""
    metadata: dict[str, str]
    stream: bool
    """True if the client is answered with events."""
    streamed: bool
    """True if the provider is asked for events: a background turn can be followed later."""
    parent_id: UUID | None
    ignored: list[str]
    requested_model: str = ""
    """The model name that the client has sent."""
    previous_id: UUID | None = None
    """The response that it continues from, if that is no stored turn."""
    background: bool = False
    if_busy: IfBusy = IfBusy.REJECT
    origin: Origin = Origin()
    replaced_id: UUID | None = None
    """The turn that an end user's request replaces."""
    root: bool = False
    """It continues nothing, though the thread may have turns: it begins a branch of its own."""
    stored: bool = True
    """False if nothing of the turn is written to Postgres."""
    user: str | None = None
    """The end user of the token, or else the one that the request names: a thread that it makes is this user's."""
    ends_with_client: bool = False
    """It is cancelled when the client that asked for it goes away."""
    approvals: Mapping[str, str] = field(default_factory=dict)
    """The ids of the approval requests that the input answers, and for each the field that names it."""

    @property
    def replaced_model(self) -> str | None:
        """The requested name and the model that it stands for; None if the model was named itself."""
        return f"{self.requested_model} -> {self.model}" if self.requested_model not in ("", self.model) else None

    @property
    def output_limit(self) -> int | None:
        """The number of tokens after which the model stops, if it is known."""
        return least(self.params.get("max_output_tokens"), self.family.output_limit)

    @property
    def input(self) -> list[Item]:
        """The items as they came through the door."""
        return list(map(DATA, self.items))

    @property
    def is_resolved(self) -> bool:
        """False if the input names stored items, or holds compactions that must be opened."""
        return TO_RESOLVE.isdisjoint(map(TYPE, self.items))

    @property
    def references(self) -> list[str]:
        """The ids of stored items that the input names instead of holding them."""
        return [item.data["id"] for item in self.items if item.type == REFERENCE]

    @property
    def compactions(self) -> bool:
        """True if the input holds compactions that must be opened."""
        return any(item.type == COMPACTION for item in self.items)


def turn_request(body: dict[str, Any], models: Models, origin: Origin, *, root: bool = False) -> TurnRequest:
    """Check a request to `threads/{id}/turns`.

    Args:
        root: it continues nothing, though the thread may have turns.

    Raises:
        BadRequest: naming the field at fault.
    """
    for name in REPLACED:
        if name in body and body[name] is not None:
            raise BadRequest(
                f"'{name}' is not taken here: the thread continues by itself. "
                "To continue an earlier turn, send its id as 'parent_id'.",
                param=name,
            )
    return new_turn(body, models, origin, root=root)


def new_turn(
    body: dict[str, Any],
    models: Models,
    origin: Origin,
    *,
    parent_id: UUID | None = None,
    stored: bool = True,
    if_busy: IfBusy = IfBusy.REJECT,
    needs_input: bool = True,
    root: bool = False,
    shape: type[TurnCreate] = TurnCreate,
) -> TurnRequest:
    """Check the create parameters that both surfaces share.

    Args:
        shape: the surface's own.
        root: it continues nothing, though the thread may have turns.
        parent_id: the turn to continue, where the body itself names none.
        needs_input: False where the conversation may hold already what is to be answered.
        if_busy: what to do where the body does not say.
    """
    sent = _checked(shape, body)
    if sent.replaces is not None:
        raise BadRequest("'replaces' is taken by /v1/threads/{id}/turns only.", param="replaces")
    if sent.input is None and needs_input:
        raise BadRequest("'input' is required: a string or a list of items.", param="input", code="missing_parameter")
    if sent.background and not stored:
        raise BadRequest(
            "'background' needs a stored response, or nobody could read it. Leave 'store' out.",
            param="background",
        )
    if origin.presets:
        origin.presets.check_input(sent.input, "input")
        body = origin.presets.applied(body, shape.model_fields, models.default, origin.settings.resolved)
        sent = _checked(shape, body)
    requested = sent.model or models.default
    model = origin.settings.resolved(requested)
    family = models.of(model)
    if not family.responses_api:
        raise BadRequest(
            f"The model {model} cannot be had through the Responses API. Choose another.",
            param="model",
            code="model_unsupported",
        )
    items = [] if sent.input is None else with_facts(items_of(sent.input, references=True))
    check_count(len(items), origin.settings, origin.key_limits, "input")
    types = check_items(items, model, family) if items else ()
    ignored = family.ignored(body)
    if CONFIGURATION in types:
        ignored = sorted([*ignored, CONFIGURATION])
    return TurnRequest(
        items=items,
        model=model,
        requested_model=requested,
        family=family,
        params={name: value for name, value in body.items() if name not in OURS and name not in REPLACED},
        metadata=sent.metadata or {},
        stream=bool(sent.stream),
        streamed=bool(sent.stream or sent.background),
        parent_id=parent_id if sent.parent_id is None else parent_id or parse_parent(sent.parent_id),
        ignored=ignored,
        background=bool(sent.background),
        ends_with_client=sent.on_disconnect == "cancel" and not sent.background,
        if_busy=if_busy if sent.if_busy is None else IfBusy(sent.if_busy),
        origin=origin,
        stored=stored,
        user=origin.user or user_of(body),
        approvals=_approvals(sent.input) if APPROVAL in types else {},
        root=root,
    )


def _approvals(value: Sequence[Item]) -> dict[str, str]:
    """The approval requests that a checked input answers, and for each the field that names it."""
    return {
        element["approval_request_id"]: f"input[{index}].approval_request_id"
        for index, element in enumerate(value)
        if element.get("type") == APPROVAL
    }


def check_items(items: Sequence[InputItem], model: str, family: Family) -> AbstractSet[str]:
    """Refuse an input that cannot be sent to this model. Return the types of its items.

    Raises:
        BadRequest: saying what to do.
    """
    types: set[str] = set()
    modalities: set[Modality] = set()
    for item in items:
        types.add(item.type)
        modalities |= item.modalities
    if types.isdisjoint(("message", *TO_RESOLVE)):
        check_sendable(items, "input")
    for kind in sorted(modalities) if modalities else ():
        if not family.takes(kind):
            name = media.NAMES[kind]
            raise BadRequest(
                f"The model {model} cannot {media.PERCEIVED[kind]} {name}. Choose a model that can, or say in words "
                "what it holds.",
                param="input",
                code="unsupported_content",
            )
    return types


def parse_parent(value: str | None) -> UUID | None:
    if value is None:
        return None
    found = ids.parse(value, ids.TURN_PREFIXES)
    if found is None:
        raise BadRequest(
            f"'parent_id' must be the id of a turn, turn_ and 32 hex digits, not {value[:80]!r}.", param="parent_id"
        )
    return found
