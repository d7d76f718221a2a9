"""/responses/compact and /responses/input_tokens, as OpenAI's clients know them. Nothing of them is kept."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from app.accounts.pool import Accounts
from app.db import ids
from app.http.bodies import ListOf, Sent, json_response
from app.http.describing import OF_A_MODEL
from app.http.errors import BadRequest
from app.http.services import services, serving
from app.items.client_door import items_of
from app.items.input_item import with_facts
from app.items.kinds import is_system, kind_of, type_of
from app.items.pairs import unanswered
from app.items.shapes import Item, text_of
from app.items.stored import stored_input
from app.items.vocabulary import text_count
from app.items.weights import BYTES_PER_TOKEN
from app.limits.room import check_count
from app.limits.rules import asks_of, user_of
from app.limits.service import Admission, RateLimits
from app.memory.compaction import SUMMED, Compactions
from app.memory.compaction_cipher import CompactionCipher
from app.memory.reader import Reader
from app.memory.store import MemoryStore
from app.openai_api.schemas import conversation_of, previous_uuid
from app.openai_api.service import shown_item
from app.projects.auth import Authenticated, Caller, Reading
from app.projects.credential_watch import answer_of, listening
from app.projects.presets import Presets
from app.projects.reads import TURN, RecordedRoute, reads
from app.projects.user_tokens import for_users
from app.provider.client import ProviderError
from app.provider.models import Models
from app.provider.refusals import client_error
from app.threads.address import ById, OfTurn, owned, unknown
from app.threads.presets import presets_of
from app.turns.schemas import Input
from app.turns.service import Turns

router = APIRouter(tags=["responses"], route_class=RecordedRoute)

OVERHEAD_FIELDS = ("instructions", "tools", "text", "tool_choice")
"""Parameters that are sent with every turn, and counted with it."""


class CompactCreate(BaseModel):
    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={"examples": [{"model": "qwen3.5-plus", "input": "A long conversation."}]},
    )

    model: str = Field(min_length=1, max_length=256)
    input: Input = None
    instructions: str | None = None
    previous_response_id: str | None = None


class InputTokensCreate(BaseModel):
    model_config = ConfigDict(
        extra="allow", strict=True, json_schema_extra={"examples": [{"input": "How much is this?"}]}
    )

    model: str | None = Field(None, min_length=1, max_length=256)
    input: Input = None
    instructions: str | None = None
    tools: ListOf[dict[str, Any]] | None = None
    previous_response_id: str | None = None
    conversation: Any = None


class CompactedResponse(TypedDict):
    id: str
    object: Literal["response.compaction"]
    created_at: int
    model: str
    output: list[Item]
    usage: dict[str, Any]


class InputTokens(TypedDict):
    object: Literal["response.input_tokens"]
    input_tokens: int


class Contexts:
    """Contexts of requests: counted, or compacted."""

    def __init__(
        self,
        store: MemoryStore,
        reader: Reader,
        accounts: Accounts,
        compactions: Compactions,
        cipher: CompactionCipher,
        turns: Turns,
    ) -> None:
        self._store = store
        self._reader = reader
        self._accounts = accounts
        self._compactions = compactions
        self._cipher = cipher
        self._turns = turns

    async def compact(self, caller: Caller, sent: CompactCreate, model: str, admission: Admission) -> CompactedResponse:
        """A conversation as its own users' messages and one item that stands for all the rest.

        Raises:
            APIError: there is nothing to compact, a call waits for its output, or the model made nothing of it.
        """
        before, last = await self._of(caller, sent.previous_response_id)
        new = self._items(caller, sent.input)
        if waiting := open_calls(last, new):
            raise BadRequest(
                f"No tool output found for function call {waiting[0][:80]}. Send its output in 'input', or compact the "
                "conversation up to the response before it.",
                param="input",
            )
        items = [*before, *new]
        if not items:
            raise BadRequest(
                "There is nothing to compact. Send 'input', or a 'previous_response_id'.",
                param="input",
                code="missing_parameter",
            )
        usage = dict.fromkeys(SUMMED, 0)
        # A user neither sees the app's messages nor sends them again: they go along with the summary.
        of_app = [text_of(item) for item in items if is_system(item)] if caller.grant.user is not None else []
        told = [item for item in items if not is_system(item)] if of_app else items
        try:
            said = await self._compactions.summary(
                caller.project_id, admission, model, model, told, [], usage, instructions=sent.instructions
            )
        except ProviderError as error:
            raise client_error(error.failure) from error
        stay = [item for item in items if type_of(item) == "message" and (item["role"] == "user" or is_system(item))]
        made = {
            "type": "compaction",
            "id": ids.compaction_id(ids.new_uuid()),
            "encrypted_content": self._cipher.encrypt(caller.project_id, orjson.dumps([said, *of_app]).decode()),
        }
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        return {
            "id": ids.response_id(ids.new_uuid()),
            "object": "response.compaction",
            "created_at": int(time.time()),
            "model": model,
            "output": [*map(shown_item, stored_input(with_facts(stay))), made],
            "usage": {**usage, **details},
        }

    async def input_tokens(self, caller: Caller, sent: InputTokensCreate, models: Models) -> int:
        """Return the number of tokens that the model would be sent for a request, including the history."""
        model = caller.grant.settings.resolved(sent.model or models.default)
        parent = await self._parent(caller, sent)
        new = self._items(caller, sent.input)
        try:
            account = await self._accounts.first(caller.project_id, model)
        except ProviderError as error:
            raise client_error(error.failure) from error
        target = self._reader.target(account.binding, models.of(model), model)
        counted = await self._reader.model_input(caller.project_id, parent, new, target, counting=True)
        overhead = {name: value for name in OVERHEAD_FIELDS if (value := (sent.model_extra or {}).get(name))}
        overhead |= {name: value for name in ("instructions", "tools") if (value := getattr(sent, name))}
        weight = await text_count(orjson.dumps(overhead).decode()) if overhead else 0
        return counted.tokens + self._reader.observations.at(account.binding).tokens(model, weight)

    def _items(self, caller: Caller, value: Any) -> list[Item]:
        items = items_of(value, references=True) if value is not None else []
        check_count(len(items), caller.grant.settings, caller.grant.key_limits, "input")
        for item in items:
            if item.get("type") == "item_reference":
                raise BadRequest(
                    f"'{item['where']}': references to items are not taken here. Send the item itself.",
                    param=item["where"],
                )
        return self._turns.with_opened_compactions(caller, items)

    async def _of(self, caller: Caller, previous: str | None) -> tuple[Sequence[Item], Sequence[Item]]:
        """Return the items that a response continues from, with its own, and those of its own turn alone."""
        if previous is None:
            return [], []
        turn_id = await self._turn(caller, previous)
        branch = await self._store.branch(caller.project_id, turn_id)
        items = [item.stored.item for item in branch.items]
        last = [item.stored.item for item in branch.items if item.turn_id == turn_id]
        compacted = branch.compacted
        if compacted is not None:
            items = [*(item.stored.item for item in compacted.kept_items), compacted.item, *items]
        return items, last

    async def _parent(self, caller: Caller, sent: InputTokensCreate) -> UUID | None:
        if sent.previous_response_id is not None:
            return await self._turn(caller, sent.previous_response_id)
        if sent.conversation is None:
            return None
        _, head, _ = await self._store.head(caller.project_id, owned(caller, ById(conversation_of(sent.conversation))))
        return head

    async def _turn(self, caller: Caller, previous: str) -> UUID:
        address = owned(caller, OfTurn(previous_uuid(previous)))
        if not await self._turns.is_there(caller, address):
            raise unknown(address)
        return address.turn


def open_calls(last: Sequence[Item], new: Sequence[Item]) -> list[str]:
    """Return the ids of the calls that wait for an output of the client's: a summary would lose them.

    Calls of earlier turns were passed over, and so were those after which a user spoke in the same list. What the
    provider runs itself waits for nobody.

    Args:
        last: the items of the response that is compacted.
        new: the items of the request.
    """
    items = [*last, *new]
    spoken = [place for place, item in enumerate(items) if type_of(item) == "message" and item["role"] == "user"]
    of_last = max((place for place in spoken if place < len(last)), default=-1)
    of_new = max((place for place in spoken if place >= len(last)), default=-1)
    return [
        kind_of(items[place]).key(items[place])
        for place in unanswered(items)
        if place > (of_last if place < len(last) else of_new)
    ]


Service = Annotated[Contexts, serving(Contexts)]


@for_users
@reads("conversation")
@router.post("/responses/compact", response_model=CompactedResponse, responses=OF_A_MODEL)
async def compact(request: Request, caller: Authenticated, contexts: Service, sent: Sent[CompactCreate]) -> Response:
    """Summarize a conversation, to continue from the summary."""
    presets = await _presets(request, caller, sent.previous_response_id)
    presets.check_input(sent.input, "input")
    presets.check_summary(sent.model, sent.instructions, caller.grant.settings.resolved)
    model, limits = caller.grant.settings.resolved(sent.model), services(request)[RateLimits]
    weight = len(orjson.dumps(sent.input)) // BYTES_PER_TOKEN
    history = ids.parse(sent.previous_response_id or "", ids.TURN_PREFIXES)
    setattr(request.state, TURN, history)
    asks = asks_of(caller, weight, user_of(sent.model_extra or {}), model=model, history=history)
    admission = await limits.admit(asks)

    async def compacted() -> CompactedResponse:
        try:
            return await contexts.compact(caller, sent, model, admission)
        finally:
            limits.end(admission)

    return json_response(await answer_of(listening(request, caller, admitted=True), compacted()))


@for_users
@router.post("/responses/input_tokens", response_model=InputTokens)
async def input_tokens(request: Request, caller: Reading, contexts: Service, sent: Sent[InputTokensCreate]) -> Response:
    """Count the tokens that the model would be sent."""
    models, conversation = services(request)[Models], sent.conversation
    if presets := await _presets(request, caller, sent.previous_response_id, conversation):
        presets.check_input(sent.input, "input")
        body = sent.model_dump(exclude_unset=True)
        known = {**body, **InputTokensCreate.model_fields}
        body = presets.applied(body, known, models.default, caller.grant.settings.resolved)
        sent = InputTokensCreate.model_validate(body)
    counted = await contexts.input_tokens(caller, sent, models)
    return json_response({"object": "response.input_tokens", "input_tokens": counted})


async def _presets(request: Request, caller: Caller, previous: str | None, conversation: Any = None) -> Presets:
    """Return the presets of a request that continues from a response, or in a conversation, or from nothing."""
    if previous is not None:
        return await presets_of(request, caller, owned(caller, OfTurn(previous_uuid(previous))))
    if conversation is not None:
        return await presets_of(request, caller, owned(caller, ById(conversation_of(conversation))))
    return await presets_of(request, caller)
