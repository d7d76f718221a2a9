"""/models, as OpenAI's clients know it: what is known of the models that a turn can name."""

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.bodies import json_response
from app.errors import NotFound
from app.memory.learnt import Learnt
from app.projects.auth import Authenticated
from app.provider.models import Family, Models
from app.services import serving

router = APIRouter(tags=["models"])

OWNER = "alibaba_cloud"

Known = Annotated[Models, serving(Models)]
Seen = Annotated[Learnt, serving(Learnt)]


@router.get("/models")
async def listed(caller: Authenticated, models: Known, learnt: Seen) -> Response:
    names = sorted({models.default, *models.named(), *learnt.answered()})
    shown = [model_object(name, models.of(name), learnt) for name in names]
    return json_response(
        {"object": "list", "data": shown, "first_id": names[0], "last_id": names[-1], "has_more": False}
    )


@router.get("/models/{model:path}")
async def one(caller: Authenticated, models: Known, learnt: Seen, model: str) -> Response:
    family = models.of(model)
    if not family.name and model != models.default and model not in learnt.answered():
        raise NotFound(
            f"Nothing is known of a model {model[:80]!r}. A turn may name it all the same: the provider decides.",
            param="model",
            code="model_not_found",
        )
    return json_response(model_object(model, family, learnt))


def model_object(name: str, family: Family, learnt: Learnt) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": OWNER,
        "context_window": learnt.window(family, name),
        "input_budget": learnt.token_budget(family, name),
        "max_output_tokens": family.output_limit,
        "input_modalities": ["text", "image"] if family.sees_images else ["text"],
        "reasoning_efforts": list(family.efforts),
        "listed": bool(family.name),
    }
