"""Settings of a project, in one column of its row: read with the key of each request, validated when they are set."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.http.bodies import WHOLE, Body
from app.http.egress import LONGEST_URL
from app.http.errors import Forbidden

log = structlog.get_logger()

MOST_LISTED = 200

LONGEST_ORIGIN = 300
"""Characters: a scheme, a host of 253 and a port."""

Whole = Annotated[int, Field(ge=1, le=10**15), WHOLE]

LEAST_BODY = 1000
"""Bytes. With a smaller limit hardly any request of the API could be sent."""

LEAST_COST = 0.000_001
"""Money is counted in millionths."""

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]

_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?|\[[0-9a-f:.]+\](:[0-9]{1,5})?")


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if value != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https"):
        raise ValueError("an origin is a scheme, a host and perhaps a port, as browsers send it: https://app.example")
    if not _HOST.fullmatch(parts.netloc):
        raise ValueError("an origin's host is in small letters, without a user or a wildcard")
    return value


def _issuer(value: str) -> str:
    if "#" in value:
        raise ValueError("an issuer has no '#', which ends the issuer in the name of a user")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("it may hold printable characters only")
    return value


Origin = Annotated[str, Field(max_length=LONGEST_ORIGIN), AfterValidator(_origin)]


class Rates(Body):
    """Limits on calls of models. A field without a value sets no limit."""

    model_config = ConfigDict(frozen=True)

    requests_per_minute: Whole | None = None
    tokens_per_minute: Whole | None = None
    """Input and output together, as the provider counts them."""
    turns_at_once: Whole | None = None
    tokens_per_month: Whole | None = None
    """Tokens per calendar month in UTC."""
    cost_per_month: Annotated[float, Field(ge=LEAST_COST, le=1e12)] | None = None
    """In the currency of the price table."""


class KeyLimits(Rates):
    """Limits of a key."""

    body_bytes: Annotated[int, Field(ge=LEAST_BODY, le=10**15), WHOLE] | None = None
    input_items: Whole | None = None


class UserLimits(Rates):
    """Limits of an end user."""

    threads: Whole | None = None
    stored_bytes: Whole | None = None
    """Bytes of items, as they are stored."""


class Limits(KeyLimits, UserLimits):
    """Limits of a project."""


RecordReads = Literal["off", "staff", "all"]
"""Recorded reads: none; those of the console, admin keys and exports; those of all keys. Never those of user tokens."""

LONGEST_ISSUER = 128
LONGEST_AUDIENCE = 256
MOST_PROVIDERS = 10

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
"""Algorithms of JWTs. All are asymmetric: with a symmetric one, whoever reads the public key could sign."""


class IdentityProvider(Body):
    """An issuer whose JWTs the project accepts for one audience."""

    model_config = ConfigDict(frozen=True)

    issuer: Annotated[str, Field(min_length=1, max_length=LONGEST_ISSUER, pattern=r"^[!-~]+$"), AfterValidator(_issuer)]
    """`iss` of its JWTs, character by character."""
    jwks_url: Annotated[str, Field(min_length=1, max_length=LONGEST_URL)]
    """URL of its key set."""
    audience: Annotated[str, Field(min_length=1, max_length=LONGEST_AUDIENCE), AfterValidator(_printable)]
    """`aud` of its JWTs, or one of them. No other project can have the same issuer and audience."""
    algorithms: list[Algorithm] = Field(["RS256"], min_length=1, max_length=10)
    leeway_seconds: Annotated[int, Field(ge=0, le=60), WHOLE] = 10
    """Largest difference between the provider's clock and ours."""
    actions: list[Literal["read", "write"]] = Field(["read", "write"], min_length=1, max_length=2)
    subject_is_user: bool = False
    """True if `sub` is the user, as threads name it. By default the user is `ISSUER#SUBJECT`."""


def _consistent(providers: list[IdentityProvider]) -> list[IdentityProvider]:
    if len({(each.issuer, each.audience) for each in providers}) < len(providers):
        raise ValueError("two entries have the same issuer and audience")
    own = {each.issuer for each in providers if each.subject_is_user}
    if len(own) > 1:
        raise ValueError("the subjects of one issuer at most are the project's users")
    if any(each.issuer in own and not each.subject_is_user for each in providers):
        raise ValueError("all entries of an issuer must have the same 'subject_is_user'")
    return providers


IdentityProviders = Annotated[
    list[IdentityProvider], Field(max_length=MOST_PROVIDERS, fail_fast=True), AfterValidator(_consistent)
]


class ProjectSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    aliases: Annotated[dict[ModelName, ModelName], Field(max_length=MOST_LISTED)] = {}
    """Names of the project's own for models, or the successors of models that are retired."""
    models: Annotated[list[ModelName], Field(max_length=MOST_LISTED)] | None = None
    """The models that it may use, `qwen3.7-*` for all that begin so. Without it: any."""
    origins: Annotated[list[Origin], Field(max_length=MOST_LISTED)] = []
    """Origins that browsers may call from."""
    limits: Limits = Limits()
    key_limits: KeyLimits = KeyLimits()
    """Limits of each key that has none of its own."""
    user_limits: UserLimits = UserLimits()
    """Limits of each end user."""
    identity_providers: IdentityProviders = []
    """Issuers whose JWTs are accepted in place of user tokens."""
    user_preset_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    """Id of the preset of its end users: see `preset_store.py`."""

    def may_use(self, asked: str) -> bool:
        """Return True if the project may use the model."""
        try:
            self.resolved(asked)
        except Forbidden:
            return False
        return True

    def resolved(self, asked: str) -> str:
        """The model that a name stands for. An alias may lead to another, a successor to its own.

        Raises:
            Forbidden: the project may not use it.
        """
        model, seen = asked, {asked}
        while (after := self.aliases.get(model)) is not None and after not in seen:
            model = after
            seen.add(model)
        if self.models is not None and not any(is_named(model, name) for name in self.models):
            raise Forbidden(
                f"This project may not use the model {model[:80]!r}. It may use: {', '.join(self.models[:20])}.",
                param="model",
                code="model_not_allowed",
            )
        return model


def parse_settings(shape: Any, stored: Any) -> Any:
    """Read stored settings as far as this release knows them. A setting that it cannot read counts as not set and is
    logged: it must never admit more than before."""
    try:
        return shape.model_validate(stored)
    except ValidationError as error:
        log.error("settings in the database cannot be read", fields=[each["loc"] for each in error.errors()])
        return shape()


def least(*bounds: int | None) -> int | None:
    """The tightest of bounds; None where none is set."""
    tightest: int | None = None
    for bound in bounds:
        if bound is not None and (tightest is None or bound < tightest):
            tightest = bound
    return tightest


NO_SETTINGS = ProjectSettings()
NO_LIMITS = KeyLimits()


def is_named(model: str, name: str) -> bool:
    """Return True if a model has a name, or begins with a name that ends in `*`."""
    return model == name or (name.endswith("*") and model.startswith(name[:-1]))
