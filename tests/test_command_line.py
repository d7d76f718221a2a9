"""The command line: what it prints is of use as it stands, and what goes wrong is one sentence that says what to do."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.databases import migrate_now
from tests.service import COMMAND, Emulator, Process, Service, free_port

FROM_ANYWHERE = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from app.cli import main; main()"


def lines_of(*command: str, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    process = Process(*command, env=env)
    code = process.ended()
    return code, process.lines


def test_the_version_is_told() -> None:
    code, lines = lines_of("--version")
    assert code == 0
    assert lines[0].startswith("everthread 0.")


def test_keys_are_listed_whole_in_any_terminal_and_revoked_by_id_or_name(
    service: Service, service_env: dict[str, str]
) -> None:
    env = {**service_env, "COLUMNS": "20"}
    for name in ("phone", "twice", "twice"):
        assert lines_of("keys", "create", "--name", name, env=env)[0] == 0
    code, lines = lines_of("keys", "list", env=env)
    assert code == 0
    rows = [line.split() for line in lines]
    assert rows[0] == ["ID", "PROJECT", "NAME", "KEY", "SCOPES", "CREATED", "USED", "ENDS", "REVOKED"]
    (phone,) = [row[0] for row in rows if row[2] == "phone"]
    assert len(phone) == len("key_") + 32
    assert lines_of("keys", "revoke", "phone", env=env)[0] == 0
    code, lines = lines_of("keys", "revoke", phone, env=env)
    assert (code, len(lines)) == (1, 1)
    code, lines = lines_of("keys", "revoke", "twice", env=env)
    assert (code, len(lines)) == (1, 1)
    assert "2 keys are named twice" in lines[0]
    by_id = [row[0] for row in rows if row[2] == "twice"]
    assert lines_of("keys", "revoke", by_id[0], env=env)[0] == 0
    assert lines_of("keys", "revoke", "twice", env=env)[0] == 0


@pytest.mark.parametrize("key", ["abc", "et_short", "a key of more than twenty letters", "é" * 24])
def test_a_bootstrap_key_that_can_be_guessed_is_refused(service_env: dict[str, str], key: str) -> None:
    code, lines = lines_of("serve", env={**service_env, "EVERTHREAD_BOOTSTRAP_KEY": key})
    assert (code, len(lines)) == (1, 1)
    assert "EVERTHREAD_BOOTSTRAP_KEY is wrong: a key is 20 letters" in lines[0]
    assert key not in lines[0]


def test_a_margin_that_no_id_outlives_is_refused(service_env: dict[str, str]) -> None:
    refused = Process("serve", env={**service_env, "EVERTHREAD_RESPONSE_ID_TTL_SECONDS": "600"})
    assert refused.ended() == 1
    assert refused.lines[-1].startswith("everthread: EVERTHREAD_RESPONSE_ID_MARGIN_SECONDS must be less than ")


def test_a_variable_that_is_misspelt_is_named(service_env: dict[str, str]) -> None:
    env = {**service_env, "EVERTHREAD_DEFUALT_MODEL": "x", "EVERTHREAD_EMULATOR_WINDOW_TOKENS": "999"}
    _, lines = lines_of("keys", "list", env=env)
    (line,) = [line for line in lines if "no such setting" in line]
    assert "EVERTHREAD_DEFUALT_MODEL" in line
    assert "Did you mean EVERTHREAD_DEFAULT_MODEL?" in line


def test_a_second_service_does_not_take_the_emulator_of_the_first(
    service_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    env = {name: value for name, value in service_env.items() if not name.startswith("DASHSCOPE_")}
    arguments = ("serve", "--port", str(free_port()), "--emulator-port", str(emulator.port))
    code, lines = lines_of(*arguments, env=env)
    assert code == 1
    assert f"Port {emulator.port}, for the emulator, is used" in lines[-1]


def test_a_backup_that_fails_leaves_the_last_good_one(service: Service, tmp_path: Path) -> None:
    for command in (("export",), ("audit", "export")):
        file = tmp_path / "backup"
        file.write_text("the last good backup")
        code, lines = lines_of(*command, str(file), "--url", service.url, "--key", "et_wrong")
        assert code == 1
        assert "API key" in lines[-1]
        assert "{" not in lines[-1]
        assert file.read_text() == "the last good backup"
        assert [path.name for path in tmp_path.iterdir()] == ["backup"]
        code, _ = lines_of(*command, str(file), "--url", service.url, "--key", service.key)
        assert code == 0
        assert file.read_text() != "the last good backup"


def test_verifying_makes_no_key(service_env: dict[str, str], tmp_path: Path) -> None:
    for command in (("verify",), ("public-key",)):
        code, lines = lines_of("audit", *command, "--data-dir", str(tmp_path / "none"), env=service_env)
        assert (code, len(lines)) == (1, 1)
        assert "There is no key of the audit trail" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_commands_find_the_embedded_servers_by_their_data_directory(tmp_path: Path, emulator: Emulator) -> None:
    env = {"DASHSCOPE_API_KEY": "sk-tests", "DASHSCOPE_BASE_URL": emulator.base_url}
    service = Service("--data-dir", str(tmp_path / "data"), env=env, key=None)
    service.turn(service.thread(), "Hello")
    where = ("--data-dir", str(tmp_path / "data"))
    service.process.wait_for(f"'everthread keys create {' '.join(where)}' makes more.")
    # In another directory, the error names the one of the service that runs.
    lost = Process("keys", "create", cwd=tmp_path, command=[*COMMAND[:1], "-c", FROM_ANYWHERE])
    assert lost.ended() == 1
    assert len(lost.lines) == 1
    assert " ".join(where) in lost.lines[0]
    assert lines_of("keys", "list", *where)[0] == 0
    assert lines_of("audit", "checkpoint", *where)[0] == 0
    assert lines_of("audit", "verify", *where)[1][-1] == "The audit trail verifies."
    assert service.stop() == 0


def test_the_first_ctrl_c_says_what_is_waited_for_and_the_second_ends_it(
    service_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(env=service_env)
    emulator.fault("slow", seconds_per_event=0.1)
    body: Any = {"input": "Echo: " + "word " * 400, "background": True}
    thread = service.thread()
    assert service.http.post(f"/threads/{thread}/turns", json=body).status_code in (200, 202)
    turn = service.http.get(f"/threads/{thread}/turns").json()["data"][0]["id"]
    with service.http.stream("GET", f"/threads/{thread}/turns/{turn}/events") as answer:
        next(line for line in answer.iter_lines() if ".delta" in line)
    service.process.process.send_signal(signal.SIGINT)
    service.process.wait_for("Running turns have 30 seconds to finish")
    service.process.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    service.process.ended()
    assert time.monotonic() - began < 10
    assert not any("Traceback" in line for line in service.process.lines)
    again = Service(env=service_env)
    assert again.ended_turn(thread)["status"] == "incomplete"
    again.stop()


def test_a_turn_that_fails_leaves_a_line_with_its_cause(service_env: dict[str, str], emulator: Emulator) -> None:
    service = Service(env=service_env)
    emulator.fault("status", status=400, code="InvalidParameter")
    thread = service.thread()
    assert service.http.post(f"/threads/{thread}/turns", json={"input": "secret words"}).status_code >= 400
    line = service.process.wait_for("a turn failed")
    assert '"status": ' in line
    assert '"request_id": "req_' in line
    assert service.stop() == 0
    assert not any("secret words" in line for line in service.process.lines)


def test_an_import_can_be_tried_without_sending_anything(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    file.write_text(f"{json.dumps(chat)}\n{json.dumps({'nothing': 'of ours'})}\n")
    code, lines = lines_of("import", str(file), "--dry-run")
    assert code == 0
    assert lines[-1] == "1 threads would come, 1 would not be taken. Nothing was sent."
    assert any("2 messages in the file, 2 imported." in line for line in lines)
    assert any("would not be taken" in line for line in lines[:-1])
    assert lines_of("import", str(file))[1] == ["everthread: Say --key, or set EVERTHREAD_KEY."]


def test_the_doctor_says_of_each_part_what_to_do(
    service_env: dict[str, str], empty_database_url: str, emulator: Emulator, tmp_path: Path
) -> None:
    def examined(**changed: str) -> tuple[int, dict[str, str]]:
        env = {**service_env, "EVERTHREAD_DATA_DIR": str(tmp_path), "EVERTHREAD_AUDIT_KEY": "66" * 32, **changed}
        code, lines = lines_of("doctor", env=env)
        found = [line.partition(":") for line in lines if not line.startswith("everthread:")]
        return code, {name: said.strip() for name, _, said in found}

    migrate_now(empty_database_url)
    code, found = examined(DATABASE_URL=empty_database_url)
    assert code == 0
    assert all(said.startswith("ok") for said in found.values()), found
    assert set(found) == {"settings", "Postgres", "Redis", "provider", "dates", "audit key", "master key"}
    away = f"redis://127.0.0.1:{free_port()}/0"
    code, found = examined(DATABASE_URL=empty_database_url, REDIS_URL=away, EVERTHREAD_WAIT_SECOND="3")
    assert code == 0  # It would start all the same.
    assert "Turns go on without it" in found["Redis"]
    assert "Did you mean EVERTHREAD_WAIT_SECONDS?" in found["settings"]
    wrong = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "DASHSCOPE_API_KEY": "sk-invalid"}
    code, found = examined(**wrong, EVERTHREAD_AUDIT_KEY="x")
    assert code == 1
    assert "Cannot reach Postgres" in found["Postgres"]
    assert "refuses DASHSCOPE_API_KEY" in found["provider"]
    assert "Check EVERTHREAD_AUDIT_KEY" in found["audit key"]
