"""/models in OpenAI's format: known facts about the models that a turn can name."""

from typing import Annotated, Any, Literal

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
from app.projects.user_tokens import for_users
from app.provider.models import Models
from app.threads.presets import presets_of

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
    """Tokens that it reads before the input is truncated."""
    max_output_tokens: int | None
    input_modalities: list[str]
    reasoning_efforts: list[str]
    structured_output: bool
    """True if the provider enforces a JSON schema, by documentation and observation."""
    tools: bool | None
    """True if it calls functions. Null if this is unknown, as for the caches."""
    tool_outputs: bool
    reasoning_summary: bool
    implicit_cache: bool | None
    explicit_cache: bool | None
    prices: list[dict[str, Any]]
    """Prices of a million tokens, by region and by the length of the prompt."""
    retired_by: str | None
    """The day by which the provider retired it."""
    successor: str | None
    sources: dict[str, str]
    """Source of each field, see docs/models.md."""
    listed: bool
    """True if the model is described here; otherwise its values are estimates."""


@for_users
@router.get("/models", response_model=ListObject[ModelObject])
async def listed(request: Request, caller: Authenticated, models: Known, observations: Seen) -> Response:
    """List the known models."""
    settings, presets = caller.grant.settings, await presets_of(request, caller)
    names = {models.default, *models.named(), *observations.answered(), *settings.aliases}
    shown = [
        name for name in sorted(names) if settings.may_use(name) and presets.permits_model(name, settings.resolved)
    ]
    return json_response(list_object(shown, lambda name: _shown(name, settings, models, observations), has_more=False))


@for_users
@router.get("/models/{model:path}", response_model=ModelObject)
async def one(request: Request, caller: Authenticated, models: Known, observations: Seen, model: str) -> Response:
    """Return a model's limits and abilities."""
    settings, presets = caller.grant.settings, await presets_of(request, caller)
    named = models.of(model).name or model in (models.default, *observations.answered(), *settings.aliases)
    if not named or not settings.may_use(model) or not presets.permits_model(model, settings.resolved):
        raise NotFound(
            f"Nothing is known of a model {model[:80]!r}. A turn may name it all the same: the provider decides.",
            param="model",
            code="model_not_found",
        )
    return json_response(_shown(model, settings, models, observations))


def _shown(name: str, settings: ProjectSettings, models: Models, observations: AccountObservations) -> ModelObject:
    """A model under the name that the project has for it."""
    model = settings.resolved(name)
    family, retired_by = models.of(model), models.retired(model)
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": OWNER,
        "context_window": observations.window(family, model),
        "input_budget": observations.token_budget(family, model),
        "max_output_tokens": family.output_limit,
        "input_modalities": list(family.modalities),
        "reasoning_efforts": list(family.efforts),
        "structured_output": family.structured_output,
        "tools": family.tools,
        "tool_outputs": family.tool_outputs,
        "reasoning_summary": family.reasoning_summary,
        "implicit_cache": family.implicit_cache,
        "explicit_cache": family.explicit_cache,
        "prices": [price.model_dump(mode="json") for price in family.all_prices],
        "retired_by": None if retired_by is None else retired_by.isoformat(),
        "successor": models.successor(model),
        "sources": family.sources,
        "listed": bool(family.name),
    }
