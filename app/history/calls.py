"""Calls to the provider of a turn, to inspect and to repeat by hand."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired
from uuid import UUID

import orjson
from typing_extensions import TypedDict

from app.chain.continuation import ContinuationReason
from app.db import ids
from app.http.errors import NotFound
from app.items.shapes import fields_of
from app.items.unreadable import marked
from app.provider.account import account

ERASED = "# Part of this call was erased: it cannot be sent again."


class CallObject(TypedDict):
    id: str
    object: Literal["call"]
    turn_id: str
    attempt: int
    continuation: str
    continuation_reason: ContinuationReason | None
    """None for a call of a release that stored no reason."""
    url: str
    account: str | None
    body: Any
    dropped_items: int
    status: int | None
    response_id: str | None
    error: dict[str, Any] | None
    started_at: float
    finished_at: float
    unreadable: NotRequired[list[str]]
    """The fields that cannot be opened: `frames` for the literal parts of the body. Left out where there are none."""


def call_object(turn_id: UUID, row: Mapping[str, Any]) -> CallObject:
    """A call, its body as it was sent: null where something of it was erased. Its digest stays in the audit trail."""
    return {
        "id": f"call_{turn_id.hex}_{row['attempt']}",
        "object": "call",
        "turn_id": ids.turn_id(turn_id),
        "attempt": row["attempt"],
        "continuation": row["continuation"],
        "continuation_reason": row["continuation_reason"],
        "url": row["url"],
        "account": _account(row),
        "body": None if row["body"] is None else orjson.loads(row["body"]),
        "dropped_items": row["dropped_items"],
        "status": row["status"],
        "response_id": row["response_id"],
        "error": row["error"],
        "started_at": row["started_at"].timestamp(),
        "finished_at": row["finished_at"].timestamp(),
        **marked(row),
    }


def _account(row: Mapping[str, Any]) -> str | None:
    """The account that was asked: of a call that has failed its error says it, of the others the turn."""
    said = fields_of(row["error"]).get("account")
    if said is None and row["binding"] is not None:
        return account(row["binding"])
    return said


def parse_call(call_id: str) -> tuple[UUID, int]:
    """A call's turn and attempt.

    Raises:
        NotFound: it is not the id of any call.
    """
    turn, _, attempt = call_id.removeprefix("call_").partition("_")
    turn_id = ids.parse(f"turn_{turn}", ids.TURN_PREFIXES)
    if turn_id is None or not re.fullmatch("[0-9]{1,6}", attempt):
        raise unknown_call(call_id)
    return turn_id, int(attempt)


def unknown_call(call_id: str) -> NotFound:
    return NotFound(f"There is no call {call_id[:80]!r}.", param="call_id", code="call_not_found")


def curl_headers(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the headers with the key of the account that makes the commands work."""
    binding = rows[0]["binding"] if rows else None
    return {} if binding is None else {"Everthread-Account": account(binding)}


def as_curl(row: Mapping[str, Any]) -> str:
    """The call as a curl command. The key stays out of it: the shell has it, or asks for it."""
    if row["body"] is None:
        return ERASED
    return (
        f"curl {shlex.quote(row['url'])} \\\n"
        '  -H "Authorization: Bearer $DASHSCOPE_API_KEY" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(row['body'])}"
    )


def sent_body(row: Mapping[str, Any]) -> str:
    """Return the body exactly as it was sent.

    Raises:
        NotFound: part of it was erased.
    """
    if row["body"] is None:
        raise NotFound("Part of this call's body was erased.", param="call_id", code="call_body_erased")
    body: str = row["body"]
    return body
