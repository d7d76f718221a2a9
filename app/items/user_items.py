"""Items as end users see them: without the messages of the app, and without definitions of tools."""

from app.items.kinds import CONFIGURATION, is_system, type_of
from app.items.shapes import Item

FIELDS = frozenset((
    "id", "type", "role", "status", "content", "turn_id", "phase", "unreadable", "summary", "encrypted_content",
    "call_id", "name", "arguments", "input", "output", "action", "actions", "operation", "query", "queries", "results",
    "urls", "goal", "code", "container_id", "outputs", "result", "error", "server_label", "approval_request_id",
    "approve", "reason", "execution", "revised_prompt", "tool_calls", "tool_call_id", "pending_safety_checks",
))  # fmt: skip
"""Fields of items that a user sees. Chat messages, which have no type, have some of them."""


def is_for_users(item: Item) -> bool:
    """Return True if a user may see an item. System and developer messages, and summaries, are the app's."""
    return not (is_system(item) or item.get("pinned") is True or type_of(item) == CONFIGURATION)


def shown_to_users(item: Item) -> Item:
    return {name: value for name, value in item.items() if name in FIELDS}
