"""Request bodies about projects and keys, and how they are shown."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from app.db import ids
from app.http.bodies import WHOLE, Body, Changes, ListOf, check_field_count, examples
from app.projects.keys import Scope, key_id
from app.projects.presets import UserPreset
from app.projects.settings import IdentityProviders, KeyLimits, Limits, ModelName, Origin, ProjectSettings, UserLimits
from app.projects.tables import ApiKey, Project
from app.projects.user_tokens import ANONYMOUS, LONGEST_USER

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^\S(.*\S)?$")]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=4)]
User = Annotated[str, Field(min_length=1, max_length=LONGEST_USER)]
Lifetime = Annotated[int, Field(ge=1, le=100 * 365 * 86_400), WHOLE]

LONGEST_OVERLAP = 30 * 86_400
USUAL_OVERLAP = 86_400


class ProjectCreate(Body):
    model_config = examples({"name": "shop"})

    name: Name
    encrypted: bool = False
    """True if its contents are encrypted at rest, with a key of its own. Encryption cannot be turned off."""


class SettingsPatch(Changes):
    """Fields left out stay as they are; one that is sent is replaced as a whole."""

    model_config = examples({"aliases": {"chat": "qwen4-max"}, "limits": {"requests_per_minute": 600}}, minProperties=1)

    archived: bool | None = None
    """True: none of its keys is taken any more; what it holds stays."""
    aliases: Annotated[dict[ModelName, ModelName], BeforeValidator(check_field_count)] | None = None
    models: ListOf[ModelName] | None = None
    """null: any."""
    origins: ListOf[Origin] | None = None
    limits: Limits | None = None
    key_limits: KeyLimits | None = None
    user_limits: UserLimits | None = None
    identity_providers: IdentityProviders | None = None
    user_preset: UserPreset | None = None
    """Preset of the requests of user tokens; null: nothing is set."""


class KeyCreate(Body):
    model_config = examples({"name": "app", "scopes": ["read", "write"], "expires_in": 7_776_000})

    name: Name
    scopes: Scopes | None = None
    """read, write and audit, if left out."""
    expires_in: Lifetime | None = None
    """Seconds; without it, until it is revoked."""
    limits: KeyLimits | None = None
    """Limits of this key; without them, those of the project's keys."""


class KeyRotate(Body):
    model_config = examples({"overlap_seconds": 3600})

    overlap_seconds: Annotated[int, Field(ge=0, le=LONGEST_OVERLAP), WHOLE] = USUAL_OVERLAP
    """For how long the key before is still taken."""


class UserTokenCreate(Body):
    model_config = examples(
        {"user": "user-1"},
        {"user": "user-1", "actions": ["read"], "expires_in": 60},
        {"anonymous": True},
        **{
            "if": {"properties": {"anonymous": {"const": True}}, "required": ["anonymous"]},
            "then": {"properties": {"user": {"type": ["string", "null"], "pattern": f"^{ANONYMOUS.pattern}$"}}},
            "else": {"properties": {"user": {"type": "string"}}, "required": ["user"]},
        },
    )

    user: User | None = None
    """The end user, as threads name it. Required, unless `anonymous` is true."""
    anonymous: bool = False
    """True for a user without a name, whose threads a signed-in user can claim later. `user` is then left out, or the
    name from an earlier response."""
    thread: ids.ThreadId | None = None
    """The id of a thread of the user's, if the token is to open no other."""
    actions: Annotated[list[Literal["read", "write"]], Field(min_length=1, max_length=2)] | None = None
    """Both, if left out, as far as the key may."""
    expires_in: Annotated[int, Field(ge=1, le=86_400), WHOLE] = 3600
    """Seconds."""
    preset: UserPreset | None = None
    """Preset of the requests with this token, which does not show it."""


class UserTokensRevoke(Body):
    model_config = examples({"user": "user-1"})

    user: User
    """The end user, as threads name it."""


class RevocationObject(TypedDict):
    object: Literal["user_token.revocation"]
    user: str
    revoked_at: float
    """Unix seconds. Tokens that were issued until then are refused."""


class UserTokenObject(TypedDict):
    object: Literal["user_token"]
    token: str
    """Sent as a key is: `Authorization: Bearer TOKEN`."""
    user: str
    anonymous: bool
    thread: str | None
    actions: list[str]
    expires_at: int


class AdminProjectObject(TypedDict):
    id: str
    object: Literal["admin.project"]
    name: str
    operates: bool
    """Its admins manage the whole service."""
    archived_at: int | None
    encrypted_at: int | None
    """Since when its contents are written encrypted; null: they lie in the database as they are."""
    key_destroyed_at: int | None
    """Since when nobody can read what was encrypted."""
    created_at: int
    aliases: dict[str, str]
    models: list[str] | None
    origins: list[str]
    limits: dict[str, int | float]
    key_limits: dict[str, int | float]
    user_limits: dict[str, int | float]
    identity_providers: list[dict[str, Any]]
    user_preset: dict[str, Any] | None


class KeyObject(TypedDict):
    id: str
    object: Literal["admin.key"]
    project: str
    name: str
    hint: str
    """First characters of the key."""
    subject: str | None
    """Issuer and subject of a person who signs in to the console; null for a key."""
    scopes: list[str]
    limits: dict[str, int | float]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    """To the hour."""


class NewKeyObject(KeyObject):
    key: str
    """Shown this once."""


def project_object(project: Project, preset: dict[str, Any] | None = None) -> AdminProjectObject:
    settings = ProjectSettings.model_validate(project.settings)
    return {
        "id": ids.project_id(project.project_id),
        "object": "admin.project",
        "name": project.name,
        "operates": project.operates,
        "archived_at": None if project.archived_at is None else int(project.archived_at.timestamp()),
        "encrypted_at": None if project.encrypted_at is None else int(project.encrypted_at.timestamp()),
        "key_destroyed_at": None if project.key_destroyed_at is None else int(project.key_destroyed_at.timestamp()),
        "created_at": int(project.created_at.timestamp()),
        "aliases": settings.aliases,
        "models": settings.models,
        "origins": settings.origins,
        "limits": settings.limits.model_dump(exclude_none=True),
        "key_limits": settings.key_limits.model_dump(exclude_none=True),
        "user_limits": settings.user_limits.model_dump(exclude_none=True),
        "identity_providers": [each.model_dump() for each in settings.identity_providers],
        "user_preset": preset,
    }


def key_object(key: ApiKey) -> KeyObject:
    return {
        "id": key_id(key.id),
        "object": "admin.key",
        "project": ids.project_id(key.project_id),
        "name": key.name,
        "hint": key.hint,
        "subject": key.subject,
        "scopes": key.scopes,
        "limits": key.limits,
        "created_at": int(key.created_at.timestamp()),
        "expires_at": None if key.expires_at is None else int(key.expires_at.timestamp()),
        "revoked_at": None if key.revoked_at is None else int(key.revoked_at.timestamp()),
        "last_used_at": None if key.last_used_at is None else int(key.last_used_at.timestamp()),
    }
