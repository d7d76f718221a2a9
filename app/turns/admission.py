"""Admission of turns: their size, the places of this worker, and the limits of their project, key and user.

An admitted turn has a place in this worker and a permit to call the provider. It gives both back at its end.
"""

from collections import Counter
from uuid import UUID

import orjson

from app.http import capacity
from app.http.errors import BadRequest, Overloaded, ServiceStopping, TooManyRequests
from app.items.token_counts import NO_USAGE, usage_of
from app.items.weights import BYTES_PER_TOKEN
from app.limits.charges import Kind
from app.limits.rules import Asks
from app.limits.service import Admission, RateLimits
from app.settings import Settings
from app.threads.address import Address, New, OfTurn
from app.turns.running import Running
from app.turns.schemas import TurnRequest


class TurnAdmission:
    def __init__(self, limits: RateLimits, settings: Settings) -> None:
        self._limits = limits
        self._most_bytes = settings.provider_max_input_bytes
        self._most_turns = settings.max_turns or capacity.most_turns(settings.database_pool_size)
        self._most_of_project = max(1, int(settings.project_share * self._most_turns))
        self._of_projects: Counter[UUID] = Counter()
        """The number of places that each project has taken."""

    def check_size(self, request: TurnRequest) -> None:
        """Refuse new input that makes the provider's request too large by itself: it is never changed."""
        size = sum(len(item.encoded) + 1 for item in request.items) + len(orjson.dumps(request.params))
        if size > self._most_bytes:
            raise BadRequest(
                f"'input' makes a request of {size} bytes, with instructions and tools, and the provider takes "
                f"{self._most_bytes}. Send smaller images or other media, or their URLs.",
                param="input",
                code="input_too_large",
            )

    def take_place(self, project_id: UUID, running: int) -> None:
        """Take one of this worker's places for a project.

        Args:
            running: the number of turns that run in this worker.

        Raises:
            Overloaded: the worker runs as many turns as it can.
            TooManyRequests: the project has its share of the places.
        """
        if running >= self._most_turns:
            raise Overloaded(
                f"This worker runs {self._most_turns} turns, as many as it can. Send this again later.",
                headers={"Retry-After": "1"},
            )
        if self._of_projects[project_id] >= self._most_of_project:
            raise TooManyRequests(
                f"This project runs {self._most_of_project} turns in this worker, as many as leave room for others. "
                "Send this again later.",
                code="project_busy",
                headers={"Retry-After": "1"},
            )
        self._of_projects[project_id] += 1

    async def admit(self, project_id: UUID, address: Address, request: TurnRequest) -> Admission:
        """Hold a turn against the limits of its project, its key and its user.

        Raises:
            TooManyRequests: saying which limit refuses, and when to come again.
        """
        origin, output = request.origin, request.params.get("max_output_tokens")
        at = address.turn if isinstance(address, OfTurn) else address.id
        asks = Asks(
            project_id,
            origin.api_key_id,
            request.user,
            origin.settings,
            origin.key_limits,
            lambda: sum(item.tokens for item in request.items),
            lambda: len(orjson.dumps(request.params)) // BYTES_PER_TOKEN,
            output if isinstance(output, int) else None,
            request.model,
            None if request.root or isinstance(address, New) else request.parent_id or at,
        )
        return await self._limits.admit(asks)

    def withdraw(self, project_id: UUID, admission: Admission | None) -> None:
        """Give back the place of a request that runs no turn, and what its limits have taken."""
        self._free(project_id)
        if admission is not None:
            self._limits.end(admission)

    def end(self, running: Running) -> None:
        """Give back the place of a turn that has ended, charge for it, and record what its row does not count."""
        turn, admission, outcome = running.turn, running.admission, running.outcome
        binding, context = running.binding, running.context
        self._free(turn.project_id)
        usage = None if outcome.response is None else outcome.response.get("usage")
        if outcome.uncounted is not None:
            admission.add(usage_of(outcome.uncounted), turn.request.model, binding)
        on_disk = isinstance(outcome.error, ServiceStopping)
        kind: Kind = "cut" if usage is None else "response"
        in_row = on_disk or (turn.request.stored and usage is not None)
        costs = list(admission.costs.values())
        thread_id = turn.thread_id if turn.request.stored else None
        if not in_row and (admission.usage.total or usage is not None):
            estimated = outcome.uncounted is not None
            self._limits.record(
                admission, kind, turn.request.model, binding, admission.usage, admission.cost, thread_id=thread_id,
                estimated=estimated,
            )  # fmt: skip
        # Costs in further currencies have rows of their own: a row has one currency.
        for cost in costs[1:]:
            self._limits.record(admission, "cut", turn.request.model, binding, NO_USAGE, cost, thread_id=thread_id)
        if turn.request.stored:
            admission.thread, admission.turn = turn.thread_id, turn.id
            admission.history_tokens = context.tokens or admission.history_tokens
        self._limits.end(admission)

    def _free(self, project_id: UUID) -> None:
        self._of_projects[project_id] -= 1
        if not self._of_projects[project_id]:
            del self._of_projects[project_id]
