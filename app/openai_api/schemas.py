"""Conversion of requests of OpenAI's clients into those of the native API."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, WithJsonSchema

from app.db import ids
from app.http.bodies import Body, examples
from app.http.errors import BadRequest, NotFound
from app.items.client_door import ITEM_SCHEMA, items_of
from app.provider.models import Models
from app.threads.address import Address, ById, New, OfTurn
from app.threads.schemas import Metadata
from app.turns.schemas import OF_CONVERSATION, IfBusy, Origin, TurnCreate, TurnRequest, new_turn

MUTUALLY_EXCLUSIVE = (
    "Mutually exclusive parameters: Ensure you are only providing one of: 'previous_response_id' or 'conversation'."
)


class ResponseCreate(TurnCreate):
    """OpenAI's create parameters. Fields that are not named here pass through."""

    previous_response_id: str | None = None
    """Response to continue from, of any age. Not together with `conversation`."""
    conversation: Annotated[
        Any,
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
                    {"type": "null"},
                ]
            }
        ),
    ] = None
    """An id, or an object that has one."""


def response_address(body: dict[str, Any], new_thread_id: Callable[[], UUID]) -> Address:
    """Return the address of a `POST /responses`.

    Args:
        new_thread_id: makes the id of a thread, should the request make one.

    Raises:
        APIError: naming the field at fault.
    """
    previous, conversation = body.get("previous_response_id"), body.get("conversation")
    if previous is not None and conversation is not None:
        raise BadRequest(MUTUALLY_EXCLUSIVE, param="previous_response_id", code="mutually_exclusive_parameters")
    if previous is not None:
        return OfTurn(previous_uuid(previous))
    return New(new_thread_id()) if conversation is None else ById(conversation_of(conversation))


def response_request(
    body: dict[str, Any], models: Models, origin: Origin, address: Address, *, needs_input: bool = True
) -> TurnRequest:
    """Return the turn that a `POST /responses` requests.

    Args:
        address: the request's, see `response_address`.
        needs_input: False where what is to be answered may have been sent before.

    Raises:
        APIError: naming the field at fault.
    """
    body = {name: value for name, value in body.items() if name not in ("previous_response_id", "conversation")}
    parent_id = address.turn if isinstance(address, OfTurn) else None
    stored = body.get("store") is not False
    # OpenAI's clients know of no busy conversation: a second request waits for the first. A previous response is no
    # lock: any number of requests continue from it, each by itself.
    request = new_turn(
        body,
        models,
        origin,
        parent_id=parent_id,
        stored=stored,
        if_busy=IfBusy.WAIT if parent_id is None else IfBusy.BESIDE_IF_NEEDED,
        needs_input=needs_input and not isinstance(address, ById),
        shape=ResponseCreate,
    )
    if isinstance(address, ById):
        request = replace(request, params={**request.params, OF_CONVERSATION: ids.conversation_id(address.id)})
    return request


def response_uuid(value: str) -> UUID:
    """The turn behind a response id in a path."""
    found = ids.parse(value, ids.TURN_PREFIXES)
    if found is None:
        raise unknown_response(value)
    return found


def unknown_response(value: str) -> NotFound:
    return NotFound(f"Response with id '{value[:80]}' not found.", code="response_not_found")


def conversation_uuid(value: str, param: str = "conversation_id") -> UUID:
    """Return the thread behind a conversation id.

    Raises:
        BadRequest: it has another prefix, as OpenAI answers.
        NotFound: the rest of it is no id of ours.
    """
    if not value.startswith(tuple(f"{prefix}_" for prefix in ids.THREAD_PREFIXES)):
        raise BadRequest(f"Invalid '{param}': '{value[:80]}'. Expected an ID that begins with 'conv_'.", param=param)
    found = ids.parse(value, ids.THREAD_PREFIXES)
    if found is None:
        raise unknown_conversation(value)
    return found


def unknown_conversation(value: str) -> NotFound:
    return NotFound(f"Conversation with id '{value[:80]}' not found.", code="conversation_not_found")


def previous_uuid(value: Any) -> UUID:
    """The turn behind a `previous_response_id`."""
    if not isinstance(value, str):
        raise BadRequest("'previous_response_id' must be a string.", param="previous_response_id", code="invalid_type")
    found = ids.parse(value, ids.TURN_PREFIXES)
    if found is None:
        raise BadRequest(
            f"Previous response with id '{value[:80]}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return found


def conversation_of(value: Any) -> UUID:
    """Return the thread that a body's `conversation` names: an id, or an object with one."""
    id_ = value.get("id") if isinstance(value, dict) else value
    if not isinstance(id_, str):
        raise BadRequest(
            "'conversation' must be an id, or an object with an 'id'.", param="conversation", code="invalid_type"
        )
    return conversation_uuid(id_, "conversation")


Item = Annotated[Any, WithJsonSchema(ITEM_SCHEMA)]
"""Checked by the door for items (`items/client_door.py`)."""


class ConversationCreate(Body):
    model_config = examples({}, {"metadata": {"plan": "pro"}, "items": [{"role": "user", "content": "Hello!"}]})

    items: Annotated[list[Item], Field(max_length=100_000)] | None = None
    metadata: Metadata | None = None


class ConversationUpdate(Body):
    model_config = examples({"metadata": {"plan": "pro"}})

    metadata: Metadata | None = None


class ItemsCreate(Body):
    model_config = examples({"items": [{"type": "message", "role": "user", "content": "Hello!"}]})

    items: Annotated[list[Item], Field(min_length=1, max_length=100_000)]


def items_to_add(values: list[Any]) -> list[dict[str, Any]]:
    return items_of(values, "items") if values else []
