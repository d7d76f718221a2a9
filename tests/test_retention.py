"""Keeping and forgetting: what is deleted is gone everywhere, and the audit trail still verifies."""

import time
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import redis

from tests.projects import Project
from tests.service import Emulator, Service, eventually

CONTENT = ("items", "calls")


def known_to_the_provider(emulator: Emulator, response_id: str) -> bool:
    headers = {"Authorization": "Bearer sk-tests"}
    return httpx2.get(f"{emulator.base_url}/responses/{response_id}", headers=headers).status_code == 200


def response_ids(project: Project, thread: str) -> list[str]:
    return [link["response_id"] for link in project.call("GET", f"/threads/{thread}/chain")["data"]]


def old_thread(project: Project, days: float, *, touched_days_ago: float) -> str:
    """A thread with a turn that arrived `days` ago."""
    made: str = project.call("POST", "/threads")["id"]
    project.call("POST", f"/threads/{made}/turns", json={"input": "Echo: marmalade"})
    aged = f"""UPDATE turns SET arrived_at = now() - {days} * interval '1 day'
        WHERE project_id = $1 AND thread_id = $2;
        UPDATE thread_activity SET active_at = now() - {touched_days_ago} * interval '1 day'
        WHERE project_id = $1 AND thread_id = $2"""
    project.sql(aged, made)
    return made


def test_a_deleted_thread_is_gone_from_postgres_redis_and_the_provider(
    project: Project,
    emulator: Emulator,
    redis_url: str,
) -> None:
    thread = project.call("POST", "/threads", json={"title": "Gone"})["id"]
    turn = project.call("POST", f"/threads/{thread}/turns", json={"input": "Hi", "background": True})["id"]
    eventually(lambda: project.call("GET", f"/threads/{thread}/turns/{turn}")["status"] == "completed")
    (copy,) = response_ids(project, thread)
    assert known_to_the_provider(emulator, copy)
    cache = redis.Redis.from_url(redis_url)
    marks = [thread.partition("_")[2], turn.partition("_")[2]]
    assert all(list(cache.scan_iter(f"*{mark}*", count=10_000)) for mark in marks)
    project.call("DELETE", f"/threads/{thread}")
    for table in (*CONTENT, "turns", "threads"):
        assert project.sql(f"SELECT 1 FROM {table} WHERE project_id = $1") == [], table
    assert not any(list(cache.scan_iter(f"*{mark}*", count=10_000)) for mark in marks)
    project.call("PATCH", "/project", json={"retention_days": None})  # Wakes the cleaner.
    eventually(lambda: not known_to_the_provider(emulator, copy))
    eventually(lambda: project.sql("SELECT 1 FROM provider_deletions WHERE project_id = $1") == [])
    assert project.verify().problems == []


def test_deleting_a_thread_stops_its_running_turn_and_leaves_none_of_its_events(
    project: Project,
    emulator: Emulator,
    redis_url: str,
) -> None:
    thread = project.call("POST", "/threads")["id"]
    emulator.fault("slow", seconds_per_event=0.05)
    turn = project.call("POST", f"/threads/{thread}/turns", json={"input": "A long story", "background": True})["id"]
    cache = redis.Redis.from_url(redis_url)
    eventually(lambda: bool(list(cache.scan_iter(f"*{turn.partition('_')[2]}*", count=10_000))))
    project.call("DELETE", f"/threads/{thread}")
    eventually(lambda: not list(cache.scan_iter(f"*{turn.partition('_')[2]}*", count=10_000)))
    time.sleep(0.5)
    assert not list(cache.scan_iter(f"*{turn.partition('_')[2]}*", count=10_000))
    assert project.verify().problems == []


def test_everything_of_one_user_is_exported_and_purged_and_nobody_elses(project: Project, emulator: Emulator) -> None:
    user = "ann/of the hill@example.com"
    threads = [project.call("POST", "/threads", json={"user": user, "title": "Mine"})["id"] for _ in range(3)]
    other = project.call("POST", "/threads", json={"user": "bob"})["id"]
    for thread in (*threads, other):
        project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: marmalade"})
    shared = project.call("POST", f"/threads/{threads[0]}/fork", json={"user": "bob"})["id"]
    project.call("POST", f"/threads/{shared}/turns", json={"input": "Echo: jam"})
    copies = [copy for thread in threads for copy in response_ids(project, thread)]
    path = f"/users/{quote(user, safe='')}/data"
    exported = project.http.get(path)
    assert [line.split('"id":"', 1)[1][:39] for line in exported.text.splitlines()] == threads
    purge = project.http.delete(path)
    assert purge.status_code == 202
    shown = purge.json()
    assert (shown["object"], shown["user"], shown["threads"]) == ("user.purge", user, 3)
    eventually(lambda: project.call("GET", f"/purges/{shown['id']}")["status"] == "completed")
    assert project.call("GET", f"/purges/{shown['id']}")["threads_done"] == 3
    left = {thread["id"] for thread in project.call("GET", "/threads")["data"]}
    assert left == {other, shared}
    messages = project.call("GET", f"/threads/{shared}/messages", params={"format": "chat"})["data"]
    assert [message["content"] for message in messages] == ["Echo: jam", "jam"]
    assert {hit["thread_id"] for hit in project.call("GET", "/search", params={"q": "marmalade"})["data"]} == {other}
    eventually(lambda: not any(known_to_the_provider(emulator, copy) for copy in copies))
    assert project.verify().problems == []
    records = project.records()
    (last,) = [record for record in records if record["action"] == "user.purged"]
    mine = [record["action"] for record in records if record["actor"]["user"] == last["actor"]["user"]]
    assert mine.count("thread.purged") == 3
    assert "user.exported" in mine
    # The key that the user was named with is gone: nobody can tell any more whom these records name.
    assert project.records(user=user) == []
    assert user not in str(records)
    again = project.call("POST", f"/threads/{shared}/turns", json={"input": "Recite the conversation"})
    assert again["output_text"].startswith("user: Echo: jam")


def test_what_openai_clients_say_for_a_user_is_that_users(project: Project) -> None:
    for name in ("user", "safety_identifier"):
        project.call("POST", "/responses", json={"input": "Hi", name: "ann"})
    project.call("POST", "/responses", json={"input": "Hi", "user": "bob"})
    assert len(project.call("GET", "/threads", params={"user": "ann"})["data"]) == 2
    assert [len(project.records(action="turn.opened", user=user)) for user in ("ann", "bob", "cyd")] == [2, 1, 0]
    assert project.verify().problems == []
    purge = project.call("DELETE", "/users/ann/data")
    eventually(lambda: project.call("GET", f"/purges/{purge['id']}")["status"] == "completed")
    assert [thread["user"] for thread in project.call("GET", "/threads")["data"]] == ["bob"]


def test_a_purge_that_a_dead_worker_left_is_finished_by_another(project: Project) -> None:
    thread = project.call("POST", "/threads", json={"user": "ann"})["id"]
    project.sql(
        "INSERT INTO user_purges (project_id, id, user_id, threads, lease_expires_at) "
        "VALUES ($1, gen_random_uuid(), 'ann', 1, now() - interval '1 second')"
    )
    project.call("PATCH", "/project", json={"retention_days": None})
    eventually(lambda: project.http.get(f"/threads/{thread}").status_code == 404)


def test_content_is_purged_after_the_projects_retention_and_not_before(project: Project) -> None:
    assert project.call("GET", "/project")["retention_days"] is None
    stale = old_thread(project, 40, touched_days_ago=40)
    mixed = old_thread(project, 40, touched_days_ago=0)
    young = old_thread(project, 20, touched_days_ago=20)
    project.call("POST", f"/threads/{mixed}/turns", json={"input": "Echo: jam"})
    kept = {thread: project.call("GET", f"/threads/{thread}/turns")["data"][-1]["id"] for thread in (mixed, young)}
    assert project.call("PATCH", "/project", json={"retention_days": 30})["retention_days"] == 30
    eventually(lambda: project.http.get(f"/threads/{stale}").status_code == 404)
    eventually(lambda: project.http.get(f"/threads/{mixed}/turns/{kept[mixed]}").status_code == 404)
    assert project.call("GET", f"/threads/{young}/turns/{kept[young]}")["output_text"] == "marmalade"
    messages = project.call("GET", f"/threads/{mixed}/messages", params={"format": "chat"})["data"]
    assert [message["content"] for message in messages] == ["Echo: jam", "jam"]
    assert {hit["thread_id"] for hit in project.call("GET", "/search", params={"q": "marmalade"})["data"]} == {young}
    turn = project.call("POST", f"/threads/{mixed}/turns", json={"input": "Recite the conversation"})
    assert (turn["continuation"], turn["output_text"].splitlines()[0]) == ("rebuilt", "user: Echo: jam")
    late = old_thread(project, 50, touched_days_ago=50)
    project.call("PATCH", "/project", json={"retention_days": 30})
    eventually(lambda: project.http.get(f"/threads/{late}").status_code == 404)
    assert [r["detail"] for r in project.records(action="project.changed")] == ["retention_days"] * 2
    assert {r["thread"] for r in project.records(action="thread.purged")} == {stale, late}
    # A turn that was aged by SQL is reported.
    assert [problem.where for problem in project.verify().problems] == [f"{young} record 2"]
    project.sql("UPDATE turns SET arrived_at = created_at WHERE project_id = $1 AND deleted_at IS NULL")
    assert project.verify().problems == []
    for table in CONTENT:
        rows = project.sql(f"SELECT DISTINCT turn_id FROM {table} WHERE project_id = $1")
        assert len(rows) <= 3, table


@pytest.mark.parametrize("body", [{"retention_days": 0}, {"retention_days": "7"}, {"retention_days": 1.5}])
def test_a_retention_that_is_no_number_of_days_is_refused(project: Project, body: dict[str, Any]) -> None:
    refused = project.http.patch("/project", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "retention_days")
    assert project.call("GET", "/project")["retention_days"] is None
    assert project.http.get("/purges/purge_x").status_code == 404


def test_another_projects_user_of_the_same_name_is_untouched(service: Service, project: Project) -> None:
    thread = service.thread(user="ann")
    purge = project.call("DELETE", "/users/ann/data")
    eventually(lambda: project.call("GET", f"/purges/{purge['id']}")["status"] == "completed")
    assert service.http.get(f"/threads/{thread}").status_code == 200
    assert service.http.get(f"/purges/{purge['id']}").status_code == 404
