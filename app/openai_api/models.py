"""/models, as OpenAI's clients know it: what is known of the models that a turn can name."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from typing_extensions import TypedDict

from app.accounts.pool import Accounts
from app.http.bodies import json_response
from app.http.errors import NotFound
from app.http.pages import ListObject, list_object
from app.http.services import services, serving
from app.memory.observations import AccountObservations, ModelObservations
from app.projects.auth import Authenticated
from app.projects.settings import ProjectSettings
from app.provider.models import Family, Models

router = APIRouter(tags=["models"])

OWNER = "alibaba_cloud"

Known = Annotated[Models, serving(Models)]


async def _seen(request: Request, caller: Authenticated) -> AccountObservations:
    """Return the observations at the account that the project's requests go to first."""
    here = services(request)
    accounts = here[Accounts]
    first = next(iter(await accounts.of(caller.project_id)), accounts.of_settings)
    return here[ModelObservations].at(first.binding)


Seen = Annotated[AccountObservations, Depends(_seen)]


class ModelObject(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_window: int
    """Tokens."""
    input_budget: int
    """Tokens that it reads before something is cut."""
    max_output_tokens: int | None
    input_modalities: list[str]
    reasoning_efforts: list[str]
    listed: bool
    """True if the model is described here; otherwise its values are estimates."""


@router.get("/models", response_model=ListObject[ModelObject])
async def listed(caller: Authenticated, models: Known, observations: Seen) -> Response:
    """List the known models."""
    settings = caller.grant.settings
    names = {models.default, *models.named(), *observations.answered(), *settings.aliases}
    shown = [name for name in sorted(names) if settings.may_use(name)]
    return json_response(list_object(shown, lambda name: _shown(name, settings, models, observations), has_more=False))


@router.get("/models/{model:path}", response_model=ModelObject)
async def one(caller: Authenticated, models: Known, observations: Seen, model: str) -> Response:
    """Return a model's limits and abilities."""
    settings = caller.grant.settings
    named = models.of(model).name or model in (models.default, *observations.answered(), *settings.aliases)
    if not named or not settings.may_use(model):
        raise NotFound(
            f"Nothing is known of a model {model[:80]!r}. A turn may name it all the same: the provider decides.",
            param="model",
            code="model_not_found",
        )
    return json_response(_shown(model, settings, models, observations))


def _shown(name: str, settings: ProjectSettings, models: Models, observations: AccountObservations) -> ModelObject:
    """A model under the name that the project has for it."""
    model = settings.resolved(name)
    return {**model_object(model, models.of(model), observations), "id": name}


def model_object(name: str, family: Family, observations: AccountObservations) -> ModelObject:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": OWNER,
        "context_window": observations.window(family, name),
        "input_budget": observations.token_budget(family, name),
        "max_output_tokens": family.output_limit,
        "input_modalities": list(family.modalities),
        "reasoning_efforts": list(family.efforts),
        "listed": bool(family.name),
    }
