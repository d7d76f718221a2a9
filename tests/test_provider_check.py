"""`everthread provider check`: run against the emulator, with expectations that hold for the captured answers."""

import json
import re
from pathlib import Path

import pytest

from app.provider_check import report
from app.provider_check.answers import Answer, read
from app.provider_check.probes import (
    MODEL,
    NOT_PROBED,
    OLDER,
    PROBES,
    THINKING,
    NotProbed,
    Probe,
    region_probe,
    region_probes,
)
from app.provider_check.runner import MOST_BYTES, Runner
from app.settings import REGION_HOSTS, region_base_url
from tests.odd import message
from tests.service import Emulator, Process

CAPTURES = Path(__file__).parent / "captures"
KEY = "sk-the-users-own-key-0123456789"
MODELS = {MODEL: "qwen3.5-plus", THINKING: "qwen4-max", OLDER: "qwen-plus"}

CAPTURED = [(probe, name) for probe in PROBES for name in probe.captures]


def captured(name: str) -> Answer:
    file, _, case = name.partition("#")
    content = (CAPTURES / file).read_bytes()
    if file.endswith(".sse"):
        return read(200, "text/event-stream;charset=UTF-8", content)
    if not case:
        return read(200, "application/json", content)
    (error,) = (each for each in json.loads(content) if each["when"].startswith(case))
    return read(
        error["http"] if isinstance(error["http"], int) else 404, "application/json", json.dumps(error["body"]).encode()
    )


@pytest.mark.parametrize(
    ("probe", "name"), CAPTURED, ids=lambda value: value.name if isinstance(value, Probe) else value
)
def test_an_expectation_holds_for_what_was_captured(probe: Probe, name: str) -> None:
    assert probe.holds(captured(name), {}), captured(name)


OTHERS = [name for _, name in CAPTURED]


@pytest.mark.parametrize("probe", [probe for probe in PROBES if probe.captures], ids=lambda probe: probe.name)
def test_an_expectation_does_not_hold_for_every_capture(probe: Probe) -> None:
    assert not all(probe.holds(captured(name), {"plain": captured(name)}) for name in OTHERS)


def test_an_endpoint_that_answers_a_stream_with_json_differs() -> None:
    (probe,) = (each for each in PROBES if each.name == "stream")
    whole = {"object": "response", "id": "resp_1", "status": "completed", "output": [message("one")]}
    assert not probe.holds(read(200, "application/json", json.dumps(whole).encode()), {})


def test_each_probe_has_a_name_of_its_own_a_source_and_stands_behind_those_it_needs() -> None:
    seen: set[str] = set()
    for probe in PROBES:
        assert set(probe.after) <= seen, probe.name
        assert probe.name not in seen
        assert probe.source
        assert probe.request is not None or probe.after
        seen.add(probe.name)


def checked(emulator: Emulator, folder: Path, *options: str, key: str = KEY) -> tuple[int, list[str]]:
    env = {"DASHSCOPE_BASE_URL": emulator.base_url, "DASHSCOPE_API_KEY": key}
    process = Process("provider", "check", "--captures", str(folder), *options, env=env)
    return process.ended(), process.lines


def rows(lines: list[str]) -> dict[str, tuple[str, str]]:
    """Return the result of each fact, and what was seen."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {fact: (result, seen) for result, fact, _, seen in cells[2:]}


def test_every_fact_holds_at_the_emulator_and_docs_show_the_table(emulator: Emulator, tmp_path: Path) -> None:
    code, lines = checked(emulator, tmp_path / "captures")
    found = rows(lines)
    page = (Path(__file__).parents[1] / "docs" / "provider.md").read_text()
    shown = rows(page[page.index("| result | fact |") :].splitlines())
    assert {fact: result for fact, (result, _) in shown.items()} == {f: result for f, (result, _) in found.items()}
    assert {fact: row for fact, row in found.items() if row[0] == "differs"} == {}
    assert code == 0
    facts = {probe.fact for probe in PROBES}
    assert {fact for fact, (result, _) in found.items() if result == "ok"} == facts
    assert {fact for fact, (result, _) in found.items() if result == "not probed"} == {
        *(each.fact for each in NOT_PROBED), "A key is refused in other regions",
    }  # fmt: skip
    assert re.search(rf"{len(PROBES)} facts hold, 0 differ, 7 were not probed: \d+ requests in \d+ seconds", lines[-2])
    written = sorted(path.stem for path in (tmp_path / "captures").iterdir())
    assert written == sorted(probe.name for probe in PROBES if probe.request is not None)


def test_neither_output_nor_captures_hold_the_key_or_an_id(emulator: Emulator, tmp_path: Path) -> None:
    said = f"The key {KEY} of account 1234567890123456 (ws-0a1b2c3d, 203.0.113.7, ada@example.com) is too slow."
    emulator.fault("status", status=500, code="InternalError", message=said, times=3)
    code, lines = checked(emulator, tmp_path)
    assert code == 1
    ids = {call["answer"]["id"] for call in emulator.calls() if call["answer"] and "id" in call["answer"]}
    assert len(ids) > 10
    kept = "\n".join([*lines, *(path.read_text() for path in tmp_path.iterdir())])
    assert "[the provider key] of account [number] ([account], [address], [address])" in kept
    for secret in (
        KEY,
        "1234567890123456",
        "ws-0a1b",
        "203.0.113.7",
        "ada@",
        *(id_.removeprefix("resp_") for id_ in ids),
    ):
        assert secret not in kept
    # The same id is the same one in every file.
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("cache-write", "cache-read"))
    assert second["request"]["body"]["previous_response_id"] == first["answer"]["id"]
    assert first["answer"]["id"].startswith("resp_0a000000-0000-4000-8000-")


def test_a_difference_ends_with_1_and_leaves_what_needs_it(emulator: Emulator, tmp_path: Path) -> None:
    emulator.control("clock", {"created_at": 1_600_000_000})
    code, lines = checked(emulator, tmp_path)
    assert code == 1
    differs = {fact: seen for fact, (result, seen) in rows(lines).items() if result == "differs"}
    assert differs == {"created_at is in seconds, by a clock that agrees with this one": "1600000000"}


def test_what_needs_an_answer_that_differs_is_not_probed(emulator: Emulator, tmp_path: Path) -> None:
    emulator.control("script", [{"when": "My name is Ada. Answer with", "text": "", "times": 1}])
    code, lines = checked(emulator, tmp_path)
    found = rows(lines)
    assert code == 1
    assert found["A plain call is answered"][0] == "differs"
    assert found["A call with previous_response_id knows the conversation before it"] == (
        "not probed",
        "it needs 'plain'",
    )


def test_a_key_that_is_refused_ends_the_check_at_once(emulator: Emulator, tmp_path: Path) -> None:
    code, lines = checked(emulator, tmp_path, key="sk-invalid")
    assert code == 1
    assert list(rows(lines)) == [PROBES[0].fact]
    assert "credentials: Invalid API-key provided." in rows(lines)[PROBES[0].fact][1]
    assert emulator.calls() == []


def test_no_endpoint_at_all_is_said_in_one_line() -> None:
    process = Process("provider", "check")
    assert process.ended() == 1
    assert len(process.lines) == 1
    assert "Set DASHSCOPE_API_KEY" in process.lines[0]


def test_an_endpoint_that_cannot_be_reached_is_said_without_its_key(tmp_path: Path) -> None:
    env = {"DASHSCOPE_BASE_URL": "http://127.0.0.1:1/compatible-mode/v1", "DASHSCOPE_API_KEY": KEY}
    process = Process("provider", "check", "--captures", str(tmp_path), env=env)
    assert process.ended() == 1
    assert rows(process.lines) == {PROBES[0].fact: ("differs", "no answer: no connection could be made to its host")}
    assert KEY not in "\n".join(process.lines)
    assert list(tmp_path.iterdir()) == []


async def test_an_answer_that_is_too_long_is_not_read(emulator: Emulator) -> None:
    emulator.fault("answer", body="x" * 1000, repeat=MOST_BYTES // 1000 + 1)
    wanted = [probe for probe in PROBES if probe.name in ("lookup-unknown", "unknown-field")]
    outcomes = await Runner(emulator.base_url, KEY, MODELS).run(wanted)
    assert outcomes[1].seen == f"no answer: it is longer than {MOST_BYTES} bytes"


@pytest.mark.parametrize(
    "body",
    [
        "[" * 5000,
        "{" * 5000,
        '{"output": ' * 2000,
        '{"error": {"message": "\\u001b[2J|\\n| ok |", "code": "\\ud800"}}',
        "\0",
        "",
    ],
)
def test_an_odd_answer_is_a_difference_and_harms_neither_terminal_nor_files(
    emulator: Emulator, tmp_path: Path, body: str
) -> None:
    emulator.fault("answer", body=body, times=100)
    code, lines = checked(emulator, tmp_path)
    assert code == 1
    assert [line for line in lines if not line.isprintable()] == []
    assert rows(lines)["A plain call is answered"][0] == "differs"
    json.loads((tmp_path / "plain.json").read_text())


@pytest.mark.parametrize(
    ("bounds", "seen"),
    [
        ({"probe_seconds": 0.3}, "no answer: none within 0.3 seconds"),
        ({"total_seconds": 0.3}, "no answer within 0.3 seconds for the whole check"),
    ],
)
async def test_an_endpoint_that_is_silent_is_not_waited_for(
    emulator: Emulator, bounds: dict[str, float], seen: str
) -> None:
    emulator.fault("stall", seconds=20, times=2)
    wanted = [probe for probe in PROBES if probe.name in ("lookup-unknown", "unknown-field", "delete")]
    outcomes = await Runner(emulator.base_url, KEY, MODELS, **bounds).run(wanted)
    assert outcomes[1].seen == seen
    assert outcomes[2].result != "ok"


async def test_a_throttled_probe_is_sent_again(emulator: Emulator) -> None:
    emulator.fault("status", status=429, retry_after=0.01)
    wanted = [probe for probe in PROBES if probe.name in ("lookup-unknown", "unknown-field")]
    outcomes = await Runner(emulator.base_url, KEY, MODELS).run(wanted)
    assert [outcome.result for outcome in outcomes] == ["ok", "ok"]
    assert len(emulator.calls()) == 2


@pytest.mark.parametrize(("key", "result"), [("sk-invalid", "ok"), (KEY, "differs")])
async def test_a_region_that_takes_the_key_differs(emulator: Emulator, key: str, result: str) -> None:
    probe = region_probe("beijing", emulator.base_url)
    (outcome,) = await Runner("http://127.0.0.1:1", key, MODELS).run([probe])
    assert outcome.result == result


def test_the_key_goes_to_other_regions_of_dashscope_alone() -> None:
    def others(region: str) -> set[str]:
        url = region_base_url(region, None)  # type: ignore[arg-type]
        assert url is not None
        return {probe.name.removeprefix("region-") for probe in region_probes(url) if isinstance(probe, Probe)}

    assert others("singapore") == {"beijing", "virginia", "hongkong"}
    assert others("qwencloud") == set()
    for elsewhere in (
        "https://proxy.example/v1",
        "http://127.0.0.1:8090/v1",
        f"https://{REGION_HOSTS['beijing']}.example/v1",
    ):
        assert [type(each) for each in region_probes(elsewhere)] == [NotProbed]


def test_ids_and_parts_of_keys_are_replaced_wherever_they_stand() -> None:
    clean = report.Anonymiser("short").clean
    assert clean("call_AbC123xyz0 and call_1") == "call_0a000000-0000-4000-8000-000000000001 and call_1"
    assert clean("Incorrect API key provided: sk-ab12***89") == "Incorrect API key provided: [the provider key]"
    assert clean('{"encrypted_content": "gAAAAAB"}') == '{"encrypted_content": "[encrypted]"}'
    assert clean('"created_at": 1778674066000') == '"created_at": 1778674066000'
