"""Request bodies about provider accounts, and how accounts are shown."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from typing_extensions import TypedDict

from app.accounts.breaker import State
from app.accounts.tables import Account
from app.db import ids
from app.http.bodies import WHOLE, Body, Changes, examples
from app.http.egress import LONGEST_URL
from app.projects.schemas import Name
from app.projects.settings import ModelName
from app.provider.account import account as account_of
from app.settings import REGION_CODES, Region

Key = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[\x21-\x7e]+$")]
Url = Annotated[str, Field(min_length=1, max_length=LONGEST_URL)]
Workspace = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")]
Models = Annotated[list[ModelName], Field(max_length=200)]
Weight = Annotated[int, Field(ge=1, le=1000), WHOLE]
Position = Annotated[int, Field(ge=0, le=1_000_000), WHOLE]


class AccountCreate(Body):
    model_config = examples(
        {"name": "singapore", "api_key": "sk-of-the-account", "region": "singapore", "models": ["qwen3.7-*"]}
    )

    name: Name
    api_key: Key
    region: Region | None = None
    workspace: Workspace | None = None
    """Its own host is used then."""
    base_url: Url | None = None
    """Endpoint that speaks the Responses API, used instead of a region."""
    models: Models = Field(default_factory=list)
    """Models that the account serves; `qwen3.7-*` matches all that begin so. Empty: all models."""
    weight: Weight = 1
    """Share of the calls among accounts of the same position."""
    position: Position | None = None
    """The least is asked first; behind all others, if left out."""
    shared: bool = False
    """True if it serves every project that has no accounts of its own."""

    @model_validator(mode="after")
    def _leads_somewhere(self) -> "AccountCreate":
        if (self.region is None) == (self.base_url is None):
            raise ValueError("send either 'region' or 'base_url'")
        if self.workspace is not None and self.region is None:
            raise ValueError("'workspace' needs its 'region'")
        if self.workspace is not None and self.region not in REGION_CODES:
            raise ValueError(f"'workspace' cannot be used: {self.region} has none")
        return self


class AccountPatch(Changes):
    """Fields left out stay as they are. Another endpoint is another account."""

    model_config = examples({"weight": 2}, minProperties=1)

    name: Name | None = None
    api_key: Key | None = None
    models: Models | None = None
    weight: Weight | None = None
    position: Position | None = None
    shared: bool | None = None
    disabled: bool | None = None
    """It is not asked meanwhile."""


class AccountObject(TypedDict):
    id: str
    object: Literal["admin.account"]
    project: str
    name: str
    account: str
    """As turns, chains and the audit trail name it."""
    base_url: str
    hint: str
    """First characters of the key."""
    models: list[str]
    weight: int
    position: int
    shared: bool
    disabled: bool
    state: State | None
    """State of its circuit breaker in the worker that answers; null where it has not been called yet."""
    created_at: int


class AccountCheck(TypedDict):
    """The provider's answer to a check of the key."""

    id: str
    object: Literal["admin.account.check"]
    ok: bool
    message: str | None


def account_object(row: Account, state: State | None) -> AccountObject:
    return {
        "id": f"acct_{row.id.hex}",
        "object": "admin.account",
        "project": ids.project_id(row.project_id),
        "name": row.name,
        "account": account_of(row.binding),
        "base_url": row.base_url,
        "hint": row.hint,
        "models": row.models,
        "weight": row.weight,
        "position": row.position,
        "shared": row.shared,
        "disabled": row.disabled,
        "state": state,
        "created_at": int(row.created_at.timestamp()),
    }
