"""The provider accounts that a project's turns may be answered with, and which of them is asked.

A project has its own, or those that the service has for all: the one of its settings, and the shared ones. An account
of a project's own is never asked for another; and a project that has its own never spends the service's.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from app import egress
from app.accounts.breaker import STATES, Breaker, State
from app.db.engine import Database
from app.db.wall import across_projects
from app.fresh import Fresh
from app.projects.settings import is_named
from app.provider import failure
from app.provider.client import Provider, ProviderError
from app.provider.failure import Failure, Kind
from app.sealing.ciphertext import CannotOpen
from app.sealing.vault import Vault

log = structlog.get_logger()

PURPOSE = "provider account"

CACHE_SECONDS = 60.0
"""How long a worker may go on with accounts that are changed meanwhile in another."""

RENEW_SECONDS = 4.0
"""Who finds them older than this has them looked up again, and goes on with them: no turn waits for that."""

LEFT_OPEN_SECONDS = 3600.0
"""After so long no turn is left that was begun with an account which is not there any more."""

MOST_MODELS = 200
"""Models of an account that have breakers of their own."""

THERE = """
SELECT a.project_id, a.id, a.name, a.position, a.weight, a.base_url, a.api_key, a.models, a.shared, a.disabled,
    p.operates
FROM accounts a JOIN projects p ON p.project_id = a.project_id
WHERE a.project_id = $1 OR a.shared ORDER BY a.position, a.id
"""

PASSED_ON = (failure.MODEL_UNSUPPORTED, failure.MODEL_NOT_FOUND)
"""Codes of refusals that fail over to the next account, since regions offer different models. They open no breaker."""


@dataclass(eq=False, slots=True)
class ProviderAccount:
    """An account, ready to be asked."""

    id: UUID | None
    """None: the one of the service's settings."""
    name: str
    provider: Provider
    position: int = 0
    weight: int = 1
    models: Sequence[str] = ()
    of_project: bool = False
    """Whether it is a project's own."""
    breakers: dict[str, Breaker] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As metrics name it, which are anybody's to read: no project's own."""
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
        """The worst of its breakers'."""
        return max((breaker.state(now) for breaker in self.breakers.values()), key=STATES.index, default="closed")


@dataclass(frozen=True, slots=True)
class _There:
    """What a project can be answered with."""

    has_own: bool
    """Whether it has accounts of its own, usable or not: then no other is asked."""
    usable: Sequence[ProviderAccount]


class Accounts:
    def __init__(
        self,
        database: Database,
        vault: Vault,
        of_settings: ProviderAccount,
        connect: Callable[..., Provider],
        *,
        has_key: bool,
        inside: bool,
    ) -> None:
        """Args:
        of_settings: the account that the service's settings name; `has_key`, whether they have a key for it.
        connect: makes a provider of a base URL and a key; `public_only`: it connects to public addresses only.
        inside: whether accounts of projects may lead to private addresses.
        """
        self._database = database
        self._vault = vault
        self.of_settings = of_settings
        self._has_key = has_key
        self._connect = connect
        self._inside = inside
        self._known: Fresh[UUID, _There] = Fresh("accounts", seconds=CACHE_SECONDS, renewed_after=RENEW_SECONDS)
        self._by_id: dict[UUID, tuple[tuple[Any, ...], ProviderAccount]] = {}
        self._left_open: list[tuple[float, Provider]] = []

    async def of(self, project_id: UUID) -> Sequence[ProviderAccount]:
        """Those of a project, in the order in which they are asked.

        Raises:
            DatabaseUnavailable: Postgres is away, and was not asked for them a moment ago.
        """
        there = await self._there(project_id)
        if there.has_own:
            return [each for each in there.usable if each.of_project]
        shared = there.usable
        return [self.of_settings, *shared] if self._has_key or not shared else shared

    async def found(self, project_id: UUID, id_: UUID) -> ProviderAccount | None:
        """An account of the project, or a shared one; None where it is not used."""
        return next((each for each in (await self._there(project_id)).usable if each.id == id_), None)

    async def at(self, project_id: UUID, binding: str) -> ProviderAccount | None:
        """The account of a project that a response id belongs to."""
        return next((each for each in await self.of(project_id) if each.binding == binding), None)

    async def first(self, project_id: UUID, model: str, binding: str | None = None) -> ProviderAccount:
        """The account that a request of a project goes to.

        Args:
            binding: of the account where the conversation's chain lives, if it has one.

        Raises:
            ProviderError: none of them serves the model.
        """
        found = choose(await self.of(project_id), model, binding=binding)
        if found is None:
            raise ProviderError(no_account(model))
        return found

    async def next(self, project_id: UUID, model: str, tried: Sequence[ProviderAccount]) -> ProviderAccount | None:
        """The account that is asked after others have failed; None where there is no other."""
        return choose(await self.of(project_id), model, tried=tried)

    def forget(self) -> None:
        """Look all accounts up anew: some have changed."""
        self._known.forget()

    async def close(self) -> None:
        await self._known.stop()
        await self.of_settings.provider.close()
        for provider in [*(each.provider for _, each in self._by_id.values()), *(each for _, each in self._left_open)]:
            await provider.close()

    async def _there(self, project_id: UUID) -> _There:
        found = await self._known.get(project_id, lambda: self._looked_up(project_id))
        assert found is not None
        return found

    async def _looked_up(self, project_id: UUID) -> _There:
        with across_projects():  # Those that are shared are another project's.
            rows = await self._database.fetch(THERE, project_id)
            usable = [account for row in rows if (account := await self._opened(row)) is not None]
        there = _There(any(not row["shared"] for row in rows), usable)
        await self._close_unused(there)
        return there

    async def _close_unused(self, there: _There) -> None:
        """Close the connections of accounts that nobody has had for so long that no turn is left with one."""
        now = time.monotonic()
        used = {each.id for known in (*self._known.values(), there) for each in known.usable}
        for id_, (_, account) in list(self._by_id.items()):
            if id_ not in used:
                del self._by_id[id_]
                self._left_open.append((now + LEFT_OPEN_SECONDS, account.provider))
        while self._left_open and self._left_open[0][0] < now:
            await self._left_open.pop(0)[1].close()

    async def _opened(self, row: Any) -> ProviderAccount | None:
        """An account as it was the last time, where its row says the same; None for one that is not to be used."""
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
            key = (await self._vault.open(row["project_id"], PURPOSE, row["api_key"])).decode()
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


def choose(
    accounts: Sequence[ProviderAccount],
    model: str,
    *,
    binding: str | None = None,
    tried: Sequence[ProviderAccount] = (),
) -> ProviderAccount | None:
    """Which account is asked: the one where the chain lives, for to leave it is to send the history again; else one of
    those that come first, each as often as it weighs; else those behind them.

    Args:
        tried: those that have failed in this turn.
    """
    serving = [each for each in accounts if each.serves(model) and each not in tried]
    if len(serving) == 1 and not tried:
        return serving[0]  # There is no other: better asked than not.
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


def goes_on_elsewhere(found: Failure) -> bool:
    """Return True if the turn fails over to the next account: throttling, outage, refused account, missing model."""
    return found.kind in (*failure.RETRIED, Kind.CREDENTIALS) or found.code in PASSED_ON


def no_account(model: str) -> Failure:
    return Failure(
        Kind.REFUSED,
        400,
        failure.MODEL_NOT_FOUND,
        f"None of the project's provider accounts serves the model {model}. Choose another, or add it to an account.",
    )
