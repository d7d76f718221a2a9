"""What was sent to the provider for a turn, to see and to send again by hand."""

import shlex
from typing import Any

import asyncpg
import orjson


def call_object(row: asyncpg.Record) -> dict[str, Any]:
    """A call, its body as it was sent."""
    return {
        "object": "call",
        "attempt": row["attempt"],
        "continuation": row["continuation"],
        "url": row["url"],
        "body": orjson.loads(row["body"]),
        "dropped_items": row["dropped_items"],
        "status": row["status"],
        "response_id": row["response_id"],
        "error": row["error"],
        "started_at": row["started_at"].timestamp(),
        "finished_at": row["finished_at"].timestamp(),
    }


def as_curl(row: asyncpg.Record) -> str:
    """The call as a curl command. The key stays out of it: the shell has it, or asks for it."""
    return (
        f"curl {shlex.quote(row['url'])} \\\n"
        '  -H "Authorization: Bearer $DASHSCOPE_API_KEY" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(row['body'])}"
    )
