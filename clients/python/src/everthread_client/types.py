"""Types of requests and answers. Answers are plain dictionaries; a newer service may send more fields."""

from typing import Any, Generic, Literal, NotRequired, Required, TypeAlias, TypedDict, TypeVar

T = TypeVar("T")

JSON: TypeAlias = dict[str, Any]
Item: TypeAlias = dict[str, Any]
"""One element of an input or output, in one of the Responses API's types: message, function_call, reasoning …"""

Event: TypeAlias = dict[str, Any]
"""An event of a stream. `type` names it."""

Order: TypeAlias = Literal["asc", "desc"]
TurnStatus: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
IfBusy: TypeAlias = Literal["reject", "wait", "cancel", "beside"]


class Page(TypedDict, Generic[T]):
    object: Literal["list"]
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(TypedDict):
    id: str
    object: str
    deleted: bool


class LastMessage(TypedDict):
    turn_id: str
    role: str
    text: str


class Thread(TypedDict):
    id: str
    object: Literal["thread"]
    name: str | None
    title: str | None
    user: str | None
    metadata: dict[str, str]
    ttl_seconds: int | None
    status: Literal["idle", "busy"]
    last_turn: TurnStatus | None
    last_message: LastMessage | None
    head_id: str | None
    forked_turn_id: str | None
    turn_count: int
    context: JSON | None
    archived: bool
    created_at: int
    updated_at: int


class ThreadCount(TypedDict):
    object: Literal["thread.count"]
    count: int
    more: bool


class BulkResult(TypedDict):
    id: str
    done: bool
    error: JSON | None


class ThreadFields(TypedDict, total=False):
    title: str | None
    user: str | None
    metadata: dict[str, str] | None
    ttl_seconds: int | None
    preset: JSON | None
    """Instructions, model, tools and limits of the turns of user tokens."""


class ThreadCreate(ThreadFields, total=False):
    name: str | None
    messages: list[Item]
    created_at: float


class ThreadUpdate(ThreadFields, total=False):
    name: str | None
    archived: bool
    head_id: str


class ThreadFork(ThreadFields, total=False):
    name: str | None
    turn_id: str


class ThreadFilters(TypedDict, total=False):
    user: str
    user_prefix: str
    name: str
    metadata: dict[str, str]
    archived: bool
    status: Literal["idle", "busy"]
    last_turn: TurnStatus
    model: str
    order_by: Literal["created", "activity"]
    created_after: int
    created_before: int
    updated_after: int
    updated_before: int
    active_after: int
    active_before: int


class Paging(TypedDict, total=False):
    limit: int
    order: Order
    after: str
    before: str


class ThreadList(ThreadFilters, Paging, total=False):
    pass


class Turn(TypedDict):
    id: str
    object: Literal["turn"]
    thread_id: str
    parent_id: str | None
    status: TurnStatus
    model: str
    input: list[Item]
    output: list[Item]
    output_text: str
    usage: JSON | None
    error: JSON | None
    incomplete_details: JSON | None
    continuation: Literal["new", "chained", "rebuilt"] | None
    continuation_reason: str | None
    """None with a user token."""
    context: JSON | None
    cost: JSON | None
    metadata: dict[str, str]
    created_at: int
    completed_at: int | None
    sequence_number: NotRequired[int | None]
    """Number of the last event of a running turn, which `output` includes. A stream can be resumed after it."""


class TurnCreate(TypedDict, total=False):
    """The Responses API's create parameters. `extra_body` takes any other."""

    input: Required[str | list[Item]]
    model: str
    instructions: str | None
    background: bool
    metadata: dict[str, str]
    tools: list[JSON]
    tool_choice: str | JSON
    parallel_tool_calls: bool
    max_tool_calls: int
    reasoning: JSON
    enable_thinking: bool
    thinking_budget: int
    max_output_tokens: int
    temperature: float
    top_p: float
    text: JSON
    truncation: Literal["auto", "disabled"]
    context_management: list[JSON]
    parent_id: str | None
    replaces: str | None
    if_busy: IfBusy
    on_disconnect: Literal["continue", "cancel"]
    extra_body: JSON


class Branch(TypedDict):
    id: str
    object: Literal["branch"]
    status: str
    head: bool
    created_at: int | None


class Compaction(TypedDict):
    id: str
    object: Literal["compaction"]
    turn_id: str
    previous_id: str | None
    status: str
    model: str
    text: str | None
    covered_turns: int
    covered_tokens: int
    tokens: int | None
    error: JSON | None
    created_at: int
    completed_at: int | None


class CompactCreate(TypedDict, total=False):
    keep_turns: int
    model: str
    instructions: str


class Feedback(TypedDict):
    id: str
    object: Literal["feedback"]
    turn_id: str
    thread_id: str
    score: float | None
    label: str | None
    comment: str | None
    user: str | None
    created_at: int


class FeedbackCreate(TypedDict, total=False):
    score: float
    label: str
    comment: str
    user: str


class Share(TypedDict):
    id: str
    object: Literal["share"]
    thread_id: str
    turn_id: str
    expires_at: int | None
    created_at: int


class ShareLink(Share):
    path: str


class ShareCreate(TypedDict, total=False):
    turn_id: str
    expires_in: int


class SharedThread(TypedDict):
    object: Literal["shared.thread"]
    title: str | None
    messages: list[Item]
    next: int | None
    has_more: bool


class Hit(TypedDict):
    id: str
    object: Literal["search.result"]
    thread_id: str
    thread_name: str | None
    thread_title: str | None
    turn_id: str | None
    role: str
    score: float
    created_at: int
    fragments: list[JSON]


class SearchFilters(TypedDict, total=False):
    role: Literal["user", "assistant", "title"]
    user: str
    thread: str
    since: int
    until: int
    limit: int
    after: str


class Model(TypedDict):
    id: str
    object: Literal["model"]
    context_window: int
    input_budget: int
    max_output_tokens: int | None
    input_modalities: list[str]
    reasoning_efforts: list[str]
    structured_output: bool
    prices: list[JSON]
    listed: bool


class UserToken(TypedDict):
    object: Literal["user_token"]
    token: str
    user: str
    thread: str | None
    actions: list[str]
    expires_at: int


class UserTokenCreate(TypedDict, total=False):
    user: str
    anonymous: bool
    thread: str
    preset: JSON
    actions: list[Literal["read", "write"]]
    expires_in: int


class Claim(TypedDict):
    object: Literal["thread.claim"]
    user: str
    threads: list[str]


class Revocation(TypedDict):
    object: Literal["user_token.revocation"]
    user: str
    revoked_at: float


class StreamTicket(TypedDict):
    object: Literal["stream_ticket"]
    ticket: str
    path: str
    expires_at: int
