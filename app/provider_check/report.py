"""Report of a check: a table and captures, without data that identifies the account."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from app.items.shapes import Item
from app.process.output import printable
from app.provider.reading import NotJSON, read_json
from app.provider.secret import INSTEAD, Secret
from app.provider_check.probes import UNKNOWN_ID, Probe
from app.provider_check.runner import Outcome, Runner

_ID = re.compile(
    r"(?<![0-9A-Za-z])(?P<kind>(?:[a-z]{2,12}[_-])?)"
    r"(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{20,}|(?<=call_)[0-9a-z]{8,})(?![0-9a-z])",
    re.IGNORECASE,
)
"""Pattern of the ids of requests, responses, items and calls."""

_REPLACED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(encrypted_content\\*\"\s*:\s*\\*\")[^\"\\]+"), r"\1[encrypted]"),
    (re.compile(r"\bsk-(?!invalid\b)[\w*.-]{3,}"), INSTEAD.decode()),
    (re.compile(r"\b(?:ws|llm|acs)-(?=[a-z]*\d)[0-9a-z]{4,}\b"), "[account]"),
    (re.compile(r"(?<![\w.])\d{15,}(?![\w.])"), "[number]"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[address]"),
    (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])"), "[address]"),
)
"""Keys (also in part), numbers and names of accounts, e-mail and IP addresses. Times in milliseconds are shorter."""


class Anonymiser:
    """Replacer of keys, ids and other data that identifies an account. Equal ids get equal replacements."""

    def __init__(self, key: str) -> None:
        self._secret = Secret(key)
        self._ids: dict[str, str] = {}

    def clean(self, text: str) -> str:
        text = self._secret.hidden(text.encode()).decode()
        for pattern, instead in _REPLACED:
            text = pattern.sub(instead, text)
        return _ID.sub(self._same, text)

    def _same(self, found: re.Match[str]) -> str:
        if found[0] == UNKNOWN_ID:
            return found[0]
        digits = found[0][len(found["kind"]) :]
        number = self._ids.setdefault(digits, f"{len(self._ids) + 1:012d}")
        return f"{found['kind']}0a000000-0000-4000-8000-{number}"


def table(outcomes: Sequence[Outcome], anonymiser: Anonymiser) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| result | fact | expected | seen |"
    yield "| --- | --- | --- | --- |"
    for outcome in outcomes:
        expected = outcome.probe.expected if isinstance(outcome.probe, Probe) else ""
        seen = anonymiser.clean(printable(outcome.seen)).replace("|", "/")
        cells = (outcome.result, outcome.probe.fact, expected, seen)
        yield f"| {' | '.join(cells)} |"


def write(folder: Path, runner: Runner, outcomes: Sequence[Outcome], anonymiser: Anonymiser) -> int:
    """Write a file for each answer, and return their number.

    Raises:
        OSError: the folder cannot be written to.
    """
    number = 0
    for outcome in outcomes:
        if isinstance(outcome.probe, Probe) and outcome.request is not None and outcome.answer is not None:
            number += 1
            text = orjson.dumps(_capture(runner, outcome), option=orjson.OPT_INDENT_2).decode()
            (folder / f"{outcome.probe.name}.json").write_text(anonymiser.clean(text) + "\n")
    return number


def _capture(runner: Runner, outcome: Outcome) -> Item:
    probe, request, answer = outcome.probe, outcome.request, outcome.answer
    assert isinstance(probe, Probe) and request is not None and answer is not None  # noqa: PT018 - see `write`
    try:
        content, _ = read_json(answer.content)
    except NotJSON:
        content = answer.content.decode("utf-8", "replace").splitlines()
    return {
        "fact": probe.fact,
        "result": outcome.result,
        "expected": probe.expected,
        "request": {
            "method": request.method,
            "path": request.path,
            "headers": dict(request.headers),
            "body": runner.body(request),
        },
        "status": answer.status,
        "content_type": answer.content_type,
        "answer": content,
    }
