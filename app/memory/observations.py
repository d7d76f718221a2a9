"""Observations of models in the provider's answers: context windows that are smaller than documented, and token counts.

Each worker keeps them in memory, writes new ones to Postgres, and reads those of other workers there from time to time.
Observations older than the life of a response id expire, so that a wrong one heals and a larger window is noticed.
"""

import asyncio
from collections.abc import Sequence

import structlog

from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import DatabaseUnavailable
from app.process.background import Background
from app.provider.models import WINDOW_SHARE, Family

log = structlog.get_logger()

READ_SECONDS = 30.0

SMALLEST_WINDOW = 8192
"""Nothing is taken for the sign of a smaller one: an odd answer must not make every conversation forget."""

SMALLEST_CUT = int(WINDOW_SHARE * SMALLEST_WINDOW)
"""Smallest number of tokens that the provider leaves of an input that it cuts."""

LIKE = 0.25
"""Largest relative difference between two counts that show the same window."""

CLEARLY_BELOW = 0.6
"""An answer that counts less than this share of what was counted here was cut: no vocabulary differs so much."""

FEWEST_COUNTED = 256
"""Smallest count that is used as an observation."""

MOST_PER_COUNTED = 2.0

LATEST_SHARE = 0.3
"""Weight of the latest count in the average."""

SQL = statements_of(__file__)


class AccountObservations:
    """Observations at one account. They are separate, so that one project's endpoint does not affect another
    project."""

    def __init__(self, news: asyncio.Event) -> None:
        self._news = news
        self._windows: dict[str, int] = {}
        self._per_counted: dict[str, float] = {}
        self._suspected: dict[str, int] = {}
        """Counts that the provider reported for inputs that it seems to have cut."""
        self.unwritten: set[str] = set()
        self._without_format: set[str] = set()
        """Models with an answer that did not fit a format that the provider should have enforced."""
        self.changes = 0
        """Number of changes of what models can take."""

    def enforces_format(self, family: Family, model: str) -> bool:
        """Return True if the provider enforces a JSON schema, by documentation and observation."""
        return family.structured_output and model not in self._without_format

    def format_ignored(self, model: str) -> None:
        """Record an answer that does not fit a format which should have been enforced."""
        if model not in self._without_format:
            log.warning("the provider does not enforce a model's format; instructions ask for it now", model=model)
            self._without_format.add(model)
            self.changes += 1

    def answered(self) -> list[str]:
        """Models that have shown something of themselves: they can be had."""
        return [*self._windows, *self._per_counted]

    def token_budget(self, family: Family, model: str) -> int:
        """Return how many tokens a model reads, as far as is documented and observed."""
        return family.token_budget(self._windows.get(model))

    def window(self, family: Family, model: str) -> int:
        return min(family.window, self._windows.get(model, family.window))

    def tokens(self, model: str, counted: int) -> int:
        """Return the model's count of tokens for a count by Qwen's older vocabulary."""
        return round(counted * self._per_counted.get(model, 1.0))

    def expected(self, model: str, counts: Sequence[int]) -> list[int]:
        return [self.tokens(model, counted) for counted in counts]

    def is_cut(self, model: str, expected: float, reported: int) -> bool:
        """Return True if the provider's count shows that it has cut an input: the count is its share of the window.

        A window is accepted from the second such count on, because it then applies to all requests.

        Args:
            expected: the smallest count that is possible for the whole input.
        """
        if not SMALLEST_CUT <= reported < expected:
            return False
        log.warning("the provider has cut an input, and not said so", model=model, input_tokens=reported)
        before = self._suspected.get(model)
        if before is not None and abs(reported - before) < LIKE * before:
            self._smaller(model, max(before, reported))
        self._suspected[model] = reported
        return True

    def refused(self, model: str, limit: int) -> None:
        """The provider has said that it takes no more than so many tokens."""
        if limit >= SMALLEST_CUT:
            self._smaller(model, limit)

    def reported(self, model: str, expected: int, reported: int) -> bool:
        """Record the provider's count of an input that was counted here. Return True if the provider has cut it.

        Args:
            expected: the count to expect: see `tokens`.
        """
        if self.is_cut(model, CLEARLY_BELOW * expected, reported):
            return True
        if expected < FEWEST_COUNTED or reported < CLEARLY_BELOW * expected:
            return False
        before = self._per_counted.get(model)
        ratio = min((before or 1.0) * reported / expected, MOST_PER_COUNTED)
        self._per_counted[model] = ratio if before is None else before + LATEST_SHARE * (ratio - before)
        self._write(model)
        return False

    def _smaller(self, model: str, tokens: int) -> None:
        window = int(tokens / WINDOW_SHARE)
        if window < self._windows.get(model, window + 1):
            log.warning("a model's window is smaller than was known", model=model, window_tokens=window)
            self._windows[model] = window
            self.changes += 1
            self._write(model)

    def _write(self, model: str) -> None:
        self.unwritten.add(model)
        self._news.set()

    def known(self, model: str) -> tuple[int | None, float | None]:
        """A model's window, and what it counts for a token of Qwen's older vocabulary, as far as was learnt."""
        return self._windows.get(model), self._per_counted.get(model)

    def read(self, model: str, window: int | None, per_counted: float | None) -> None:
        """Take over what another worker has learnt."""
        if window is not None:
            self._windows[model] = window
            self.changes += 1
        if per_counted is not None:
            self._per_counted[model] = per_counted


class ModelObservations(Background):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._at: dict[str, AccountObservations] = {}
        self._news = asyncio.Event()

    def at(self, binding: str) -> AccountObservations:
        """Return the observations at an account."""
        found = self._at.get(binding)
        if found is None:
            found = self._at[binding] = AccountObservations(self._news)
            self._news.set()  # Others may have learnt something of it.
        return found

    async def run(self) -> None:
        while True:
            try:
                await self._written()
                for row in await self._database.fetch(*SQL.observed_models(bindings=list(self._at))):
                    self.at(row["binding"]).read(row["model"], row["window_tokens"], row["tokens_per_counted"])
            except DatabaseUnavailable:
                log.warning("Postgres is unavailable; what was learnt of models is not written yet")
            try:
                await asyncio.wait_for(self._news.wait(), READ_SECONDS)
                await asyncio.sleep(1)  # What comes together is written together.
            except TimeoutError:
                continue

    async def _written(self) -> None:
        self._news.clear()
        for binding, observations in list(self._at.items()):
            for model in list(observations.unwritten):
                window, per_counted = observations.known(model)
                await self._database.fetchrow(
                    *SQL.observe_model(
                        binding=binding, model=model, window_tokens=window, tokens_per_counted=per_counted
                    )
                )
                observations.unwritten.discard(model)
