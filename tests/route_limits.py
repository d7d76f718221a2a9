"""Table of the limits that apply to each route of the service.

test_route_limits.py fails for a route that is not in it, and tries each of its limits on a running service.
"""

from typing import Literal

Limit = Literal[
    "requests_per_minute",
    "tokens_per_minute",
    "turns_at_once",
    "tokens_per_month",
    "cost_per_month",
    "threads",
    "stored_bytes",
    "body_bytes",
    "input_items",
    "admin_requests_per_minute",
]

Held = frozenset[Limit]

NONE: Held = frozenset()

BODY: Held = frozenset({"body_bytes"})

SPENDS: Held = frozenset(
    {"requests_per_minute", "tokens_per_minute", "turns_at_once", "tokens_per_month", "cost_per_month"}
)
"""The limits of a route that asks a model. It gets an admission from `RateLimits`, and the provider
client takes no call without one."""

STORES: Held = frozenset({"stored_bytes"})

MAKES_THREAD: Held = frozenset({"threads", "stored_bytes"})

ITEMS: Held = frozenset({"input_items"})

ADMIN: Held = frozenset({"admin_requests_per_minute"})
"""A fixed rate instead of the tenant's own limits. The service's own admins have none."""

SOCKET = "WEBSOCKET"
"""In the place of a method."""

OF_THREADS: dict[tuple[str, str], Held] = {
    ("GET", ""): NONE,
    ("PATCH", ""): BODY | STORES,
    ("DELETE", ""): NONE,
    ("POST", "/turns"): BODY | SPENDS | STORES | ITEMS,
    ("GET", "/turns"): NONE,
    ("GET", "/turns/{turn_id}"): NONE,
    ("POST", "/turns/{turn_id}/cancel"): NONE,
    ("GET", "/turns/{turn_id}/events"): NONE,
    ("GET", "/turns/{turn_id}/calls"): NONE,
    ("GET", "/turns/{turn_id}/siblings"): NONE,
    ("GET", "/turns/{turn_id}/rebuilt_input"): NONE,
    ("GET", "/turns/{turn_id}/proof"): NONE,
    ("POST", "/turns/{turn_id}/feedback"): BODY | STORES,
    ("GET", "/turns/{turn_id}/feedback"): NONE,
    ("GET", "/events"): NONE,
    ("POST", "/fork"): BODY | MAKES_THREAD,
    ("GET", "/replay"): NONE,
    ("GET", "/branches"): NONE,
    ("GET", "/messages"): NONE,
    ("GET", "/chain"): NONE,
    ("POST", "/shares"): BODY | STORES,
    ("GET", "/shares"): NONE,
    ("POST", "/compact"): BODY | SPENDS,
    ("GET", "/compactions"): NONE,
    ("GET", "/export"): NONE,
    ("GET", "/held"): NONE,
    ("GET", "/audit"): NONE,
    ("GET", "/audit/export"): NONE,
}
"""Behind `/v1/threads/{thread_id}` and `/v1/threads/by-name/{name}`."""

OPENAI: dict[tuple[str, str], Held] = {
    ("POST", "/responses"): BODY | SPENDS | MAKES_THREAD | ITEMS,
    (SOCKET, "/responses"): BODY | SPENDS | MAKES_THREAD | ITEMS,
    ("GET", "/responses"): NONE,
    ("GET", "/responses/{response_id}"): NONE,
    ("DELETE", "/responses/{response_id}"): NONE,
    ("POST", "/responses/{response_id}/cancel"): NONE,
    ("GET", "/responses/{response_id}/input_items"): NONE,
    ("POST", "/responses/compact"): BODY | SPENDS | ITEMS,
    ("POST", "/responses/input_tokens"): BODY | ITEMS,
    ("GET", "/models"): NONE,
    ("GET", "/models/{model}"): NONE,
    ("POST", "/conversations"): BODY | MAKES_THREAD | ITEMS,
    ("GET", "/conversations"): NONE,
    ("GET", "/conversations/{conversation_id}"): NONE,
    ("POST", "/conversations/{conversation_id}"): BODY | STORES,
    ("DELETE", "/conversations/{conversation_id}"): NONE,
    ("POST", "/conversations/{conversation_id}/items"): BODY | STORES | ITEMS,
    ("GET", "/conversations/{conversation_id}/items"): NONE,
    ("GET", "/conversations/{conversation_id}/items/{item_id}"): NONE,
    ("DELETE", "/conversations/{conversation_id}/items/{item_id}"): NONE,
    ("POST", "/chat/completions"): BODY | SPENDS | ITEMS,
}
"""Behind `/v1`, and behind the provider's own paths."""

OF_V1: dict[tuple[str, str], Held] = {
    ("GET", "/threads"): NONE,
    ("POST", "/threads"): BODY | MAKES_THREAD | ITEMS,
    ("GET", "/threads/count"): NONE,
    ("PUT", "/threads/by-name/{name}"): BODY | MAKES_THREAD,
    # Deleting is never refused; the schema bounds the body.
    ("POST", "/threads/bulk"): NONE,
    ("POST", "/threads/claim"): BODY,
    ("POST", "/threads/import"): BODY | MAKES_THREAD,
    ("GET", "/calls/{call_id}"): NONE,
    ("GET", "/feedback"): NONE,
    ("GET", "/feedback/export"): NONE,
    ("DELETE", "/feedback/{feedback_id}"): NONE,
    ("DELETE", "/shares/{share_id}"): NONE,
    ("GET", "/shared/{token}"): NONE,
    ("GET", "/audit"): NONE,
    ("GET", "/audit/checkpoint"): NONE,
    ("GET", "/audit/checkpoints"): NONE,
    ("GET", "/audit/consistency"): NONE,
    ("GET", "/audit/witnesses"): NONE,
    ("GET", "/audit/export"): NONE,
    ("GET", "/holds/{hold_id}/contents"): NONE,
    ("GET", "/holds/{hold_id}/export"): NONE,
    ("GET", "/audit/stream"): NONE,
    ("GET", "/project"): NONE,
    ("PATCH", "/project"): ADMIN,
    ("GET", "/users/{user}/data"): NONE,
    ("DELETE", "/users/{user}/data"): NONE,
    ("GET", "/users/{user}/data/preview"): NONE,
    ("GET", "/purges"): NONE,
    ("GET", "/purges/{purge_id}"): NONE,
    ("POST", "/holds"): ADMIN,
    ("GET", "/holds"): NONE,
    ("GET", "/holds/{hold_id}"): NONE,
    ("POST", "/holds/{hold_id}/release"): ADMIN,
    ("GET", "/purges/{purge_id}/certificate"): NONE,
    ("GET", "/search"): NONE,
    ("GET", "/find"): NONE,
    ("GET", "/usage"): NONE,
    ("GET", "/usage/hours"): NONE,
    ("GET", "/failures"): NONE,
    ("GET", "/failures/summary"): NONE,
    ("POST", "/user_tokens"): BODY,
    ("POST", "/user_tokens/revoke"): BODY,
    ("POST", "/stream_tickets"): BODY,
    ("GET", "/events"): NONE,
    ("GET", "/now"): NONE,
    ("GET", "/now/events"): NONE,
    ("POST", "/webhooks"): ADMIN,
    ("GET", "/webhooks"): ADMIN,
    ("GET", "/webhooks/{webhook_id}"): ADMIN,
    ("PATCH", "/webhooks/{webhook_id}"): ADMIN,
    ("DELETE", "/webhooks/{webhook_id}"): ADMIN,
    ("POST", "/webhooks/{webhook_id}/rotate"): ADMIN,
    ("GET", "/webhooks/{webhook_id}/deliveries"): ADMIN,
    ("POST", "/webhooks/{webhook_id}/deliveries/{event_id}/replay"): ADMIN,
    ("POST", "/admin/projects"): ADMIN,
    ("GET", "/admin/projects"): ADMIN,
    ("GET", "/admin/projects/{project_id}"): ADMIN,
    ("PATCH", "/admin/projects/{project_id}"): ADMIN,
    ("POST", "/admin/projects/{project_id}/keys"): ADMIN,
    ("GET", "/admin/projects/{project_id}/keys"): ADMIN,
    ("POST", "/admin/projects/{project_id}/keys/{key_id}/rotate"): ADMIN,
    ("DELETE", "/admin/projects/{project_id}/keys/{key_id}"): ADMIN,
    ("POST", "/admin/projects/{project_id}/accounts"): ADMIN,
    ("GET", "/admin/projects/{project_id}/accounts"): ADMIN,
    ("GET", "/admin/projects/{project_id}/accounts/{account_id}"): ADMIN,
    ("PATCH", "/admin/projects/{project_id}/accounts/{account_id}"): ADMIN,
    ("DELETE", "/admin/projects/{project_id}/accounts/{account_id}"): ADMIN,
    ("POST", "/admin/projects/{project_id}/accounts/{account_id}/check"): ADMIN,
}
"""Behind `/v1` alone."""

# The console asks the API with the session's key: `/console/api` and its pages meet what the API's routes meet. What it
# answers by itself spends and stores nothing.
OF_CONSOLE: dict[tuple[str, str], Held] = {
    ("GET", ""): NONE,
    ("GET", "/sign-in"): NONE,
    ("POST", "/sign-in"): NONE,
    ("GET", "/sign-in/oidc"): NONE,
    ("GET", "/sign-in/oidc/callback"): NONE,
    ("POST", "/sign-out"): NONE,
    ("POST", "/verify"): NONE,
    ("GET", "/threads"): NONE,
    ("GET", "/threads/rows"): NONE,
    ("GET", "/threads/{thread_id}"): NONE,
    ("GET", "/threads/{thread_id}/about"): NONE,
    ("GET", "/threads/{thread_id}/earlier"): NONE,
    ("GET", "/threads/{thread_id}/turns/{turn_id}"): NONE,
    ("GET", "/threads/{thread_id}/tree"): NONE,
    ("GET", "/threads/{thread_id}/chain"): NONE,
    ("GET", "/threads/{thread_id}/turns/{turn_id}/calls"): NONE,
    ("GET", "/threads/{thread_id}/turns/{turn_id}/panel"): NONE,
    ("GET", "/threads/{thread_id}/turns/{turn_id}/details"): NONE,
    ("GET", "/threads/{thread_id}/replay"): NONE,
    ("GET", "/threads/{thread_id}/trail"): NONE,
    ("GET", "/audit"): NONE,
    ("GET", "/audit/rows"): NONE,
    ("GET", "/now"): NONE,
    ("GET", "/now/part"): NONE,
    ("GET", "/usage"): NONE,
    ("GET", "/failures"): NONE,
    ("GET", "/usage/{group}"): NONE,
    ("GET", "/usage/{group}/top"): NONE,
    ("GET", "/settings"): NONE,
    ("GET", "/threads/{thread_id}/shares"): NONE,
    ("GET", "/users"): NONE,
    ("GET", "/users/purge"): NONE,
    ("GET", "/purges"): NONE,
    ("GET", "/purges/{purge_id}"): NONE,
    ("GET", "/purges/{purge_id}/state"): NONE,
    ("MOUNT", "/static/{version}/assets"): NONE,
    ("MOUNT", "/static/{version}/vendor"): NONE,
    ("MOUNT", "/api"): NONE,
}

OF_NOBODY: dict[tuple[str, str], Held] = {
    ("GET", "/healthz"): NONE,
    ("GET", "/readyz"): NONE,
    ("GET", "/metrics"): NONE,
    ("GET", "/openapi.json"): NONE,
    ("GET", "/docs"): NONE,
    ("MOUNT", "/docs/assets"): NONE,
    (SOCKET, "/{path}"): NONE,  # There is no WebSocket at any other path.
}
"""Routes that belong to no project."""


def table(provider_paths: tuple[str, ...]) -> dict[tuple[str, str], Held]:
    """Return every route, by its method and path, with the limits that it meets."""
    found = dict(OF_NOBODY)
    for place in ("/v1/threads/{thread_id}", "/v1/threads/by-name/{name}"):
        found |= {(method, place + path): held for (method, path), held in OF_THREADS.items()}
    for prefix in ("/v1", *provider_paths):
        found |= {(method, prefix + path): held for (method, path), held in OPENAI.items()}
    found |= {(method, f"/v1{path}"): held for (method, path), held in OF_V1.items()}
    return found | {(method, f"/console{path}"): held for (method, path), held in OF_CONSOLE.items()}
