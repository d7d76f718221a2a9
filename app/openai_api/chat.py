"""/chat/completions, passed on as it is: code that has not migrated yet works on the same base URL. Nothing is kept."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.responses import StreamingResponse

from app.bodies import JSON_TYPE, json_object
from app.projects.auth import Authenticated
from app.provider.client import Provider, ProviderError
from app.provider.refusals import client_error
from app.services import serving
from app.turns.http import provider_headers

router = APIRouter(tags=["chat"])


@router.post("/chat/completions")
async def complete(
    request: Request, caller: Authenticated, provider: Annotated[Provider, serving(Provider)]
) -> Response:
    body = await json_object(request)
    sent, headers = orjson.dumps(body), provider_headers(request)
    try:
        if body.get("stream") is True:
            chunks = await provider.open_chat_stream(sent, headers)
            return StreamingResponse(chunks, media_type="text/event-stream")
        return Response(await provider.chat(sent, headers), media_type=JSON_TYPE)
    except ProviderError as error:
        raise client_error(error.failure) from error
