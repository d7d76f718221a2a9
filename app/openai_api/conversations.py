"""/conversations, as OpenAI's clients know it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from app.db import ids
from app.history.service import History
from app.http.bodies import Sent, SentOrEmpty, json_response
from app.http.describing import Deleted, ItemObject
from app.http.errors import NotFound
from app.http.pages import ListObject, Paged
from app.http.services import serving
from app.limits.room import FOR_ITEMS, FOR_THREAD, check_items
from app.openai_api.responses import ItemPaged, Service
from app.openai_api.schemas import (
    ConversationCreate,
    ConversationUpdate,
    ItemsCreate,
    conversation_uuid,
    items_to_add,
    unknown_conversation,
)
from app.openai_api.service import ConversationObject
from app.projects.auth import Authenticated
from app.projects.reads import RecordedRoute, reads
from app.projects.user_tokens import for_users
from app.threads.address import ById, owned
from app.threads.presets import presets_of
from app.threads.service import check_makes

router = APIRouter(tags=["conversations"], route_class=RecordedRoute)


async def _own(caller: Authenticated, conversation_id: str) -> ById:
    """Return the address of a path's conversation, for the caller.

    Raises:
        NotFound: it is the id of none, or not the token's.
    """
    try:
        return owned(caller, ById(conversation_uuid(conversation_id)))
    except NotFound as error:
        raise unknown_conversation(conversation_id) from error


Own = Annotated[ById, Depends(_own)]


@for_users
@router.post("/conversations", dependencies=FOR_THREAD, response_model=ConversationObject)
async def create(
    request: Request, caller: Authenticated, openai: Service, sent: SentOrEmpty[ConversationCreate]
) -> Response:
    """Create a conversation."""
    check_makes(caller)
    (await presets_of(request, caller)).check_input(sent.items, "items")
    check_items(caller, len(sent.items or ()), "items")
    items = items_to_add(sent.items or [])
    return json_response(await openai.create_conversation(caller, items, sent.metadata or {}))


@for_users
@reads("threads", of="project")
@router.get("/conversations", response_model=ListObject[ConversationObject])
async def listed(caller: Authenticated, openai: Service, page: Paged) -> Response:
    """List conversations, the latest first."""
    return json_response(await openai.conversations(caller, page))


@for_users
@reads("thread")
@router.get("/conversations/{conversation_id}", response_model=ConversationObject)
async def retrieve(caller: Authenticated, openai: Service, own: Own) -> Response:
    """Return a conversation."""
    return json_response(await openai.conversation(caller, own))


@for_users
@router.post("/conversations/{conversation_id}", response_model=ConversationObject)
async def update(caller: Authenticated, openai: Service, own: Own, sent: Sent[ConversationUpdate]) -> Response:
    """Replace the metadata of a conversation."""
    return json_response(await openai.update_conversation(caller, own, sent.metadata or {}))


@for_users
@router.delete("/conversations/{conversation_id}", response_model=Deleted)
async def delete(
    caller: Authenticated, openai: Service, history: Annotated[History, serving(History)], own: Own
) -> Response:
    """Delete a conversation and everything in it."""
    await openai.conversation(caller, own)
    await history.delete_thread(caller, own)
    return json_response({"id": ids.conversation_id(own.id), "object": "conversation.deleted", "deleted": True})


@for_users
@router.post("/conversations/{conversation_id}/items", dependencies=FOR_ITEMS, response_model=ListObject[ItemObject])
async def add_items(
    request: Request, caller: Authenticated, openai: Service, own: Own, sent: Sent[ItemsCreate]
) -> Response:
    """Add items, which the next response continues from."""
    check_items(caller, len(sent.items), "items")
    (await presets_of(request, caller, own)).check_input(sent.items, "items")
    return json_response(await openai.add_items(caller, own, items_to_add(sent.items)))


@for_users
@reads("conversation")
@router.get("/conversations/{conversation_id}/items", response_model=ListObject[ItemObject])
async def list_items(caller: Authenticated, openai: Service, own: Own, page: ItemPaged) -> Response:
    """List the items of a conversation."""
    return json_response(await openai.items(caller, own, page))


@for_users
@reads("conversation")
@router.get("/conversations/{conversation_id}/items/{item_id}", response_model=ItemObject)
async def retrieve_item(caller: Authenticated, openai: Service, own: Own, item_id: str) -> Response:
    """Return an item."""
    return json_response(await openai.item(caller, own, item_id))


@for_users
@router.delete("/conversations/{conversation_id}/items/{item_id}", response_model=ConversationObject)
async def delete_item(caller: Authenticated, openai: Service, own: Own, item_id: str) -> Response:
    """Delete an item. The next response continues without it."""
    return json_response(await openai.delete_item(caller, own, item_id))
