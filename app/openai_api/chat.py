"""/chat/completions, passed on as it is: code that has not migrated yet works on the same base URL. Nothing is kept."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse
from typing_extensions import TypedDict

from app.accounts.pool import Accounts
from app.bodies import JSON_TYPE, ListOf, checked, json_object
from app.describing import EVENTS, OF_A_MODEL, described
from app.items.weights import BYTES_PER_TOKEN
from app.limits.rules import asks_of
from app.limits.service import Admission, RateLimits
from app.projects.auth import Authenticated
from app.provider.client import ProviderError
from app.provider.refusals import client_error
from app.services import services, serving
from app.turns.http import provider_headers

router = APIRouter(tags=["chat"])


class ChatCreate(BaseModel):
    """Chat Completions' parameters: the provider's to check."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"model": "qwen3.5-plus", "messages": [{"role": "user", "content": "Hello!"}]}]
        },
    )

    model: str = Field(min_length=1)
    messages: ListOf[dict[str, Any]] = Field(min_length=1)


class ChatCompletion(TypedDict):
    """As the provider gives it."""

    choices: list[dict[str, Any]]


@router.post(
    "/chat/completions",
    **described(
        "Chat Completions, passed on to the provider; nothing is kept.",
        ChatCompletion,
        body=ChatCreate,
        or_media=(EVENTS,),
        errors=OF_A_MODEL,
    ),
)
async def complete(
    request: Request, caller: Authenticated, accounts: Annotated[Accounts, serving(Accounts)]
) -> Response:
    body = await json_object(request)
    body["model"] = model = caller.grant.settings.resolved(checked(ChatCreate, body).model)
    sent, headers, limits = orjson.dumps(body), provider_headers(request), services(request)[RateLimits]
    weight = len(sent) // BYTES_PER_TOKEN
    admission = await limits.admit(asks_of(caller, weight))
    streams = False
    try:
        provider = (await accounts.first(caller.project_id, model)).provider
        if body.get("stream") is True:
            chunks = await provider.open_chat_stream(sent, headers)
            streams = True
            return StreamingResponse(_to_its_end(chunks, limits, admission, weight), media_type="text/event-stream")
        return Response(await provider.chat(sent, headers), media_type=JSON_TYPE)
    except ProviderError as error:
        raise client_error(error.failure) from error
    finally:
        if admission is not None and not streams:
            limits.end(admission, weight, 0.0)


async def _to_its_end(
    chunks: AsyncIterator[bytes], limits: RateLimits, admission: Admission | None, weight: int
) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if admission is not None:
            limits.end(admission, weight, 0.0)
