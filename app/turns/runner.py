"""The turns that this worker runs. They belong to it, and not to the connections that asked for them."""

import asyncio
from functools import partial
from uuid import UUID

import structlog
from structlog.contextvars import bind_contextvars

from app.db import ids
from app.http.errors import APIError, ServiceStopping, TooManyRequests
from app.limits.service import Admission
from app.telemetry import metrics
from app.threads.address import Address, ById, ByName
from app.turns.admission import TurnAdmission
from app.turns.client import Client, ClientLeft
from app.turns.closer import Closer
from app.turns.collaborators import Collaborators
from app.turns.execution import TurnExecution
from app.turns.opening import Joined, Opening
from app.turns.recorder import Recorder
from app.turns.relay import Relay
from app.turns.running import Running, Stage
from app.turns.schemas import TurnRequest
from app.turns.store import Opened

log = structlog.get_logger()


class Runner:
    def __init__(self, parts: Collaborators) -> None:
        self._store = parts.store
        self._live_ids = parts.live_ids
        self._event_log = parts.event_log
        self._compactions = parts.compactions
        self._titles = parts.titles
        self._admission = TurnAdmission(parts.limits, parts.settings)
        self._hours = parts.hours
        self._settings = parts.settings
        self._closer = Closer(parts.store, parts.spool)
        self._execution = TurnExecution(parts, self._closer)
        self._opening = Opening(parts.store, parts.signals, parts.settings)
        self._running: dict[UUID, Running] = {}

    async def start(
        self, project_id: UUID, address: Address, request: TurnRequest, headers: dict[str, str], client: Client
    ) -> "Running | Joined":
        """Open a turn and let it run; or join the one that this request repeats.

        Returns:
            The turn, once the client can be answered: see `Relay.answerable`.

        Raises:
            ClientLeft: the client has gone before that. The turn goes on, and a retry may claim it.
            ServiceStopping: the process takes no turns any more.
        """
        self._admission.check_size(request)
        if self._execution.ending:
            raise ServiceStopping
        self._admission.take_place(project_id, len(self._running))
        admission: Admission | None = None
        try:
            # Redis is asked while Postgres opens the turn.
            prefetched = self._live_ids.prefetch(project_id, address.id) if isinstance(address, ById | ByName) else None
            try:
                admission = await self._admission.admit(project_id, address, request)
                turn: Opened | Joined = await self._opening.open(project_id, address, request, client)
            except TooManyRequests as refused:
                if refused.code != "insufficient_quota":
                    raise
                # A repeated request costs nothing: its first one was admitted.
                repeated = await self._opening.repeated(project_id, address, request)
                if repeated is None:
                    raise
                turn = repeated
        except BaseException:
            self._admission.withdraw(project_id, admission)
            raise
        if isinstance(turn, Joined):
            self._admission.withdraw(project_id, admission)
            running = self._running.get(turn.turn_id)
            if running is None:
                return turn
        else:
            assert admission is not None
            running = self._begun(turn, headers, admission)
            self._running[turn.id] = running
            metrics.RUNNING_TURNS.inc()
            # What is logged from here on, in this request and in the turn's own task, names the turn.
            bind_contextvars(**running.names)
            loop = asyncio.get_running_loop()
            running.task = loop.create_task(self._execution.run(running, prefetched), name=running.names["turn"])
            running.task.add_done_callback(partial(self._ended, running))
        client.running = running
        if not request.background or request.stream:
            try:
                await client.wait_for(running.relay.answerable)
            except ClientLeft:
                if request.ends_with_client:
                    self.stop(running.turn.id)
                await self.client_left(project_id, running.turn.id, request)
                raise
        return running

    def _begun(self, turn: Opened, headers: dict[str, str], admission: Admission) -> Running:
        logs, seconds = turn.request.stored and turn.request.streamed, self._settings.event_log_flush_seconds
        recorder = Recorder(self._event_log, turn.project_id, turn.id, turn.sealer, logs=logs, flush_seconds=seconds)
        names = ids.in_logs(turn.project_id, turn.thread_id, turn.id)
        return Running(turn, names, headers, Relay(turn, recorder), admission)

    async def client_left(self, project_id: UUID, turn_id: UUID, request: TurnRequest) -> None:
        """Write down that nobody was given a byte of a turn's answer, if a retry may claim it."""
        if request.stored and request.origin.idempotency_key is None:
            await self._store.client_left(project_id, turn_id)

    def find(self, turn_id: UUID) -> Running | None:
        """A turn that is running in this worker."""
        return self._running.get(turn_id)

    def running(self) -> list[tuple[UUID, UUID]]:
        """Every turn that is running in this worker: its project and id."""
        return [(running.turn.project_id, id_) for id_, running in self._running.items()]

    def of_project(self, project_id: UUID) -> list[Running]:
        """Return the turns of a project that are running in this worker."""
        return [running for running in self._running.values() if running.turn.project_id == project_id]

    def stop(self, turn_id: UUID) -> bool:
        """Stop a turn that is running in this worker; what it has said is kept. False if it is not running here."""
        running = self._running.get(turn_id)
        if running is None or running.task is None or running.stage is not Stage.RUNNING:
            return False
        running.cancelled = True
        running.task.cancel()
        return True

    async def cancel(self, turn_id: UUID) -> None:
        """Stop a turn that is running in this worker, and wait until it is closed."""
        running = self._running.get(turn_id)
        if running is not None:
            self.stop(turn_id)
            await running.wait()

    @property
    def is_idle(self) -> bool:
        return not self._running

    def begin_stopping(self) -> None:
        """Write every turn that ends to disk first, from now on: the process may be killed."""
        self._closer.stop()

    async def end(self) -> None:
        """Close the turns that still run with what they have said, and take no more."""
        self._execution.ending = self._opening.ending = True
        self._closer.drained()
        for running in list(self._running.values()):
            if running.task is not None and running.stage is Stage.RUNNING:
                running.task.cancel()
        while tasks := [running.task for running in self._running.values() if running.task is not None]:
            await asyncio.wait(tasks)

    def _ended(self, running: Running, task: "asyncio.Task[None]") -> None:
        turn, outcome = running.turn, running.outcome
        del self._running[turn.id]
        self._admission.end(running)
        # Only now: what the turn has used counts against the limits that these meet.
        if outcome.compaction is not None:
            self._compactions.begin(outcome.compaction, running.admission.asks)
        self._titles.after(turn, outcome.answer, running.admission.asks)
        metrics.RUNNING_TURNS.dec()
        took = int(running.relay.recorder.seconds() * 1000)
        self._hours.ended(turn.project_id, turn.request.model, outcome.name, took, running.relay.recorder.pace.first)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a turn failed in the service", exc_info=error)
        if outcome.response is None and outcome.error is None:
            failed = APIError(
                "The service failed on this turn. Read the turn to see what was kept of it.", code="internal_error"
            )
            outcome.error = failed
            running.relay.publish_error(failed)
        running.relay.end()
        self._opening.free(turn.thread_id)
