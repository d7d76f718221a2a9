"""Limits: a request to a model is admitted by all its limits, or refused by one of them without being counted.

Counters are in Redis, so that all workers share them. One script checks all limits of a request and takes from all of
them; it is sent in the same pipeline as the look-up of the thread's live id. Postgres holds the usage of a month, and
Redis a counter that starts from it. A request reserves an estimate of a month's limit in the same script, and its end
replaces the estimate by the actual usage. A reservation has a lease, like a running turn.
"""

import asyncio
import hashlib
import itertools
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from redis.exceptions import NoScriptError, RedisError

from app.accounts.pool import Accounts
from app.cache.client import Cache, RedisAway, reason
from app.cache.connect import Client
from app.db.engine import Database
from app.http.errors import DatabaseUnavailable, Forbidden, TooManyRequests
from app.items.token_counts import NO_USAGE, Usage
from app.items.weights import MOST_COUNTED
from app.limits import store
from app.limits.charges import Charges, Kind, NewCharge
from app.limits.local import LocalShare
from app.limits.rules import (
    ADMIN_REQUESTS_PER_MINUTE,
    MICRO,
    TOKENS_PER_MINUTE,
    Asks,
    Rule,
    Whose,
    admin_rules,
    history_key,
    left_of_month,
    month_of,
    rules,
)
from app.limits.spent import NO_CURRENCY, Cost, cost_of, currency_of
from app.process.background import Background
from app.projects.settings import NO_LIMITS, NO_SETTINGS, Limits, ProjectSettings, UserLimits
from app.provider.account import account, is_batch, region
from app.provider.models import Models
from app.provider.permit import Permit
from app.provider.prices import Price
from app.telemetry import metrics
from app.usage import store as usage_store
from app.usage.sums import UsageSums

log = structlog.get_logger()

HERE = Path(__file__).parent

NEAR = 0.9

MOST_CALLERS = 10_000

LEASE_SECONDS = 60
"""A turn whose worker has not said for so long that it runs is taken for dead."""

RENEW_SECONDS = 20.0

MONTH_SECONDS = 40 * 86_400
"""Life of a month's counter."""

HISTORY_SECONDS = 3600
"""Time to live of the size of a history in Redis."""

DEFAULT_OUTPUT_TOKENS = 1000
"""Expected length of an answer if the request sets none and no answer was counted lately."""

IN_FLIGHT_SECONDS = 2
"""After how long to come again when running requests have reserved what is left of a month."""

COUNTED_SECONDS = 10.0
"""Largest age of the number of threads that a limit is checked against."""

SAID = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "turns_at_once": "turns at once",
    "tokens_per_month": "tokens a month",
    "cost_per_month": "of cost a month",
    "threads": "threads",
    "stored_bytes": "bytes stored",
    ADMIN_REQUESTS_PER_MINUTE: "requests a minute to the admin routes",
}

Count = Callable[[Database, UUID, str | None, int], Awaitable[int]]

FIRST_WORD, WORDS = 5, 5
"""Index of the first limit among the arguments of `admit.lua`, and the number of arguments of each limit."""

OF_A_MONTH = ("tokens_per_month", "cost_per_month")


class _Script:
    def __init__(self, name: str) -> None:
        self.source = (HERE / name).read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    async def load(self, client: Client) -> None:
        await client.script_load(self.source)


ADMIT, END, RENEW = SCRIPTS = (_Script("admit.lua"), _Script("end.lua"), _Script("renew.lua"))


@dataclass(eq=False, slots=True)
class _Met:
    """The limits that a caller's requests meet, as long as nothing of them changes."""

    asks: Asks
    month: str
    rules: list[Rule]
    keys: list[str]
    words: list[str | int]
    """Arguments of `admit.lua`, without the id and the amounts."""
    places: list[int]
    """Indexes in `words` of the tokens that are taken of a bucket."""
    months: list[tuple[int, Rule]]
    """Indexes in `words` of the reservations of a month, each with its limit."""


@dataclass(eq=False, slots=True)
class Admission(Permit):
    """An admitted request, until it has ended: what lets it call the provider, and what it has used."""

    asks: Asks
    models: Models
    met: _Met | None
    """None where nothing limits it."""
    id: str
    """Its name in Redis; empty where nothing limits it."""
    tokens: int
    """Tokens taken from buckets."""
    headers: dict[str, str]
    """Headers that tell the client about its limits."""
    usage: Usage = NO_USAGE
    costs: dict[str, Cost] = field(default_factory=dict)
    """Cost by currency. The answers of one request rarely have more than one."""
    unpriced: bool = False
    """True if an answer had no known price."""
    thread: UUID | None = None
    turn: UUID | None = None
    """The kept turn, once there is one, and its thread."""
    history_tokens: int = 0
    """Size of the history that the next turn continues."""
    _stored_cost: dict[str, Any] | None = None
    """The stored form of `cost`, until there is another answer."""

    @property
    def cost(self) -> Cost | None:
        """The cost of all answers, in the first currency; None if the price of one is unknown."""
        return None if self.unpriced else next(iter(self.costs.values()), None)

    @property
    def stored_cost(self) -> dict[str, Any] | None:
        if self._stored_cost is None and (cost := self.cost) is not None:
            self._stored_cost = cost.stored()
        return self._stored_cost

    def add(self, usage: Usage, model: str, binding: str | None) -> None:
        """Count an answer of the provider.

        Args:
            binding: of the account that was called.
        """
        cost = cost_of(usage, *_price(self.models, model, binding))
        self._stored_cost = None
        self.usage = usage if self.usage is NO_USAGE else self.usage + usage
        self.history_tokens = usage.total
        if cost is None:
            self.unpriced = self.unpriced or usage.total > 0
        else:
            known = self.costs.get(cost.currency)
            self.costs[cost.currency] = cost if known is None else known + cost


class RateLimits(Background):
    def __init__(
        self,
        cache: Cache,
        database: Database,
        models: Models,
        accounts: Accounts,
        charges: Charges,
        sums: UsageSums,
        *,
        workers: int,
    ) -> None:
        """Args: workers: how many processes share what there is, as far as this one knows."""
        super().__init__()
        self._accounts = accounts
        self._sums = sums
        self._charges = charges
        self._cache = cache
        self._database = database
        self._models = models
        self._local = LocalShare(workers)
        self._admitted_now: set[Admission] = set()
        self._met: dict[_Caller, _Met] = {}
        self._counts: dict[tuple[UUID, str | None, str], tuple[float, int]] = {}
        self._month, self._month_ends = "", 0.0
        self._name, self._numbers = secrets.token_hex(8), itertools.count()
        self._stale: set[str] = set()
        """Monthly counters that lack what a request has used: they are read from Postgres again."""

    async def admit(self, asks: Asks, *, background: bool = False) -> Admission:
        """Admit a request that asks a model.

        Args:
            background: for a call that the service makes by itself, such as a compaction or a title. It is no request
                of whoever has caused it, but its tokens and its cost are theirs.

        Raises:
            TooManyRequests: saying which limit refuses, and when to come again.
            Forbidden: a monthly cost limit applies, and the price of the model is unknown.
        """
        prices = await self._prices(asks) if asks.model and asks.limits_money else []
        met = self._met_by(asks, prices, background=background)
        if met is None:
            return Admission(asks, self._models, None, "", 0, {})
        id_ = self._new_id()
        tokens = 0 if background or not met.places else asks.tokens()
        held = await self._held(asks, met, id_, tokens, prices)
        admission = Admission(asks, self._models, met, id_, tokens, held)
        self._admitted_now.add(admission)
        return admission

    async def _prices(self, asks: Asks) -> list[Price]:
        """Return the price of a model at each account that serves it.

        Raises:
            Forbidden: a price is unknown.
        """
        found = []
        for each in await self._accounts.of(asks.project_id):
            if not each.serves(asks.model):
                continue
            price, _ = _price(self._models, asks.model, each.binding)
            if price is None:
                raise Forbidden(
                    f"No price is known for the model {asks.model[:80]!r} at the account {account(each.binding)}, and "
                    "a limit of this project counts money. Ask for a model with a price. An operator can give this one "
                    "a price, or all others one under [default], in the file that EVERTHREAD_MODELS_FILE names.",
                    param="model",
                    code="model_without_price",
                )
            found.append(price)
        return found

    async def check_admin_rate(self, project_id: UUID) -> None:
        """Count a request to an admin route.

        Raises:
            TooManyRequests: the project sends too many of them.
        """
        place: _Caller = (project_id, None, ADMIN_REQUESTS_PER_MINUTE, False, ())
        met = self._met.get(place)
        if met is None:
            asks = Asks(project_id, None, None, NO_SETTINGS, NO_LIMITS, lambda: 0)
            met = self._remembered(place, asks, "", admin_rules(project_id))
        await self._held(met.asks, met, self._new_id(), 0)

    def _new_id(self) -> str:
        return f"{self._name}{next(self._numbers):x}"

    async def _held(self, asks: Asks, met: _Met, id_: str, tokens: int, prices: Sequence[Price] = ()) -> dict[str, str]:
        """Take of every limit what a request takes, or of none. Return what the client is told of them.

        Raises:
            TooManyRequests: one of them refuses.
        """
        reserved = self._reserved(asks, met, prices)
        try:
            refused, wait, left = await self._asked(asks, met, id_, tokens, reserved)
        except (RedisError, OSError) as error:
            log.warning("Redis is unavailable; each worker lets in its share", error=reason(error))
            metrics.REDIS_ERRORS.inc()
            takes = [tokens if rule.name == TOKENS_PER_MINUTE else 1 for rule in met.rules]
            for (place, _), (fixed, _, answer) in zip(met.months, reserved, strict=True):
                takes[(place - FIRST_WORD) // WORDS] = fixed + answer
            refused, wait = self._local.admit(met.rules, takes, id_)
            left = ()
        shown = _headers(met.rules, left)
        if refused:
            raise _refusal(met.rules[refused - 1], wait, shown)
        return shown

    def _reserved(self, asks: Asks, met: _Met, prices: Sequence[Price]) -> list[tuple[int, int, int]]:
        """Return what is reserved of each limit of a month: for what is sent, with the answer's bound where it has one;
        for each token of the history; and for an answer without a bound."""
        if not met.months:
            return []
        sent, history = asks.tokens() + asks.frame(), int(asks.history is not None)
        family = self._models.of(asks.model)
        bound = asks.output
        if bound is not None and family.output_limit is not None:
            bound = min(bound, family.output_limit)
        fixed, answer = (sent + bound, 0) if bound is not None else (sent, DEFAULT_OUTPUT_TOKENS)
        found = []
        for _, rule in met.months:
            if rule.name == "tokens_per_month":
                found.append((fixed, history, answer))
            else:
                # The price of a million tokens is that of one in millionths. How long a history is, is not known here.
                in_currency = [price for price in prices if currency_of(price) == rule.currency]
                tiers = [price.tiers[-1] if history else price.tier(sent) for price in in_currency]
                read = max(tier.input for tier in tiers)
                written = max(tier.output_price(thinking=True) for tier in tiers)
                fixed_cost = sent * read + (bound or 0) * written
                found.append((math.ceil(fixed_cost), math.ceil(history * read), math.ceil(answer * written)))
        return [(min(fixed, MOST_COUNTED), each, answer) for fixed, each, answer in found]

    def _met_by(self, asks: Asks, prices: Sequence[Price], *, background: bool) -> _Met | None:
        """Return the rules for a caller's requests, made once; None if there are no limits."""
        currencies = tuple(sorted({currency_of(price) for price in prices})) if prices else ()
        caller: _Caller = (asks.project_id, asks.key_id, asks.user, background, currencies)
        month = self._this_month()
        met = self._met.get(caller)
        if (
            met is None
            or met.month != month
            or met.asks.settings is not asks.settings
            or met.asks.key_limits is not asks.key_limits
        ):
            met = self._remembered(caller, asks, month, rules(asks, month, currencies, background=background))
        return met if met.rules else None

    def _remembered(self, place: "_Caller", asks: Asks, month: str, met: list[Rule]) -> _Met:
        words: list[str | int] = ["", LEASE_SECONDS * 1000, len(met)]
        for rule in met:
            words += [rule.kind, rule.limit, 1, 0, 0]
        stand = [(FIRST_WORD + WORDS * place, rule) for place, rule in enumerate(met)]
        places = [place for place, rule in stand if rule.name == TOKENS_PER_MINUTE]
        months = [(place, rule) for place, rule in stand if rule.kind == "month"]
        if len(self._met) >= MOST_CALLERS:
            self._met.clear()
        found = self._met[place] = _Met(asks, month, met, [rule.key for rule in met], words, places, months)
        return found

    def _this_month(self) -> str:
        if time.time() >= self._month_ends:
            now = datetime.now(UTC)
            self._month, self._month_ends = f"{now:%Y%m}", time.time() + left_of_month(now)
        return self._month

    def end(self, admission: Admission) -> None:
        """End a request: it runs no more, and what it took of its limits is set right by what it has used."""
        if admission.ended:
            return
        admission.ended = True
        met = admission.met
        if met is None:
            return
        self._admitted_now.discard(admission)
        words: list[str | int] = [admission.id, len(met.rules)]
        used = []
        for rule in met.rules:
            takes = answer = 0
            match rule.name:
                case "tokens_per_minute":
                    takes = admission.usage.total - min(admission.tokens, rule.limit)
                case "tokens_per_month":
                    takes, answer = admission.usage.total, admission.usage.output
                case "cost_per_month" if (cost := admission.costs.get(rule.currency)) is not None:
                    takes, answer = round(cost.amount * MICRO), round(cost.answer * MICRO)
            used.append(takes)
            words += (rule.kind, takes, answer)
        self._local.end(met.rules, admission.id, used)
        keys, project_id = [*met.keys], admission.asks.project_id
        if met.months and admission.thread is not None and admission.turn is not None:
            keys += [history_key(project_id, admission.thread), history_key(project_id, admission.turn)]
            words += (admission.history_tokens, HISTORY_SECONDS)
        settled = self._cache.send(("EVALSHA", END.digest, len(keys), *keys, *words))
        if not (met.months and admission.usage.total):
            return
        months = [rule.key for _, rule in met.months]
        if settled is None:
            self._stale.update(months)
        else:
            settled.add_done_callback(lambda answer: self._look_at_settled(answer, months))

    def _look_at_settled(self, answer: "asyncio.Future[Any]", months: list[str]) -> None:
        """Note counters that a request's usage has not reached: Redis was unavailable, or its reservation had
        expired."""
        if answer.cancelled() or answer.exception() is not None or answer.result() == 0:
            self._stale.update(months)

    async def _forget_stale(self) -> None:
        """Drop counters that lack what was used, so that they are begun again with what Postgres says.

        Raises:
            RedisError, OSError: Redis is unavailable.
            DatabaseUnavailable: charges cannot be written.
        """
        if not self._stale:
            return
        await self._charges.write()
        for key in list(self._stale):
            await self._cache.execute(("DEL", key))
            self._stale.discard(key)

    def record(
        self,
        admission: Admission,
        kind: Kind,
        model: str,
        binding: str | None,
        usage: Usage,
        cost: Cost | None,
        *,
        thread_id: UUID | None = None,
        estimated: bool = False,
    ) -> None:
        """Write down what was spent outside a stored turn, for `/v1/usage` and for the month's counters."""
        asks = admission.asks
        self._charges.add(
            NewCharge(
                asks.project_id,
                kind,
                model,
                binding,
                asks.key_id,
                asks.user,
                thread_id,
                usage,
                cost,
                estimated=estimated,
            )
        )

    async def cause(self, project_id: UUID, turn_id: UUID) -> Asks | None:
        """Return who asked for a turn; None if it was deleted."""
        return await store.cause(self._database, project_id, turn_id)

    async def check_stored(
        self, project_id: UUID, user: str | None, settings: ProjectSettings, *, makes_thread: bool = True
    ) -> None:
        """Refuse what would be one thread, or some bytes, too many.

        Args:
            user: the end user whose it will be.
            makes_thread: whether a thread is to be made.

        Raises:
            TooManyRequests: saying which limit is reached.
        """
        bounds: list[tuple[Whose, Limits | UserLimits, str | None]] = [("project", settings.limits, None)]
        if user is not None:
            bounds.append(("user", settings.user_limits, user))
        for whose, limits, of in bounds:
            if makes_thread and limits.threads is not None:
                found = await self._counted(project_id, of, "threads", limits.threads, store.threads)
                if found >= limits.threads:
                    raise _reached(whose, "threads", limits.threads)
            if limits.stored_bytes is not None:
                found = await self._counted(project_id, of, "stored_bytes", limits.stored_bytes, store.stored_bytes)
                if found >= limits.stored_bytes:
                    raise _reached(whose, "stored_bytes", limits.stored_bytes)

    def last_counts(self, project_id: UUID) -> list[tuple[str | None, str, int]]:
        """Return this worker's last counts of threads and bytes as user (None for the project), name of the limit and
        count."""
        return [(user, name, count) for (of, user, name), (_, count) in self._counts.items() if of == project_id]

    async def _counted(self, project_id: UUID, user: str | None, name: str, limit: int, count: Count) -> int:
        """Return a count that is at most `COUNTED_SECONDS` old. Near the limit it is counted again, so that deleted
        rows do not count."""
        now, place = time.monotonic(), (project_id, user, name)
        known = self._counts.get(place)
        if known is not None and known[0] > now and known[1] < NEAR * limit:
            # Whoever asks makes one.
            self._counts[place] = (known[0], known[1] + 1)
            return known[1]
        if len(self._counts) > 10_000:
            self._counts.clear()
        found = await count(self._database, project_id, user, limit)
        self._counts[place] = (now + COUNTED_SECONDS, found + 1)
        return found

    async def _asked(
        self,
        asks: Asks,
        met: _Met,
        id_: str,
        tokens: int,
        reserved: Sequence[tuple[int, int, int]],
        begun: int = 0,
    ) -> tuple[int, int, Sequence[int]]:
        """Ask Redis for the number of the limit that refuses, the time to wait in ms, and what each limit has left.

        Args:
            reserved: see `_reserved`.
            begun: how many counters were begun for it.

        Raises:
            RedisError, OSError: it is unavailable.
        """
        if not self._stale.isdisjoint(met.keys):
            await self._forget_stale()
        words = [*met.words]
        words[0] = id_
        for place in met.places:
            words[place] = tokens
        for (place, _), amounts in zip(met.months, reserved, strict=True):
            words[place : place + len(amounts)] = amounts
        keys = met.keys
        if met.months and asks.history is not None:
            keys = [*keys, history_key(asks.project_id, asks.history)]
        asked = self._cache.ask(("EVALSHA", ADMIT.digest, len(keys), *keys, *words))
        if asked is None:
            raise RedisAway("It has not answered a moment ago.")
        try:
            answer = await asked
        except NoScriptError:
            # A Redis that was restarted: all scripts are loaded, because no request waits for the other answers.
            for script in SCRIPTS:
                await self._cache.call(script.load)
            answer = await self._cache.execute(("EVALSHA", ADMIT.digest, len(keys), *keys, *words))
        refused = answer[0]
        if refused >= 0:
            return refused, answer[1], answer[2:]
        if begun == len(keys):
            raise RedisAway("It forgets what it was told a moment ago.")
        if -refused > len(met.rules):
            assert asks.history is not None
            size = await store.history(self._database, asks.project_id, asks.history)
            await self._cache.execute(("SET", keys[-1], size, "NX", "EX", HISTORY_SECONDS))
        else:
            await self._begin_counter(asks, met.rules[-refused - 1])
        return await self._asked(asks, met, id_, tokens, reserved, begun + 1)

    async def _begin_counter(self, asks: Asks, rule: Rule) -> None:
        """Begin a month's counter with what Postgres says was used."""
        since = month_of(datetime.now(UTC))
        key_id = asks.key_id if rule.whose == "key" else None
        user = asks.user if rule.whose == "user" else None
        tokens, costs = await usage_store.used(self._database, asks.project_id, key_id, user, since)
        self._sums.request_update(asks.project_id)
        used = tokens if rule.name == "tokens_per_month" else round(costs.get(rule.currency, 0.0) * MICRO)
        await self._cache.execute(("SET", rule.key, used, "NX", "EX", MONTH_SECONDS))

    async def run(self) -> None:
        """Say of the requests of this worker that they are under way still, and mend counters of a month."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._forget_stale()
            except (RedisError, OSError, DatabaseUnavailable) as error:
                log.warning("what a month has used is counted later", error=reason(error))
            for admission in list(self._admitted_now):
                met = admission.met.rules if admission.met is not None else ()
                keys = [rule.key for rule in met if rule.kind == "running"]
                keys += [f"{rule.key}:until" for rule in met if rule.kind == "month"]
                self._cache.send(("EVALSHA", RENEW.digest, len(keys), *keys, admission.id, LEASE_SECONDS * 1000))


_Caller = tuple[UUID, UUID | None, str | None, bool, tuple[str, ...]]
"""Project, key, user, background call or not, and the currencies in which it may be charged."""


@lru_cache(maxsize=1024)
def _price(models: Models, model: str, binding: str | None) -> tuple[Price | None, bool]:
    """Return the price of a model at an account, and True if the batch price applies there.

    A model without a price has that of unlisted models.
    """
    where = region(binding)
    return models.of(model).price_in(where) or models.of("").price_in(where), is_batch(binding)


def _headers(met: Sequence[Rule], left: Sequence[int]) -> dict[str, str]:
    """OpenAI's headers, of the limit of each kind of which the least is left."""
    headers: dict[str, str] = {}
    for name, what in (("requests_per_minute", "requests"), ("tokens_per_minute", "tokens")):
        found = [(left, rule.limit) for rule, left in zip(met, left, strict=False) if rule.name == name]
        if found:
            least, limit = min(found)
            headers[f"x-ratelimit-limit-{what}"] = str(limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, least))
            headers[f"x-ratelimit-reset-{what}"] = f"{max(0.0, (limit - least) * 60 / limit):.3f}s"
    return headers


def _refusal(rule: Rule, wait: int, shown: dict[str, str]) -> TooManyRequests:
    seconds = left_of_month(datetime.now(UTC)) if rule.name in OF_A_MONTH else max(1, math.ceil(wait / 1000))
    headers = {**shown, "Retry-After": str(seconds), "Everthread-Limit": f"{rule.whose}.{rule.name}"}
    limit = f"{rule.limit / MICRO:g}" if rule.name == "cost_per_month" else str(rule.limit)
    if rule.currency not in ("", NO_CURRENCY):
        limit = f"{limit} {rule.currency}"
    if rule.name in OF_A_MONTH and wait >= 0:
        headers["Retry-After"] = str(max(IN_FLIGHT_SECONDS, math.ceil(wait / 1000)))
        return TooManyRequests(
            f"What is left of the {rule.whose}'s limit of {limit} {SAID[rule.name]} is reserved by requests that run "
            f"now, or less than this request may use. Send it again when they have ended, or with a smaller "
            f"'max_output_tokens'.",
            code="insufficient_quota",
            headers=headers,
        )
    if rule.name in OF_A_MONTH:
        # A client that retries would wait until the month is over.
        return TooManyRequests(
            f"The {rule.whose}'s limit of {limit} {SAID[rule.name]} is reached. It starts again next month.",
            code="insufficient_quota",
            headers={**headers, "X-Should-Retry": "false"},
        )
    return TooManyRequests(
        f"The {rule.whose}'s limit of {limit} {SAID[rule.name]} is reached. Send this again in {seconds} s.",
        code="rate_limit_exceeded",
        headers=headers,
    )


def _reached(whose: str, name: str, limit: int) -> TooManyRequests:
    return TooManyRequests(
        f"The {whose}'s limit of {limit} {SAID[name]} is reached. Delete something first.",
        code="insufficient_quota",
        headers={"Everthread-Limit": f"{whose}.{name}", "X-Should-Retry": "false"},
    )
