"""Errors of the provider on their way through a turn: docs/failures.md. `test_error_table.py` has the table itself."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.provider import failure
from app.provider.failure import Kind
from tests import odd
from tests.service import Emulator, Service, said

UNKNOWN = [
    (400, "InvalidParameter", "Not found previous_response_id: resp_x"),
    (400, "previous_response_not_found", "Previous response with id 'X' not found."),
    (404, "not_found", "Response with id 'X' not found."),
    (400, "InvalidParameter", "The previous_response_id has expired."),
]
THROTTLED = [
    (500, "server_error", "<429> InternalError.Algo: Too many requests. Your requests are being throttled."),
    (500, "ServiceUnavailable", "<503> InternalError.Algo: [Too many requests. Your requests are being throttled]"),
    (429, "Throttling.RateQuota", "Requests rate limit exceeded"),
    (500, "server_error", "Backend buffer overflow."),
]
UNAVAILABLE = [
    (500, "server_error", "<500> InternalError.Algo: an error in model serving"),
    (500, "server_error", '<5000202> InternalError.Algo: {"status_code":503}'),
    (503, "ServiceUnavailable", "try later"),
]
REFUSED = [
    (500, "server_error", "<400> InternalError.Algo.InvalidParameter: wrong", None),
    (400, "InternalError.Algo.InvalidParameter", "wrong", "InternalError.Algo.InvalidParameter"),
    (400, "context_length_exceeded", "This model's maximum context length is 1000 tokens.", "context_length_exceeded"),
    (404, "model_not_found", "The model `x` does not exist", "model_not_found"),
    (400, "DataInspectionFailed", "Output data may contain inappropriate content.", "DataInspectionFailed"),
    (400, "InvalidParameter", "<400> InternalError.Algo: Agent capabilities are not enabled.", "model_unsupported"),
    (500, "InternalError", "<500> InternalError.Algo: 'agent_api_metadata'", "model_unsupported"),
    (400, "InvalidParameter", "Model qwen3-max-preview has been retired.", "model_retired"),
    (409, "InvalidParameter", "wrong", "InvalidParameter"),
]
FORMS = ["status", "failed", "error_event", "flat"]


def make(emulator: Emulator, form: str, error: tuple[Any, ...], times: int, *, after: int = 0) -> None:
    """The next calls meet this error: as an HTTP error, or in a stream after some events."""
    status, code, message = error[:3]
    emulator.control(
        "faults",
        [{"kind": form, "status": status, "code": code, "message": message, "times": times, "after_events": after}],
    )


@pytest.mark.parametrize("after", [0, *(pytest.param(after, marks=pytest.mark.long) for after in (1, 2))])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: error[2][:30])
def test_an_unknown_previous_id_is_rebuilt_in_the_same_turn(
    service: Service, emulator: Emulator, error: tuple[Any, ...], form: str, after: int
) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    make(emulator, form, error, 1, after=after)
    events = service.stream(thread, "What is my name?")
    assert said(events) == "Ada"
    types = [event["type"] for event in events]
    assert types.count("response.created") == types.count("response.in_progress") == 1
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert service.chain(thread)[-1]["continuation"] == "rebuilt"
    assert len(emulator.calls()) == 3


@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: error[2][:30])
def test_an_unknown_previous_id_of_a_plain_turn_is_rebuilt(
    service: Service, emulator: Emulator, error: tuple[Any, ...]
) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    make(emulator, "status", error, 1)
    turn = service.turn(thread, "What is my name?")
    assert (turn["output_text"], turn["continuation"]) == ("Ada", "rebuilt")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("error", THROTTLED + UNAVAILABLE, ids=lambda error: error[2][:30])
def test_what_passes_is_asked_again_before_the_client_hears_of_it(
    service: Service, emulator: Emulator, error: tuple[Any, ...], form: str
) -> None:
    make(emulator, form, error, 1)
    assert said(service.stream(service.thread(), "Echo: at last")) == "at last"
    assert len(emulator.calls()) == 2


@pytest.mark.parametrize(("errors", "status"), [(THROTTLED, 429), (UNAVAILABLE, 502)])
def test_what_does_not_pass_says_whose_fault_it_is(
    service: Service, emulator: Emulator, errors: list[tuple[Any, ...]], status: int
) -> None:
    make(emulator, "status", errors[0], 3)
    refused = service.http.post(f"/threads/{service.thread()}/turns", json={"input": "Hi"})
    assert refused.status_code == status
    assert errors[0][2] in refused.json()["error"]["message"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("error", REFUSED, ids=lambda error: error[2][:30])
def test_a_refusal_is_a_4xx_that_no_client_retries_and_is_asked_once(
    service: Service, emulator: Emulator, error: tuple[Any, ...], form: str
) -> None:
    make(emulator, form, error, 1)
    body = {"input": "Hi", "stream": form != "status"}
    refused = service.http.post(f"/threads/{service.thread()}/turns", json=body)
    assert 400 <= refused.status_code < 500
    assert refused.status_code not in (408, 409, 429)
    if error[3] is not None:
        assert refused.json()["error"]["code"] == error[3]
    assert len(emulator.calls()) == 1


def test_the_name_of_a_tool_does_not_decide_what_an_error_means(service: Service, emulator: Emulator) -> None:
    error = (200, "server_error", "Too many requests: this call failed.")
    tool = {"type": "function", "name": "too many requests", "parameters": {"type": "object"}}
    make(emulator, "failed", error, 1)
    body = {"input": "Hi", "stream": True, "tools": [tool]}
    failed = service.http.post(f"/threads/{service.thread()}/turns", json=body)
    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "server_error")
    assert len(emulator.calls()) == 1
    # Without such a tool the same words are the provider's, and the call is repeated.
    make(emulator, "failed", error, 1)
    assert said(service.stream(service.thread(), "Echo: hi")) == "hi"


def test_an_error_after_the_first_words_is_not_asked_again(service: Service, emulator: Emulator) -> None:
    make(emulator, "error_event", THROTTLED[0], 1, after=6)
    events = service.stream(service.thread(), "Echo: one two three")
    assert events[-1]["type"] == "response.failed"
    assert "throttled" in events[-1]["response"]["error"]["message"]
    assert len(emulator.calls()) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_both_forms_of_retry_after_are_waited_for(service: Service, emulator: Emulator, form: str) -> None:
    until = datetime.now(UTC) + timedelta(seconds=2)
    assert failure.seconds(format_datetime(until, usegmt=True)) == pytest.approx(1.5, abs=1.5)
    assert failure.seconds("2") == 2
    for odd_value in ("²", "-1", "soon", "1e9", "", "9" * 50):
        assert failure.seconds(odd_value) in (None, 0.0)
    if form == "seconds":
        emulator.fault("status", status=429, retry_after=1)
        assert service.turn(service.thread(), "Echo: hi")["output_text"] == "hi"


def test_every_captured_error_has_its_meaning() -> None:
    captured = orjson.loads((Path(__file__).parent / "captures" / "errors-plain-2026-09.json").read_bytes())
    kinds: dict[str, Kind] = {}
    for error in captured:
        status = error["http"] if isinstance(error["http"], int) else 404
        kinds[error["when"]] = failure.from_http(status, orjson.dumps(error["body"]), None).kind
    assert {when for when, kind in kinds.items() if kind is Kind.UNKNOWN_PREVIOUS} == {
        "unknown or unstored previous_response_id", "GET, DELETE or input_items of an unknown id",
    }  # fmt: skip
    assert {when for when, kind in kinds.items() if kind is Kind.CREDENTIALS} == {"no key", "a key of another region"}
    assert [kind for when, kind in kinds.items() if when.startswith("throttled")] == [Kind.THROTTLED]
    others = {
        kind for when, kind in kinds.items() if kind not in (Kind.UNKNOWN_PREVIOUS, Kind.CREDENTIALS, Kind.THROTTLED)
    }
    assert others == {Kind.REFUSED}


def test_a_failed_answer_of_a_plain_call_is_read_by_its_words(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    error = {"code": "server_error", "message": "<429> InternalError.Algo: Too many requests."}
    odd.plain(emulator, {**odd.RESPONSE, "status": "failed", "error": error})
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
