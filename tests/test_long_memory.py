"""Conversations longer than a model's window: how they are composed, what is stored, and what the client is told."""

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cache.client import Cache
from app.chain.context import Context
from app.citus.router import ShardRouter
from app.db import ids
from app.db.engine import Database
from app.items import vocabulary
from app.items.weights import IMAGE_TOKENS
from app.limits.charges import Charges
from app.limits.rules import Asks
from app.limits.service import RateLimits
from app.main import connect_accounts
from app.memory.compaction import CompactionJob, Compactions
from app.memory.observations import ModelObservations
from app.memory.store import Claim, MemoryStore
from app.projects.settings import NO_LIMITS, NO_SETTINGS
from app.provider.models import Models
from app.sealing.at_rest import PLAIN, begin_with
from app.sealing.content_keys import ContentKeys
from app.sealing.master import Master, Masters
from app.sealing.project_cipher import ProjectCipher
from app.settings import Settings
from app.usage.sums import UsageSums
from tests.databases import query
from tests.projects import new_key
from tests.service import Emulator, Process, Service, eventually

Env = dict[str, str]

WINDOW = 2000
"""Tokens, of the emulator's and of ours."""

FILLER = "The weather is fine and the road goes on and on between the hills. " * 12


NEVER = [{"type": "compaction", "compact_threshold": 10**9}]


@pytest.fixture(scope="module")
def small() -> Iterator[Emulator]:
    emulator = Emulator(env={"EVERTHREAD_EMULATOR_WINDOW_TOKENS": str(WINDOW)})
    yield emulator
    emulator.stop()


@pytest.fixture(scope="module")
def forgetful(small: Emulator, service_env: Env) -> Iterator[Service]:
    """A service whose models read little."""
    env = {"DASHSCOPE_BASE_URL": small.base_url, "EVERTHREAD_CONTEXT_WINDOW_TOKENS": str(WINDOW)}
    service = Service(env={**service_env, **env})
    yield service
    service.stop()


@pytest.fixture
def stranger(database_url: str) -> dict[str, str]:
    """The headers of somebody else's project."""
    return {"Authorization": f"Bearer {new_key(database_url, 'strangers')}"}


def compactions(service: Service, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get(f"/threads/{thread}/compactions").json()["data"]
    return found


def ready(service: Service, thread: str) -> dict[str, Any]:
    """The thread's nearest compaction, once it is ready and none begins any more."""
    seen = [compactions(service, thread)[:1]]

    def settled() -> bool:
        time.sleep(0.2)  # The one of the last turn begins a moment after its answer.
        seen.append(compactions(service, thread)[:1])
        return seen[-1] == seen[-2] and [c["status"] for c in seen[-1]] == ["ready"]

    eventually(settled)
    return seen[-1][0]


def talked(service: Service, thread: str, turns: int) -> None:
    for _ in range(turns):
        service.turn(thread, FILLER)


# Models


@pytest.mark.parametrize(
    ("model", "listed"),
    [("qwen3.7-max", True), pytest.param("qwen4-max", True, marks=pytest.mark.long), ("qwen9-next", False)],
)
def test_a_current_model_reads_a_million_tokens_listed_or_not(
    service: Service, emulator: Emulator, model: str, listed: bool
) -> None:
    thread = service.thread()
    first = service.http.post(f"/threads/{thread}/turns", json={"input": "My name is Ada.", "model": model})
    assert ("everthread-unlisted-model" in first.headers) is not listed
    told = [line for line in service.process.lines if "is not listed" in line and model in line]
    assert bool(told) is not listed
    emulator.forget()
    again = service.http.post(
        f"/threads/{thread}/turns", json={"input": f"{'word ' * 74_000} What is my name?", "model": model}
    )
    assert again.json()["output_text"] == "Ada"
    assert again.json()["context"]["dropped_items"] == 0
    assert again.json()["context"]["window"] >= 991_000


def test_a_model_is_described_by_a_file_of_the_deployments_own(
    tmp_path: Path, emulator: Emulator, service_env: Env
) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[families."qwen9-blind"]\nwindow = 5000\nmodalities = ["text"]\n')
    service = Service(env={**service_env, "EVERTHREAD_MODELS_FILE": str(file)})
    try:
        turn = service.turn(service.thread(), "Hello", model="qwen9-blind-2027")
        assert turn["context"]["window"] == 5000
    finally:
        service.stop()


def test_what_a_family_refuses_is_lowered_before_the_call_and_said(service: Service, emulator: Emulator) -> None:
    body = {"input": "Hi", "model": "qwen3.6-plus", "reasoning": {"effort": "high"}, "thinking_budget": 100}
    answer = service.http.post(f"/threads/{service.thread()}/turns", json=body)
    assert answer.status_code == 200
    assert answer.headers["everthread-adjusted"] == "reasoning.effort=medium"
    assert "thinking_budget" in answer.headers["everthread-ignored"]
    (call,) = emulator.calls()
    assert call["body"]["reasoning"] == {"effort": "medium"}
    assert "thinking_budget" not in call["body"]


def test_a_window_that_the_provider_does_not_tell_is_learnt_from_what_it_counts(service_env: Env) -> None:
    window = 20_000
    emulator = Emulator(env={"EVERTHREAD_EMULATOR_WINDOW_TOKENS": str(window)})
    service = Service(env={**service_env, "DASHSCOPE_BASE_URL": emulator.base_url, "EVERTHREAD_COMPACTION_SHARE": "0"})
    try:
        thread = service.thread()
        service.turn(thread, "My name is Ada.", model="qwen9-next")
        cut: list[bool] = []
        for _ in range(8):
            turn = service.turn(thread, f"Echo: {FILLER * 14}", model="qwen9-next")
            cut.append(turn["context"]["cut_by_provider"])
        assert cut[0] is False
        assert cut.count(True) == 2  # Seen, seen again, and from then on known.
        last = service.turn(thread, "Hello", model="qwen9-next")
        assert last["context"]["window"] <= window * 1.1
        assert last["context"]["dropped_items"] > 0
        assert last["context"]["since"] is not None
        again = Service(env={**service_env, "DASHSCOPE_BASE_URL": emulator.base_url})
        try:

            def knows() -> bool:
                turn = again.turn(again.thread(), "Hello", model="qwen9-next")
                return bool(turn["context"]["window"] <= window * 1.1)

            eventually(knows)  # What one worker has learnt, others read.
        finally:
            again.stop()
    finally:
        service.stop()
        emulator.stop()


def test_one_odd_count_of_the_providers_makes_nobody_forget(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.", model="qwen8-odd")
    usage = {"input_tokens": 7000, "output_tokens": 1, "total_tokens": 7001}
    odd = {"id": "resp_odd", "object": "response", "status": "completed", "output": [], "usage": usage}
    emulator.fault("answer", body=json.dumps(odd))
    service.turn(thread, "word " * 60_000, model="qwen8-odd")
    emulator.forget()
    assert service.turn(thread, "What is my name?", model="qwen8-odd")["output_text"] == "Ada"


@pytest.mark.parametrize("says_limit", [True, False])
def test_an_input_that_is_refused_as_too_long_is_sent_again_smaller_in_the_same_turn(
    service: Service, emulator: Emulator, says_limit: bool
) -> None:
    thread = service.thread()
    model = f"qwen8-limit-{says_limit}".lower()
    for _ in range(4):
        service.turn(thread, FILLER * 10, model=model)
    limit = "[1, 7000]" if says_limit else "the limit"
    message = f"<400> InternalError.Algo.InvalidParameter: Range of input length should be {limit}"
    emulator.reset()
    # Other models are asked for summaries of other tests' conversations.
    emulator.fault("status", status=400, code="InvalidParameter", message=message, model=model)
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: still here", "model": model})
    assert answer.status_code == 200, answer.text
    assert answer.json()["output_text"] == "still here"
    assert int(answer.headers["everthread-dropped-items"]) > 0
    assert len([call for call in emulator.calls() if call["body"]["model"] == model]) == 2


def test_who_would_rather_fail_than_lose_something_is_refused(forgetful: Service, small: Emulator) -> None:
    small.reset()
    thread = forgetful.thread()
    for _ in range(8):
        forgetful.turn(thread, FILLER, context_management=NEVER)
    small.reset()
    body = {"input": FILLER, "truncation": "disabled"}
    answer = forgetful.http.post(f"/threads/{thread}/turns", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert small.calls() == []
    shown = forgetful.turn(thread, "Hello", context_management=NEVER)
    assert shown["truncation"] == "auto"
    assert shown["context"]["dropped_items"] > 0


# Counting


def test_tokens_are_counted_by_qwens_own_vocabulary() -> None:
    assert vocabulary.text_tokens("Hello, world!") == 4
    assert 100 < vocabulary.text_tokens("通义千问是一个大模型。" * 20) < 200
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{pixel}"}
    far = {"type": "input_image", "image_url": "https://example.com/a.png"}
    small, large = (vocabulary.tokens({"role": "user", "content": [part]}) for part in (image, far))
    assert small < 10
    assert large >= IMAGE_TOKENS


@settings(max_examples=2 * settings().max_examples, deadline=None)
@given(st.text(max_size=300))
def test_no_text_counts_more_tokens_than_it_has_bytes(text: str) -> None:
    assert vocabulary.text_tokens(text) <= len(text.encode("utf-8", "replace")) + 1


async def test_the_openai_client_counts_what_would_be_sent(service: Service, emulator: Emulator) -> None:
    alone = await service.openai.responses.input_tokens.count(model="qwen3.5-plus", input="Hello, world!")
    assert 4 <= alone.input_tokens < 20
    first = await service.openai.responses.create(model="qwen3.5-plus", input="word " * 1000)
    more = await service.openai.responses.input_tokens.count(
        model="qwen3.5-plus", input="Hello, world!", previous_response_id=first.id
    )
    assert more.input_tokens > alone.input_tokens + 1000
    assert len(emulator.calls()) == 1
    refused = service.http.post("/responses/input_tokens", json={"previous_response_id": f"resp_{'0' * 32}"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "previous_response_not_found")


@given(
    st.dictionaries(
        st.sampled_from(["tokens", "window", "since", "compaction", "cut", "at", "quick", "x"]),
        st.none() | st.integers() | st.floats() | st.text(max_size=40),
    )
)
def test_a_context_of_any_shape_is_read_and_shown(kept: dict[str, Any]) -> None:
    Context.from_json(kept).shown()
    assert Context.from_json(Context.from_json(kept).to_json()) == Context.from_json(kept)


def test_turns_threads_and_chains_say_how_full_the_window_is(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    assert service.http.get(f"/threads/{thread}").json()["context"] is None
    answer = service.http.post(f"/threads/{thread}/turns", json={"input": FILLER})
    turn = answer.json()
    context = turn["context"]
    assert context["tokens"] == turn["usage"]["total_tokens"]
    assert context["window"] == 1_000_000
    assert context["share"] == round(context["tokens"] / 1_000_000, 6)
    assert (context["dropped_items"], context["since"], context["compaction"]) == (0, None, None)
    assert service.http.get(f"/threads/{thread}/turns/{turn['id']}").json()["context"] == context
    assert service.http.get(f"/threads/{thread}").json()["context"] == context
    assert service.chain(thread)[0]["context"] == context
    listed = service.http.get("/threads", params={"limit": 1}).json()["data"][0]
    assert (listed["id"], listed["context"]) == (thread, context)
    streamed = service.stream(thread, "Hello")[-1]["response"]
    later = service.http.get(f"/threads/{thread}").json()["context"]
    assert later["tokens"] == streamed["usage"]["total_tokens"] > context["tokens"]


def test_the_headers_repeat_what_was_left_out_as_long_as_the_chain_hangs_on_it(
    forgetful: Service, small: Emulator
) -> None:
    small.reset()
    thread = forgetful.thread()
    said: list[tuple[str | None, str | None, str]] = []
    for input_ in (*[FILLER] * 9, *["Echo: Hi"] * 4):
        body = {"input": input_, "context_management": NEVER}
        answer = forgetful.http.post(f"/threads/{thread}/turns", json=body)
        headers = answer.headers
        said.append(
            (
                headers.get("everthread-dropped-items"),
                headers.get("everthread-dropped-since"),
                headers["everthread-continuation"],
            )
        )
    first = next(place for place, (dropped, _, _) in enumerate(said) if dropped is not None)
    assert said[first][2] == "rebuilt"
    turns = forgetful.http.get(f"/threads/{thread}/turns", params={"order": "asc"}).json()["data"]
    assert {since for _, since, _ in said[first:]} == {turns[first]["id"]}
    chained = [dropped for dropped, _, continuation in said[first:] if continuation == "chained"]
    assert chained
    assert None not in chained


# Compaction


def test_a_long_conversation_keeps_what_was_said_at_its_beginning(forgetful: Service, small: Emulator) -> None:
    small.reset()
    thread = forgetful.thread()
    first = {"role": "system", "content": "You are a guide."}
    pinned = {"role": "user", "content": "The wifi is called Harbour.", "pinned": True}
    forgetful.turn(thread, [first, pinned, {"role": "user", "content": "My name is Ada. Bus 74 goes home."}])
    answers = [forgetful.http.post(f"/threads/{thread}/turns", json={"input": FILLER}) for _ in range(5)]
    made = ready(forgetful, thread)
    assert "My name is Ada." in made["text"]
    assert made["usage"]["total_tokens"] > 0
    after = forgetful.http.post(f"/threads/{thread}/turns", json={"input": "Find: Bus"})
    assert after.json()["output_text"] == "Bus 74 goes home."
    # A compaction that is ready before the last filler turn is used by that turn already.
    used = [answer for answer in [*answers, after] if answer.headers.get("everthread-compaction") == made["id"]]
    assert used[0].headers["everthread-continuation"] == "rebuilt"
    assert after.headers["everthread-compaction"] == made["id"]
    assert "everthread-dropped-items" not in after.headers
    talked(forgetful, thread, 25)
    assert forgetful.turn(thread, "What is my name?")["output_text"] == "Ada"
    assert "The wifi is called Harbour." in forgetful.turn(thread, "Recite the conversation")["output_text"]
    assert len({c["id"] for c in compactions(forgetful, thread)}) >= 3
    sent = [call for call in small.calls() if call["status"] == 200]
    assert max(call["answer"]["usage"]["input_tokens"] for call in sent) <= WINDOW * 0.8
    # What it stands for is there as it was.
    said = forgetful.every(f"/threads/{thread}/messages", format="chat")
    assert said[0] == {"role": "system", "content": "You are a guide."}
    assert len([m for m in said if m["content"] == FILLER]) == 30
    context = forgetful.http.get(f"/threads/{thread}").json()["context"]
    assert context["compaction"] is not None
    assert context["dropped_items"] == 0


@settings(max_examples=max(1, settings().max_examples // 25), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 239), st.sampled_from(["room", "train", "box", "code"]), st.integers(100, 999)),
        min_size=3,
        max_size=6,
        unique_by=(lambda fact: fact[0], lambda fact: fact[2]),
    ),
    st.integers(0, 239),
)
def test_over_fifty_windows_what_was_said_anywhere_is_found_and_no_call_is_too_long(
    forgetful: Service, small: Emulator, facts: list[tuple[int, str, int]], pinned_at: int
) -> None:
    small.reset()
    thread = forgetful.thread()
    planted = {place: f"The {what} number is X{number}." for place, what, number in facts}
    for place in range(240):
        said = {"role": "user", "content": f"{planted.get(place, '')} {FILLER * 2}"}
        pinned = {"role": "user", "content": "The wifi is called Harbour.", "pinned": True}
        forgetful.turn(thread, [pinned, said] if place == pinned_at else [said])
    for sentence in planted.values():
        key = sentence.split()[-1].rstrip(".")
        assert forgetful.turn(thread, f"Find: {key}")["output_text"] == sentence
    assert "The wifi is called Harbour." in forgetful.turn(thread, "Recite the conversation")["output_text"]
    sent = [call for call in small.calls() if call["status"] == 200]
    assert max(call["answer"]["usage"]["input_tokens"] for call in sent) <= WINDOW * 0.8
    turns = [call for call in sent if call["body"].get("store") is not False]
    said_in_all = sum(call["answer"]["usage"]["output_tokens"] + len(FILLER * 2) // 4 for call in turns[:240])
    assert said_in_all >= 50 * WINDOW


async def test_a_compaction_that_another_overtakes_goes_on_from_it(
    forgetful: Service, small: Emulator, database_url: str
) -> None:
    small.reset()
    thread = forgetful.thread()
    turns = [forgetful.turn(thread, f"Room {n} is blue.", context_management=NEVER)["id"] for n in range(4)]
    middle, last = (UUID(turn.removeprefix("turn_")) for turn in (turns[1], turns[3]))

    class Overtaken(MemoryStore):
        """Another one becomes ready between what is read and the claim."""

        async def claim(self, *args: Any, **fields: Any) -> Claim | None:
            await made.make(CompactionJob(project, middle, "qwen3.5-plus", kept_turns=0), await limits.admit(asks))
            return await super().claim(*args, **fields)

    our = Settings(dashscope_base_url=small.base_url)
    database, models = Database(database_url, pool_size=2, timeout_seconds=30), Models()
    cipher = ProjectCipher(database, Masters(Master.of("33" * 32)))
    accounts, keys = connect_accounts(our, database, cipher), ContentKeys(database, cipher)
    begin_with(PLAIN)
    known = ModelObservations(database)
    cache = Cache("redis://nowhere", timeout_seconds=1)  # Nothing limits this project, and it is not asked.
    charges, sums = Charges(database, every_seconds=1), UsageSums(database)
    limits = RateLimits(cache, database, models, accounts, charges, sums, workers=1)
    nodes, worker_id = ShardRouter(database, routed=False), ids.new_uuid()
    made, overtaken = (
        Compactions(
            store(database, nodes, worker_id=worker_id, lease_seconds=30), accounts, models, known, keys, limits, our
        )
        for store in (MemoryStore, Overtaken)
    )
    try:
        row = await database.fetchrow("SELECT project_id FROM turns WHERE id = $1", last)
        assert row is not None
        project: UUID = row["project_id"]
        asks = Asks(project, None, None, NO_SETTINGS, NO_LIMITS, lambda: 0)
        wanted = CompactionJob(project, last, "qwen3.5-plus", kept_turns=0)
        assert await overtaken.make(wanted, await limits.admit(asks)) is not None
    finally:
        await accounts.close()
        await database.close()
    nearest, before = compactions(forgetful, thread)
    assert (nearest["status"], before["status"]) == ("ready", "ready")
    assert nearest["previous_id"] == before["id"]
    assert (before["covered_turns"], nearest["covered_turns"]) == (2, 4)


def test_a_tool_call_that_was_passed_over_holds_up_no_compaction_and_one_that_was_answered_is_not_parted(
    service: Service, emulator: Emulator
) -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}

    def call_of(turn: dict[str, Any]) -> str:
        (call,) = [item["call_id"] for item in turn["output"] if item["type"] == "function_call"]
        return str(call)

    thread = service.thread()
    service.turn(thread, "Room 1 is blue.")
    service.turn(thread, "What is the weather?", tools=[tool])
    for number in range(2, 5):
        service.turn(thread, f"Room {number} is blue.")
    waiting = service.turn(thread, "What is the weather now?", tools=[tool])
    answer = [{"type": "function_call_output", "call_id": call_of(waiting), "output": "sunny"}]
    service.turn(thread, answer)
    service.turn(thread, "Room 5 is blue.")
    made = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 2})
    assert (made.status_code, made.json()["covered_turns"]) == (201, 5)  # The sixth called what the seventh answers.


def test_a_compaction_is_made_when_asked_for_and_named_where_there_is_none(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    nothing = service.http.post(f"/threads/{thread}/compact")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (400, "nothing_to_compact")
    service.turn(thread, "My name is Ada.")
    service.turn(thread, "Hello")
    service.turn(thread, "Hello again")
    made = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1, "model": "qwen3.5-flash"})
    assert made.status_code == 201, made.text
    assert made.json()["covered_turns"] == 2
    assert made.json()["model"] == "qwen3.5-flash"
    call = emulator.calls()[-1]["body"]
    assert (call["model"], call["store"]) == ("qwen3.5-flash", False)
    assert "Ada" in call["input"][1]["content"]
    assert service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1}).status_code == 400
    recited = service.turn(thread, "Recite the conversation")["output_text"].splitlines()
    assert recited[0].startswith("user: [A summary of the conversation so far")
    assert "My name is Ada." in recited[0]
    assert recited[1] == "user: Hello again"
    wrong = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": -1})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "keep_turns")


def test_a_branch_that_left_before_a_compaction_does_not_have_it(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, "My name is Ada.")
    for _ in range(3):
        service.turn(thread, "Hello")
    assert service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1}).status_code == 201
    fork = service.http.post(f"/threads/{thread}/fork").json()["id"]
    emulator.forget()
    beside = service.turn(thread, "Recite the conversation", parent_id=first["id"])["output_text"]
    assert beside.splitlines()[0] == "user: My name is Ada."
    assert "A summary" in service.turn(fork, "Recite the conversation")["output_text"]


@pytest.mark.parametrize("how", ["item", "turn", "thread"])
def test_what_a_compaction_covers_takes_it_along_when_it_is_deleted(
    service: Service, emulator: Emulator, database_url: str, how: str
) -> None:
    thread = service.thread()
    first = service.turn(thread, "My name is Zenobia.")
    for _ in range(3):
        service.turn(thread, "Hello")
    assert service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 2}).status_code == 201
    for _ in range(2):
        service.turn(thread, "Hello")
    assert service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1}).status_code == 201
    fork = service.http.post(f"/threads/{thread}/fork").json()["id"]
    emulator.forget()
    service.turn(thread, "Hello")
    service.turn(fork, "Hello")
    assert count_of(database_url, "Zenobia") > 0
    match how:
        case "item":
            items = service.http.get(f"/conversations/conv_{thread[7:]}/items", params={"order": "asc"}).json()["data"]
            gone = service.http.delete(f"/conversations/conv_{thread[7:]}/items/{items[0]['id']}")
        case "turn":
            gone = service.http.delete(f"/responses/resp_{first['id'][5:]}")
        case _:
            assert service.http.delete(f"/threads/{fork}").status_code == 200
            gone = service.http.delete(f"/threads/{thread}")
    assert gone.status_code == 200, gone.text
    assert count_of(database_url, "Zenobia") == 0
    if how != "thread":
        assert compactions(service, thread) == []
        assert compactions(service, fork) == []
        recited = service.turn(fork, "Recite the conversation")["output_text"]
        assert "Zenobia" not in recited
        actions = [r["action"] for r in service.http.get(f"/threads/{thread}/audit").json()["data"]]
        assert actions.count("compaction.made") == 2
        assert actions.count("compaction.deleted") == 2


def test_a_model_that_makes_no_summary_leaves_the_next_turn_as_it_was(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    service.turn(thread, "Hello")
    emulator.fault("status", status=400, code="DataInspectionFailed", message="Inappropriate content.")
    failed = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1})
    assert failed.status_code == 400
    (kept,) = compactions(service, thread)
    assert (kept["status"], kept["error"]["code"], kept["text"]) == ("failed", "DataInspectionFailed", None)
    emulator.forget()
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    again = service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 2})
    assert (again.status_code, again.json()["id"], again.json()["attempts"]) == (201, kept["id"], 2)


@pytest.mark.parametrize(
    "seconds", [0.02, 0.45, *(pytest.param(seconds, marks=pytest.mark.long) for seconds in (0.2, 1.0))]
)
def test_a_worker_that_is_killed_in_a_compaction_loses_nothing(small: Emulator, fresh_env: Env, seconds: float) -> None:
    """Before it is claimed, while the model is asked, and about when it is written."""
    small.reset()
    env = {
        **fresh_env,
        "DASHSCOPE_BASE_URL": small.base_url,
        "EVERTHREAD_CONTEXT_WINDOW_TOKENS": str(WINDOW),
        "EVERTHREAD_LEASE_SECONDS": "1",
    }
    first = Service(env=env)
    thread = first.thread()
    first.turn(thread, "My name is Ada.")
    for _ in range(3):
        first.turn(thread, FILLER, context_management=NEVER)
    small.control("faults", [{"kind": "slow", "seconds": 0.4, "times": 1, "stream": False}])
    with suppress(httpx2.TimeoutException):
        first.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1}, timeout=seconds)
    first.process.process.kill()
    first.process.ended()
    second = Service(env=env)
    try:
        if compactions(second, thread):
            assert "My name is Ada." in ready(second, thread)["text"]
        else:
            assert second.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1}).status_code == 201
        actions = [r["action"] for r in second.http.get(f"/threads/{thread}/audit").json()["data"]]
        assert actions.count("compaction.made") == 1
        assert second.turn(thread, "What is my name?", context_management=NEVER)["output_text"] == "Ada"
    finally:
        second.stop()


def test_what_is_deleted_while_it_is_summarised_is_in_no_summary(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, "My name is Zenobia.")
    service.turn(thread, "Hello")
    service.turn(thread, "Hello")
    emulator.reset()
    emulator.fault("slow", seconds=1.5, stream=False)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(service.http.post, f"/threads/{thread}/compact", json={"keep_turns": 1})
        emulator.is_asked()
        assert service.http.delete(f"/responses/resp_{first['id'][5:]}").status_code == 200
        assert made.result().status_code == 400
    assert compactions(service, thread) == []
    emulator.forget()
    assert "Zenobia" not in service.turn(thread, "Recite the conversation")["output_text"]


def test_strangers_see_and_make_no_compactions_of_others(
    service: Service, emulator: Emulator, stranger: dict[str, str]
) -> None:
    thread = service.thread()
    for _ in range(3):
        service.turn(thread, "My name is Ada.")
    assert service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1}).status_code == 201
    for method, path in (("GET", "compactions"), ("POST", "compact")):
        refused = service.http.request(method, f"/threads/{thread}/{path}", headers=stranger)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "thread_not_found")
    named = f"resp_{service.http.get(f'/threads/{thread}').json()['head_id'][5:]}"
    for path in ("compact", "input_tokens"):
        body = {"model": "qwen3.5-plus", "previous_response_id": named}
        refused = service.http.post(f"/responses/{path}", json=body, headers=stranger)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "previous_response_not_found")
    body = {"conversation": f"conv_{thread[7:]}", "input": "Hi"}
    assert service.http.post("/responses/input_tokens", json=body, headers=stranger).status_code == 404


def test_of_two_that_want_a_compaction_at_once_one_makes_it(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    for _ in range(3):
        service.turn(thread, "My name is Ada.")
    emulator.reset()
    emulator.fault("slow", seconds=0.5, times=4, stream=False)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: service.http.post(f"/threads/{thread}/compact").status_code, range(4)))
    assert answers.count(201) == 1
    assert set(answers) <= {201, 400, 409}
    assert len(emulator.calls()) == 1


async def test_the_openai_client_compacts_a_conversation_and_goes_on_from_it(
    service: Service, emulator: Emulator, stranger: dict[str, str]
) -> None:
    client = service.openai
    first = await client.responses.create(model="qwen3.5-plus", input="My name is Ada.")
    compacted = await client.responses.compact(model="qwen3.5-plus", previous_response_id=first.id)
    assert compacted.object == "response.compaction"
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    sealed = compacted.output[-1].model_dump(exclude_none=True)
    assert "Ada" not in sealed["encrypted_content"]
    answer = await client.responses.create(
        model="qwen3.5-plus",
        input=[sealed, {"role": "user", "content": "What is my name?"}],  # type: ignore[list-item]
    )
    assert answer.output_text == "Ada"
    body = {"input": [sealed, {"role": "user", "content": "What is my name?"}]}
    refused = service.http.post("/responses", json=body, headers=stranger)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_encrypted_content")
    sealed["encrypted_content"] = sealed["encrypted_content"][:-8] + "AAAAAAAA"
    refused = service.http.post("/responses", json={"input": [sealed, {"role": "user", "content": "Hi"}]})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "input[0].encrypted_content"


def test_a_compaction_goes_along_in_an_export_and_in_a_copied_fork(
    service: Service, emulator: Emulator, fresh_env: Env
) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    service.turn(thread, [{"role": "user", "content": "Keep this.", "pinned": True}])
    service.turn(thread, "Hello")
    assert service.http.post(f"/threads/{thread}/compact", json={"keep_turns": 1}).status_code == 201
    exported = service.http.get(f"/threads/{thread}/export").json()
    other = Service(env={**fresh_env, "EVERTHREAD_FORK_COPIES_TURNS": "16"})
    try:
        assert other.http.post("/threads/import", json=exported).status_code == 201
        fork = other.http.post(f"/threads/{thread}/fork").json()["id"]
        for each in (thread, fork):
            recited = other.turn(each, "Recite the conversation")["output_text"].splitlines()
            assert recited[0] == "user: Keep this."
            assert recited[1].startswith("user: [A summary")
            assert "My name is Ada." in recited[1]
            assert recited[2] == "user: Hello"
        wrong = {**exported, "compactions": [{**exported["compactions"][0], "turn_id": f"turn_{'0' * 32}"}]}
        refused = other.http.post("/threads/import", json=wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "compactions[0].turn_id")
        verified = Process("audit", "verify", env=fresh_env)
        assert verified.ended() == 0, verified.lines
        first = exported["turns"][0]["id"]
        assert other.http.delete(f"/responses/resp_{first[5:]}").status_code == 200
        assert compactions(other, thread) == []
        verified = Process("audit", "verify", env=fresh_env)
        assert verified.ended() == 0, verified.lines
        query(fresh_env["DATABASE_URL"], "UPDATE compactions SET text = text || ' And more.'")
        altered = Process("audit", "verify", env=fresh_env)
        assert altered.ended() == 1
        assert any("compaction" in line for line in altered.lines), altered.lines
    finally:
        other.stop()


# The provider's cache


@pytest.mark.parametrize(
    ("mode", "pause_days", "asked"),
    [
        ("auto", 0.0, True),
        ("auto", 0.01, False),
        pytest.param("on", 0.0, True, marks=pytest.mark.long),
        pytest.param("off", 0.0, False, marks=pytest.mark.long),
    ],
)
def test_the_providers_cache_is_asked_for_where_the_project_wants_it_and_the_pace_makes_it_pay(
    fresh_env: Env, mode: str, pause_days: float, asked: bool
) -> None:
    emulator = Emulator()
    service = Service(env={**fresh_env, "DASHSCOPE_BASE_URL": emulator.base_url})
    try:
        assert service.http.patch("/project", json={"session_cache": mode}).json()["session_cache"] == mode
        nonsense = service.http.patch("/project", json={"session_cache": "sometimes"})
        assert (nonsense.status_code, nonsense.json()["error"]["param"]) == (400, "session_cache")
        thread = service.thread()
        for _ in range(4):
            service.turn(thread, FILLER * 10)
            if pause_days:
                later(fresh_env["DATABASE_URL"], thread, pause_days * 86400)
                emulator.forget()  # What Redis holds is of no use then.
        last = emulator.calls()[-1]
        assert ("x-dashscope-session-cache" in last["headers"]) is asked
        (usage,) = service.http.get("/usage").json()["data"]
        assert (usage["cached_tokens"] > 0) is asked
        assert (usage["cache_write_tokens"] > 0) is asked or mode == "auto"
    finally:
        service.stop()
        emulator.stop()


def test_what_was_used_is_shown_in_tokens_and_by_a_price_table_in_money(
    tmp_path: Path, emulator: Emulator, fresh_env: Env
) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[families."qwen3.5-plus"]\nwindow = 1000000\nprice = { input = 2, output = 10 }\n')
    service = Service(env={**fresh_env, "EVERTHREAD_MODELS_FILE": str(file), "EVERTHREAD_SESSION_CACHE": "on"})
    try:
        thread = service.thread()
        for _ in range(3):
            service.turn(thread, FILLER * 10)
        assert service.http.post(f"/threads/{thread}/compact").status_code == 201
        eventually(lambda: service.http.get("/usage").json()["data"][0]["compactions"] == 1)
        (row,) = service.http.get("/usage").json()["data"]
        assert row["compaction_input_tokens"] > 0
        plain = row["input_tokens"] - row["cached_tokens"] - row["cache_write_tokens"]
        input_cost = plain * 2 + row["cached_tokens"] * 0.2 + row["cache_write_tokens"] * 2.5
        made = row["compaction_input_tokens"] * 2 + row["compaction_output_tokens"] * 10
        assert row["compaction_cost"] == pytest.approx(made / 1e6, abs=1e-6)
        assert row["cost"] == pytest.approx((input_cost + row["output_tokens"] * 10 + made) / 1e6, abs=2e-6)
        saved = row["cached_tokens"] * 1.8 - row["cache_write_tokens"] * 0.5
        assert row["saved_by_cache"] == pytest.approx(saved / 1e6, abs=1e-6)
        query(
            fresh_env["DATABASE_URL"],
            "UPDATE turns SET binding = 'https://batch.dashscope.aliyuncs.com/compatible-mode/v1#0' WHERE model <> ''",
        )
        (later,) = service.http.get("/usage").json()["data"]
        assert later == row  # What was paid stays paid.
        service.turn(service.thread(), "Hello", model="qwen9-next")
        (row,) = service.http.get("/usage").json()["data"]
        assert row["cost"] is None  # One of the prices is not known.
        assert {r["model"]: r["cost"] is None for r in service.http.get("/usage?group_by=model").json()["data"]} == {
            "qwen3.5-plus": False,
            "qwen9-next": True,
        }
    finally:
        service.stop()


# Reasoning


def test_encrypted_reasoning_goes_back_to_the_model_that_made_it_and_to_no_other(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    asked = {"model": "qwen4-max", "reasoning": {"summary": "auto"}}
    turn = service.turn(thread, "Think", **asked)
    made = next(item for item in turn["output"] if item["type"] == "reasoning")
    assert made["encrypted_content"]
    emulator.forget()
    again = service.turn(thread, "What did you think?", **asked)
    assert again["continuation"] == "rebuilt"
    assert again["output_text"].startswith("The user asked something.")
    sent = emulator.calls()[-1]["body"]["input"]
    assert [item for item in sent if item["type"] == "reasoning"] == [made]
    emulator.forget()
    other = service.turn(thread, "Recite the conversation", model="qwen3.5-plus")
    assert other["status"] == "completed"
    assert all(item["type"] != "reasoning" for item in emulator.calls()[-1]["body"]["input"])


def later(database_url: str, thread: str, seconds: float) -> None:
    """As if a thread's turns had ended so much earlier."""

    async def moved() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            """UPDATE turns
            SET context = jsonb_set(context::jsonb, '{at}', to_jsonb((context->>'at')::float8 - $2))::json
            WHERE thread_id = $1 AND context->>'at' IS NOT NULL""",
            UUID(thread[7:]),
            seconds,
        )
        await connection.close()

    asyncio.run(moved())


def count_of(database_url: str, word: str) -> int:
    """Return the number of rows of any table that hold a word."""

    async def counted() -> int:
        connection = await asyncpg.connect(database_url)
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = 0
        for table in tables:
            name = table["tablename"]
            found += await connection.fetchval(f"SELECT count(*) FROM {name} t WHERE t::text LIKE '%{word}%'")
        await connection.close()
        return found

    time.sleep(0.2)
    return asyncio.run(counted())
