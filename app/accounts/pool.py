"""Pool of provider accounts: the accounts that a project may use, their order, and failover between them.

A project uses its own accounts. A project without any uses the service's: the account of the settings and the shared
ones. One project's own account never serves another project, and a project with own accounts never spends the
service's.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from app.accounts.breaker import STATES, Breaker, State
from app.db.engine import Database
from app.db.sql import statements_of
from app.http import egress
from app.process.refreshing_cache import RefreshingCache
from app.projects.settings import is_named
from app.provider import failure
from app.provider.client import Provider, ProviderError
from app.provider.failure import Failure, Kind
from app.sealing.ciphertext import CannotOpen
from app.sealing.project_cipher import ProjectCipher

log = structlog.get_logger()

CACHE_SECONDS = 60.0
"""The longest time for which a worker uses accounts that another worker has changed."""

RENEW_SECONDS = 4.0
"""The age at which cached accounts are refreshed in the background. No turn waits for it."""

LEFT_OPEN_SECONDS = 3600.0
"""The time after which no turn can still use an account that was removed; its connections are closed then."""

MOST_MODELS = 200
"""The largest number of models per account with a breaker of their own."""

SQL = statements_of(__file__)

PASSED_ON = (failure.MODEL_UNSUPPORTED, failure.MODEL_NOT_FOUND)
"""Codes of refusals that fail over to the next account, since regions offer different models. They open no breaker."""


@dataclass(eq=False, slots=True)
class ProviderAccount:
    """A provider account with its connections and breakers."""

    id: UUID | None
    """None for the account of the service's settings."""
    name: str
    provider: Provider
    position: int = 0
    weight: int = 1
    models: Sequence[str] = ()
    of_project: bool = False
    """True for a project's own account."""
    breakers: dict[str, Breaker] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return the account's name in metrics, which are public: a project's own account is not named."""
        return "of a project" if self.of_project else self.provider.account

    @property
    def binding(self) -> str:
        return self.provider.binding

    def serves(self, model: str) -> bool:
        return not self.models or any(is_named(model, name) for name in self.models)

    def breaker(self, model: str) -> Breaker:
        found = self.breakers.get(model)
        if found is None:
            if len(self.breakers) >= MOST_MODELS:
                self.breakers.clear()
            found = self.breakers[model] = Breaker()
        return found

    def state(self, now: float) -> State:
        """Return the worst state of the account's breakers."""
        return max((breaker.state(now) for breaker in self.breakers.values()), key=STATES.index, default="closed")


@dataclass(frozen=True, slots=True)
class _ProjectAccounts:
    """The accounts of one project."""

    has_own: bool
    """True if the project has accounts of its own, usable or not. Then it uses no others."""
    usable: Sequence[ProviderAccount]


class Accounts:
    def __init__(
        self,
        database: Database,
        cipher: ProjectCipher,
        of_settings: ProviderAccount,
        connect: Callable[..., Provider],
        *,
        has_key: bool,
        inside: bool,
    ) -> None:
        """Args:
        of_settings: the account of the service's settings.
        connect: creates a provider from a base URL, a key, and the flag `public_only` (public addresses only).
        has_key: True if the settings have a key for their account.
        inside: True if accounts of projects may have private addresses.
        """
        self._database = database
        self._cipher = cipher
        self.of_settings = of_settings
        self._has_key = has_key
        self._connect = connect
        self._inside = inside
        self._known: RefreshingCache[UUID, _ProjectAccounts] = RefreshingCache(
            "accounts", seconds=CACHE_SECONDS, renewed_after=RENEW_SECONDS
        )
        self._by_id: dict[UUID, tuple[tuple[Any, ...], ProviderAccount]] = {}
        self._left_open: list[tuple[float, Provider]] = []

    async def of(self, project_id: UUID) -> Sequence[ProviderAccount]:
        """Return the accounts of a project in the order of use.

        Raises:
            DatabaseUnavailable: Postgres is unreachable and the accounts are not cached.
        """
        there = self._known.fresh(project_id) or await self._of_project(project_id)
        if there.has_own:
            return [each for each in there.usable if each.of_project]
        shared = there.usable
        return [self.of_settings, *shared] if self._has_key or not shared else shared

    def in_use(self, project_id: UUID) -> Sequence[ProviderAccount]:
        """Return the accounts that this worker may have used for a project, and the service's. Reads only the cache."""
        known = self._known.peek(project_id)
        found = {self.of_settings, *(() if known is None else known.usable)}
        found |= {account for _, account in self._by_id.values() if not account.of_project}
        return list(found)

    async def get(self, project_id: UUID, id_: UUID) -> ProviderAccount | None:
        """Return an account of the project or a shared one by its id; None if it is not usable."""
        return next((each for each in (await self._of_project(project_id)).usable if each.id == id_), None)

    async def by_binding(self, project_id: UUID, binding: str) -> ProviderAccount | None:
        """Return the account of a project that issued response ids with this binding."""
        return next((each for each in await self.of(project_id) if each.binding == binding), None)

    async def first(self, project_id: UUID, model: str, binding: str | None = None) -> ProviderAccount:
        """Return the account for a request of a project.

        Args:
            binding: the binding of the account that holds the conversation's chain, if there is one.

        Raises:
            ProviderError: no account serves the model.
        """
        found = choose(await self.of(project_id), model, binding=binding)
        if found is None:
            raise ProviderError(no_account(model))
        return found

    async def next(self, project_id: UUID, model: str, tried: Sequence[ProviderAccount]) -> ProviderAccount | None:
        """Return the account to fail over to; None if there is no other."""
        return choose(await self.of(project_id), model, tried=tried)

    def forget(self) -> None:
        """Drop all cached accounts, because some have changed."""
        self._known.forget()

    async def close(self) -> None:
        await self._known.stop()
        await self.of_settings.provider.close()
        for provider in [*(each.provider for _, each in self._by_id.values()), *(each for _, each in self._left_open)]:
            await provider.close()

    async def _of_project(self, project_id: UUID) -> _ProjectAccounts:
        found = await self._known.get(project_id, lambda: self._looked_up(project_id))
        assert found is not None
        return found

    async def _looked_up(self, project_id: UUID) -> _ProjectAccounts:
        rows = await self._database.fetch(*SQL.usable(project_id=project_id))
        usable = [account for row in rows if (account := await self._opened(row)) is not None]
        there = _ProjectAccounts(any(not row["shared"] for row in rows), usable)
        await self._close_unused(there)
        return there

    async def _close_unused(self, there: _ProjectAccounts) -> None:
        """Close the connections of removed accounts once no turn can use them any more."""
        now = time.monotonic()
        used = {each.id for known in (*self._known.values(), there) for each in known.usable}
        for id_, (_, account) in list(self._by_id.items()):
            if id_ not in used:
                del self._by_id[id_]
                self._left_open.append((now + LEFT_OPEN_SECONDS, account.provider))
        while self._left_open and self._left_open[0][0] < now:
            await self._left_open.pop(0)[1].close()

    async def _opened(self, row: Any) -> ProviderAccount | None:
        """Return the account of a row, reusing the known one if the row is unchanged; None if it is not usable."""
        if row["disabled"]:
            return None
        said = tuple(row)
        known = self._by_id.get(row["id"])
        if known is not None and known[0] == said:
            return known[1]
        public_only = not (self._inside or row["operates"])
        if egress.url_fault(row["base_url"], private=not public_only) is not None:
            log.error("an account is not used: its URL must lead to a public address", account=row["id"].hex)
            return None
        try:
            purpose = purpose_of(row["id"], row["base_url"])
            key = (await self._cipher.open(row["project_id"], purpose, row["api_key"])).decode()
        except CannotOpen as error:
            log.error("an account is not used: its key cannot be opened", account=row["id"].hex, why=str(error))
            return None
        provider = self._connect(row["base_url"], key, public_only=public_only)
        account = ProviderAccount(
            row["id"], row["name"], provider, row["position"], row["weight"], list(row["models"]), not row["shared"]
        )
        if known is not None:
            account.breakers = known[1].breakers
            self._left_open.append((time.monotonic() + LEFT_OPEN_SECONDS, known[1].provider))
        self._by_id[row["id"]] = (said, account)
        return account


def purpose_of(account_id: UUID, base_url: str) -> str:
    """Return what an account's key is sealed for: it opens for no other account, and is sent to no other URL."""
    return f"provider account {account_id.hex} {base_url}"


def choose(
    accounts: Sequence[ProviderAccount],
    model: str,
    *,
    binding: str | None = None,
    tried: Sequence[ProviderAccount] = (),
) -> ProviderAccount | None:
    """Choose an account: the one that holds the chain, since any other needs the whole history again; else one of the
    first position, at random by weight; else one of the next position.

    Args:
        binding: the binding of the account that holds the chain.
        tried: accounts that have failed in this turn.
    """
    serving = [each for each in accounts if each.serves(model) and each not in tried]
    if len(serving) == 1 and not tried:
        return serving[0]  # There is no other, so an open breaker does not matter.
    now = time.monotonic()
    at_home = next((each for each in serving if each.binding == binding), None)
    if at_home is not None and at_home.breaker(model).lets_through(now):
        return at_home
    left = [each for each in serving if each is not at_home]
    while left:
        first = min(each.position for each in left)
        group = [each for each in left if each.position == first]
        chosen = random.choices(group, [each.weight for each in group])[0]  # noqa: S311
        if chosen.breaker(model).lets_through(now):
            return chosen
        left.remove(chosen)
    return serving[0] if serving and not tried else None


def fails_over(found: Failure) -> bool:
    """Return True if the turn fails over to the next account: throttling, outage, refused account, missing model."""
    return found.kind in (*failure.RETRIED, Kind.CREDENTIALS) or found.code in PASSED_ON


def no_account(model: str) -> Failure:
    return Failure(
        Kind.REFUSED,
        400,
        failure.MODEL_NOT_FOUND,
        f"None of the project's provider accounts serves the model {model}. Choose another, or add it to an account.",
    )
