"""State of the emulated provider: responses and conversations by account, a clock, faults, a log of calls."""

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from app.emulator.errors import ProviderError, invalid_parameter
from app.provider.models import Models
from app.settings import EmulatorSettings

Item = dict[str, Any]

CALLS_KEPT = 100_000

BURST = (
    "Request rate increased too quickly. To ensure system stability, please adjust your client logic to scale requests "
    "more smoothly over time."
)
"""From the provider's page of error messages."""

EXPIRED = "https://expired.example/"
"""Media whose URL begins so can never be downloaded."""


@dataclass(slots=True)
class Stored:
    """One response as the provider keeps it. The context before it is reached through `previous`."""

    response: dict[str, Any]
    input: list[Item]
    previous: "Stored | None"
    created_at: float
    store: bool
    cached_tokens: int = 0
    """Tokens of the context that a session cache holds."""
    cached_until: float = 0.0


@dataclass(slots=True)
class Conversation:
    id: str
    created_at: float
    metadata: dict[str, str]
    items: list[Item]


@dataclass(slots=True)
class Refused:
    """Texts and URLs that are refused in an input, though they may have been accepted before."""

    texts: list[str] = field(default_factory=list)
    """By content inspection."""
    urls: list[str] = field(default_factory=lambda: [EXPIRED])
    """The beginnings of URLs from which no media can be downloaded."""


@dataclass(slots=True)
class Scripted:
    """An answer that is given instead of the model's own."""

    when: str
    """Words of the request's instructions or last message."""
    item: Item
    status: str
    times: int


@dataclass
class Account:
    """Everything of one bearer key. Ids of one account mean nothing in another."""

    responses: dict[str, Stored] = field(default_factory=dict)
    conversations: dict[str, Conversation] = field(default_factory=dict)
    recent: deque[float] = field(default_factory=deque)
    """Times of the requests of the last second."""


class State:
    """The emulator's whole memory. It is lost when the process ends."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self.settings = settings
        self.models = Models(window_tokens=settings.window_tokens)
        self.reset()

    def reset(self) -> None:
        self.accounts: defaultdict[str, Account] = defaultdict(Account)
        self.advanced = 0.0
        self.created_at: float | None = None
        """The date that every answer has, where the endpoint gives a wrong one."""
        self.requests_per_minute: int | None = None
        self.faults: list[dict[str, Any]] = []
        self.refused = Refused()
        self.scripted: list[Scripted] = []
        self.calls: list[dict[str, Any]] = []

    def now(self) -> float:
        """Unix seconds on the emulator's own clock."""
        return time.time() + self.advanced

    def admit(self, key: str) -> None:
        """Count a request of an account.

        Raises:
            ProviderError: 429 for more requests within a second than a sixtieth of the limit per minute (reference
                page).
        """
        if self.requests_per_minute is None:
            return
        now, recent = self.now(), self.accounts[key].recent
        while recent and recent[0] <= now - 1:
            recent.popleft()
        if len(recent) >= max(1, self.requests_per_minute // 60):
            raise ProviderError(429, "limit_burst_rate", BURST)
        recent.append(now)

    def find(self, key: str, response_id: str) -> Stored | None:
        """A response that can still be retrieved and chained on, or None."""
        stored = self.accounts[key].responses.get(response_id)
        if stored is None or not stored.store:
            return None
        if self.now() >= stored.created_at + self.settings.response_ttl_seconds:
            return None
        return stored

    def previous(self, key: str, response_id: str) -> Stored:
        """The response to chain on.

        Raises:
            ProviderError: in the words that a probe of the provider recorded.
        """
        stored = self.find(key, response_id)
        if stored is None:
            raise invalid_parameter(f"Not found previous_response_id: {response_id}")
        return stored

    def conversation(self, key: str, conversation_id: str) -> Conversation:
        found = self.accounts[key].conversations.get(conversation_id)
        if found is None:
            raise ProviderError(404, "InvalidParameter", f"Conversation with id '{conversation_id}' not found.")
        return found

    def forget(self, response_id: str | None) -> int:
        """Drop one response from every account, or all of them. Returns how many were dropped."""
        dropped = 0
        for account in self.accounts.values():
            ids = list(account.responses) if response_id is None else [response_id]
            dropped += sum(account.responses.pop(id_, None) is not None for id_ in ids)
        return dropped

    def take_fault(self, stream: bool, model: object, *, chat: bool = False) -> dict[str, Any] | None:
        """Return the fault that the next call meets, of the Responses API or of Chat Completions, and count it down."""
        for fault in self.faults:
            meets = fault.get("stream", stream) == stream and fault.get("model", model) == model
            if fault["times"] > 0 and meets and bool(fault.get("chat")) == chat:
                fault["times"] -= 1
                return fault
        return None

    def take_scripted(self, request: str) -> Scripted | None:
        """The answer that was written for a request, if there is one; each counts down its `times`."""
        for scripted in self.scripted:
            if scripted.times > 0 and scripted.when in request:
                scripted.times -= 1
                return scripted
        return None

    def log(self, call: dict[str, Any]) -> None:
        self.calls.append(call)
        if len(self.calls) > CALLS_KEPT:
            del self.calls[: CALLS_KEPT // 10]


def chain(stored: Stored | None) -> list[Item]:
    """Every item that a response and those before it hold, oldest first."""
    links: list[Stored] = []
    while stored is not None:
        links.append(stored)
        stored = stored.previous
    items: list[Item] = []
    for link in reversed(links):
        items += link.input
        items += link.response["output"]
    return items


def new_id(prefix: str = "") -> str:
    return f"{prefix}{uuid4()}"
