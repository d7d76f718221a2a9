"""Audit records as events of the Open Cybersecurity Schema Framework (https://schema.ocsf.io, version 1.3.0).

Changes of threads and turns are API Activity. Changes of keys, projects, accounts, webhooks and users are Entity
Management. A sign-in to the console is Authentication.
"""

from typing import Any, Literal, NamedTuple

import orjson

from app.audit.rows import StreamRow
from app.db import ids
from app.trail.records import Action, record_object

VERSION = "1.3.0"

API_ACTIVITY, ENTITY_MANAGEMENT, AUTHENTICATION = 6003, 3004, 3002

OTHER = 99
ACTIVITIES = {1: "Create", 2: "Read", 3: "Update", 4: "Delete", OTHER: "Other"}
LOGON = 1

SUCCESS, FAILURE = 1, 2
INFORMATIONAL = 1


class Kind(NamedTuple):
    """Class and activity of an action's events."""

    class_uid: int
    activity_id: int
    entity: Literal["key", "project", "account", "webhook", "user", "signing key", "hold"] | None = None
    """The changed entity, of Entity Management."""


CREATE, READ, UPDATE, DELETE, PASSES = (Kind(API_ACTIVITY, activity) for activity in ACTIVITIES)

KINDS: dict[Action, Kind] = {
    "thread.created": CREATE, "thread.changed": UPDATE, "thread.forked": CREATE, "thread.imported": CREATE,
    "thread.exported": READ, "thread.read": READ, "thread.deleted": DELETE, "thread.purged": DELETE,
    "turn.opened": CREATE, "turn.called": PASSES, "turn.model_replaced": UPDATE, "turn.closed": UPDATE,
    "turn.imported": CREATE, "turn.inherited": UPDATE, "turn.deleted": DELETE, "turn.purged": DELETE,
    "items.added": CREATE, "item.deleted": DELETE, "history.erased": DELETE,
    "compaction.made": CREATE, "compaction.deleted": DELETE,
    "feedback.given": CREATE, "feedback.deleted": DELETE,
    "thread.shared": CREATE, "thread.unshared": DELETE, "share.changed": UPDATE,
    "audit.exported": READ, "audit.restored": PASSES, "key.used": PASSES,
    "key.created": Kind(ENTITY_MANAGEMENT, 1, "key"), "key.rotated": Kind(ENTITY_MANAGEMENT, 3, "key"),
    "key.revoked": Kind(ENTITY_MANAGEMENT, 4, "key"),
    "key.signed_in": Kind(AUTHENTICATION, LOGON),
    "project.created": Kind(ENTITY_MANAGEMENT, 1, "project"), "project.changed": Kind(ENTITY_MANAGEMENT, 3, "project"),
    "project.archived": Kind(ENTITY_MANAGEMENT, 3, "project"),
    "project.restored": Kind(ENTITY_MANAGEMENT, 3, "project"),
    "project.encrypted": Kind(ENTITY_MANAGEMENT, 3, "project"),
    "project.key_destroyed": Kind(ENTITY_MANAGEMENT, 4, "project"),
    "account.created": Kind(ENTITY_MANAGEMENT, 1, "account"), "account.changed": Kind(ENTITY_MANAGEMENT, 3, "account"),
    "account.deleted": Kind(ENTITY_MANAGEMENT, 4, "account"),
    "webhook.created": Kind(ENTITY_MANAGEMENT, 1, "webhook"), "webhook.changed": Kind(ENTITY_MANAGEMENT, 3, "webhook"),
    "webhook.deleted": Kind(ENTITY_MANAGEMENT, 4, "webhook"),
    "user.exported": Kind(ENTITY_MANAGEMENT, 2, "user"), "user.purged": Kind(ENTITY_MANAGEMENT, 4, "user"),
    "user.tokens_revoked": Kind(ENTITY_MANAGEMENT, 3, "user"), "user.claimed": Kind(ENTITY_MANAGEMENT, 3, "user"),
    "hold.placed": Kind(ENTITY_MANAGEMENT, 1, "hold"), "hold.released": Kind(ENTITY_MANAGEMENT, 3, "hold"),
    "hold.erased": Kind(ENTITY_MANAGEMENT, 4, "hold"),
    "audit.key_added": Kind(ENTITY_MANAGEMENT, 1, "signing key"),
    "audit.key_retired": Kind(ENTITY_MANAGEMENT, 4, "signing key"),
}  # fmt: skip
"""The kind of each action. An action without a kind is sent as `PASSES`; tests/test_audit_stream.py fails for it."""


def line(row: StreamRow) -> bytes:
    return orjson.dumps(event(row), option=orjson.OPT_APPEND_NEWLINE)


def event(row: StreamRow) -> dict[str, Any]:
    """Return a record as an event: its ids, digests and detail, but no name of a person."""
    record = record_object(row)
    actor, action = record["actor"], record["action"]
    class_uid, activity_id, entity = KINDS.get(row["action"], PASSES)
    of_class: dict[str, Any]
    profiles: list[str] = []
    match class_uid:
        case 6003:
            of_class = {"actor": _actor(actor["key"]), "api": {"operation": action}, "resources": _resources(record)}
        case 3004:
            of_class = {"actor": _actor(actor["key"]), "entity": _entity(entity, record)}
            profiles = ["host"]  # OCSF 1.3.0 allows an actor in this class only with a profile.
        case _:
            of_class = {"user": {"uid": actor["key"] or actor["project"]}, "service": {"name": "Everthread console"}}
    status_id, status = _status(action, record["detail"])
    return {
        "category_uid": class_uid // 1000,
        "class_uid": class_uid,
        "activity_id": activity_id,
        "activity_name": "Logon" if class_uid == AUTHENTICATION else ACTIVITIES[activity_id],
        "type_uid": class_uid * 100 + activity_id,
        "severity_id": INFORMATIONAL,
        "status_id": status_id,
        "status": status,
        "status_detail": _detail(record) or "",
        "time": int(row["at"].timestamp() * 1000),
        "message": action,
        "metadata": {
            "version": VERSION,
            "profiles": profiles,
            "uid": record["id"],
            "sequence": row["position"],
            "event_code": action,
            "log_name": "audit",
            "original_time": record["at"],
            "tenant_uid": actor["project"],
            "product": {"name": "Everthread", "vendor_name": "Everthread"},
        },
        "src_endpoint": {"svc_name": "everthread"} if actor["address"] is None else {"uid": actor["address"]},
        **of_class,
        "unmapped": {name: record[name] for name in ("seq", "previous", "hash", "content", "version")},
    }


def _actor(key: str | None) -> dict[str, Any]:
    """Return the key that acted. Without a key, the service itself or a command on its host acted."""
    return {"app_name": "everthread"} if key is None else {"user": {"uid": key, "credential_uid": key}}


def _resources(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the turn and thread of a record with the thread's end user; the project for records without a thread."""
    user = record["actor"]["user"]
    owner = {} if user is None else {"owner": {"uid": user}}
    found = [{"uid": record[kind], "type": kind, **owner} for kind in ("turn", "thread") if record[kind] is not None]
    return found or [{"uid": record["actor"]["project"], "type": "project", **owner}]


def _entity(kind: str | None, record: dict[str, Any]) -> dict[str, Any]:
    """Return the changed entity: a user by digest, the project, or the object whose id begins the detail."""
    project, user = record["actor"]["project"], record["actor"]["user"]
    uid = {"user": user, "project": project}.get(kind or "", (_detail(record) or "").partition(" ")[0])
    return {"uid": uid or project, "type": kind}


def _detail(record: dict[str, Any]) -> str | None:
    """Return a record's detail. Details of keys are reduced to the id, because a person's key has the person's name."""
    detail: str | None = record["detail"]
    if detail is None or not record["action"].startswith("key."):
        return detail
    id_ = detail.partition(" ")[0]
    return id_ if ids.parse(id_, ("key",)) else None


def _status(action: str, detail: str | None) -> tuple[int, str]:
    """Return the outcome. Only the end of a turn can be a failure: other records report completed actions."""
    if action == "turn.called":
        return 0, "Unknown"
    if action == "turn.closed" and detail == "failed":
        return FAILURE, "Failure"
    if action == "turn.closed" and detail != "completed":
        return OTHER, detail or "Other"
    return SUCCESS, "Success"
