"""Minimum retention: contents that are deleted too early stay for auditors, whoever deletes them, until their time."""

import time
from typing import Any

import asyncpg
import pytest

from tests.postgres_pair import run_sql
from tests.projects import Project, new_key
from tests.service import Emulator, Service, eventually
from tests.test_user_tokens import code_of

DAY = 86_400


@pytest.fixture
def kept(project: Project, service: Service, emulator: Emulator) -> Project:
    """A project with a minimum retention of 30 days, and a key that does not notice it as `ordinary`."""
    assert minimum(project, 30)["minimum_retention_days"] == 30
    return project


def minimum(project: Project, days: int | None, **fields: Any) -> Any:
    return project.call("PATCH", "/project", json={"minimum_retention_days": days, **fields})


def ordinary(project: Project) -> dict[str, str]:
    key = new_key(project.env["DATABASE_URL"], project.name, scopes=["read", "write"])
    return {"Authorization": f"Bearer {key}"}


def thread_with_a_turn(project: Project) -> tuple[str, str]:
    thread = project.call("POST", "/threads", json={"user": "ann", "title": "First"})["id"]
    return thread, project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: jam"})["id"]


def held(project: Project, thread: str) -> list[dict[str, Any]]:
    answer = project.http.get(f"/threads/{thread}/held", params={"limit": 100})
    found: list[dict[str, Any]] = answer.json()["data"] if answer.status_code == 200 else []
    return found


def days_left(contents: list[dict[str, Any]]) -> set[int]:
    return {round((each["kept_until"] - time.time()) / DAY) for each in contents}


def test_contents_that_are_deleted_early_are_kept_until_their_time(kept: Project) -> None:
    thread, turn = thread_with_a_turn(kept)
    headers = ordinary(kept)
    assert kept.http.delete(f"/threads/{thread}", headers=headers).status_code == 200
    assert kept.http.get(f"/threads/{thread}").status_code == 404
    contents = held(kept, thread)
    assert {each["kind"] for each in contents} == {"thread", "turn", "item", "call"}
    assert days_left(contents) == {30}
    assert [each["turn_id"] for each in contents if each["kind"] == "turn"] == [turn]
    with pytest.raises(asyncpg.CheckViolationError, match="held_rows_keep_check"):
        run_sql(kept.env["DATABASE_URL"], f"DELETE FROM held_rows WHERE thread_id = '{thread[7:]}'")
    kept.sql("UPDATE held_rows SET keep_until = now() - interval '1 second' WHERE project_id = $1")
    kept.call("PATCH", "/project", json={"session_cache": "auto"})  # Wakes the cleaner.
    eventually(lambda: kept.http.get(f"/threads/{thread}/held").status_code == 404)
    assert kept.verify().problems == []


def test_contents_are_not_made_older_than_they_are(kept: Project) -> None:
    thread, turn = thread_with_a_turn(kept)
    url = kept.env["DATABASE_URL"]
    with pytest.raises(asyncpg.CheckViolationError, match="turns_arrived_check"):
        run_sql(url, f"UPDATE turns SET arrived_at = now() - interval '31 days' WHERE id = '{turn[5:]}'")
    run_sql(url, f"UPDATE threads SET updated_at = now() - interval '31 days' WHERE id = '{thread[7:]}'")
    assert kept.http.delete(f"/threads/{thread}", headers=ordinary(kept)).status_code == 200
    contents = held(kept, thread)
    assert {each["kind"] for each in contents} == {"thread", "turn", "item", "call"}
    assert days_left(contents) == {30}


def test_a_key_with_the_scope_audit_is_told_and_deletes_nothing(kept: Project) -> None:
    thread, turn = thread_with_a_turn(kept)
    item = kept.call("GET", f"/threads/{thread}/turns/{turn}")["output"][0]["id"]
    conversation = thread.replace("thread_", "conv_")
    for path in (
        f"/threads/{thread}", f"/responses/{turn.replace('turn_', 'resp_')}",
        f"/conversations/{conversation}/items/{item}", "/users/ann/data",
    ):  # fmt: skip
        refused = kept.http.delete(path)
        assert (refused.status_code, code_of(refused)) == (409, "minimum_retention"), path
    # Nothing is lost by a change: the former title is kept.
    assert kept.call("PATCH", f"/threads/{thread}", json={"title": "Second"})["title"] == "Second"
    assert [each["content"]["title"] for each in held(kept, thread)] == ["First"]
    kept.sql("UPDATE turns SET arrived_at = now() - interval '31 days' WHERE project_id = $1")
    assert kept.http.delete(f"/threads/{thread}").status_code == 200


def test_older_contents_are_deleted_and_not_kept(kept: Project) -> None:
    thread, _ = thread_with_a_turn(kept)
    kept.sql(
        "UPDATE turns SET arrived_at = now() - interval '31 days' WHERE project_id = $1;"
        "UPDATE threads SET updated_at = now() - interval '31 days' WHERE project_id = $1"
    )
    kept.http.delete(f"/threads/{thread}", headers=ordinary(kept))
    assert kept.http.get(f"/threads/{thread}/held").status_code == 404


def test_a_lower_minimum_holds_for_later_contents_only(kept: Project) -> None:
    headers = ordinary(kept)
    earlier, _ = thread_with_a_turn(kept)
    minimum(kept, 7)
    later, _ = thread_with_a_turn(kept)
    minimum(kept, None)
    last, _ = thread_with_a_turn(kept)
    for thread in (earlier, later, last):
        assert kept.http.delete(f"/threads/{thread}", headers=headers).status_code == 200
    assert days_left(held(kept, earlier)) == {30}
    assert days_left(held(kept, later)) == {7}
    assert held(kept, last) == []
    # A longer one holds for all that is there.
    again, _ = thread_with_a_turn(kept)
    minimum(kept, 400)
    kept.http.delete(f"/threads/{again}", headers=headers)
    assert days_left(held(kept, again)) == {400}
    details = [record["detail"] for record in kept.records(action="project.changed")]
    assert details == [
        f"minimum_retention_days from {former} to {now}"
        for former, now in (("none", 30), (30, 7), (7, "none"), ("none", 400))
    ]


def test_former_minimums_are_not_changed_by_hand(kept: Project) -> None:
    thread, _ = thread_with_a_turn(kept)
    project = f"WHERE name = '{kept.name}'"
    run_sql(
        kept.env["DATABASE_URL"],
        f"UPDATE projects SET minimum_retention_days = NULL {project}",
        f"UPDATE projects SET minimum_retention_former = '[]' {project}",
    )
    kept.http.delete(f"/threads/{thread}", headers=ordinary(kept))
    assert days_left(held(kept, thread)) == {30}


def test_contents_are_not_purged_before_their_minimum_retention(kept: Project) -> None:
    refused = kept.http.patch("/project", json={"retention_days": 29})
    assert (refused.status_code, code_of(refused)) == (400, "below_minimum_retention")
    assert kept.call("PATCH", "/project", json={"retention_days": 30})["retention_days"] == 30
    refused = kept.http.patch("/project", json={"minimum_retention_days": 31})
    assert (refused.status_code, code_of(refused)) == (400, "below_minimum_retention")
    assert minimum(kept, 31, retention_days=31)["retention_days"] == 31
    for wrong in (0, 36_501, "7", 1.5):
        refused = kept.http.patch("/project", json={"minimum_retention_days": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "minimum_retention_days")


def test_the_key_of_contents_in_their_minimum_retention_is_not_destroyed(kept: Project) -> None:
    thread_with_a_turn(kept)
    destroyed = f"UPDATE projects SET key_destroyed_at = now() WHERE name = '{kept.name}'"
    with pytest.raises(asyncpg.CheckViolationError, match="minimum_retention_key_check"):
        run_sql(kept.env["DATABASE_URL"], destroyed)


def test_no_table_of_contents_is_truncated_while_a_project_has_a_minimum_retention(fresh_database_url: str) -> None:
    run_sql(
        fresh_database_url,
        "TRUNCATE items CASCADE",
        "INSERT INTO projects (project_id, name, trail_key, minimum_retention_days) "
        "VALUES (gen_random_uuid(), 'one', '', 30)",
    )
    with pytest.raises(asyncpg.CheckViolationError, match="minimum_retention_truncate_check"):
        run_sql(fresh_database_url, "TRUNCATE items CASCADE")
