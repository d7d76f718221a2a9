"""/v1/usage: turns, other answers of the model, tokens, tool calls and cost."""

import csv
import io
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from typing_extensions import TypedDict

from app.db import ids
from app.db.replica import ReplicaReads
from app.http.bodies import json_response
from app.http.describing import as_text
from app.http.errors import BadRequest
from app.http.pages import ListObject, Seconds, list_object
from app.http.services import serving
from app.projects.auth import Authenticated
from app.usage.hours import listed, shown
from app.usage.store import BY_KEY, COSTS, COUNTED, UsageRow, costs, counted, usage
from app.usage.store import UTC as UTC_ZONE
from app.usage.sums import UsageSums


def _check_names(request: Request) -> None:
    """Raise BadRequest for a query parameter that the route does not have."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        raise BadRequest(
            f"{unknown[:80]!r} is not a parameter of this route. Use some of: {', '.join(sorted(known))}.",
            param=unknown[:80],
            code="unknown_parameter",
        )


router = APIRouter(tags=["usage"], dependencies=[Depends(_check_names)])

Group = Literal["hour", "day", "model", "user", "thread", "account"]

Sort = Literal["key", "turns", "cost"]

MOST_LINES = 10_000
"""The most rows of a CSV file."""

MOST_ROWS = 1000
"""The most rows of a page."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of cells that a spreadsheet may read as a formula; the last four are the full-width forms."""


class UnpricedObject(TypedDict):
    model: str
    turns: int


class UsageObject(TypedDict):
    """Counts and cost of an hour, a day, a model, a user, a thread or an account, by `group_by`."""

    object: Literal["usage"]
    turns: int
    failed_turns: int
    input_tokens: int
    """Tokens of turns, Chat Completions and titles; compactions have `compaction_input_tokens`."""
    output_tokens: int
    chat_completions: int
    titles: int
    compactions: int
    """Compactions, calls of /responses/compact included."""
    cost: float | None
    """The cost of turns, Chat Completions, titles and compactions, by the prices of their day. Null if a price was
    unknown, or if there are several currencies."""
    currency: str | None
    """Null if there was no cost, or several currencies. XXX if the prices name none."""
    costs: dict[str, float]
    """The cost in each currency, of answers with a known price."""
    unpriced_turns: int
    """Answers with tokens whose model had no price."""
    unpriced: list[UnpricedObject]
    """The models of these answers, at most 20, those with the most answers first."""


class UsageList(ListObject[UsageObject]):
    totals: UsageObject
    """The sums of all rows, those of other pages included."""


@router.get("/usage", response_model=UsageList, responses=as_text("text/csv"))
async def get(
    caller: Authenticated,
    reads: Annotated[ReplicaReads, serving(ReplicaReads)],
    sums: Annotated[UsageSums, serving(UsageSums)],
    group_by: Group = "day",
    since: Seconds = None,
    until: Seconds = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LINES, description="At most 1000 as JSON, 10000 as CSV.")] = 100,
    after: Annotated[str | None, Query(max_length=1024, description="The last_id of the page before.")] = None,
    format: Literal["json", "csv"] = "json",
    tz: Annotated[
        str | None, Query(max_length=64, description="The IANA time zone of the days, such as Asia/Shanghai.")
    ] = None,
    sort: Annotated[
        Sort,
        Query(description="key: ascending; turns, cost: the highest first, a cost being that in any one currency."),
    ] = "key",
    user: Annotated[str | None, Query(max_length=256, description="Only threads of this end user.")] = None,
    model: Annotated[str | None, Query(max_length=256, description="Only answers of this model.")] = None,
) -> Response:
    """List turns, tokens and cost by hour, day, model, user, thread or provider account."""
    if tz is not None and group_by != "day":
        raise BadRequest("'tz' has no effect unless 'group_by' is 'day'. Leave it out.", param="tz")
    if limit > MOST_ROWS and format == "json":
        raise BadRequest(f"'limit' is at most {MOST_ROWS} as JSON.", param="limit")
    begin, end = _range(since, until)
    key = _key(group_by, after) if sort == BY_KEY else after
    sums.request_update(caller.project_id)
    total, rows = await reads.read(
        lambda database: usage(
            database,
            caller.project_id,
            group_by,
            begin,
            end,
            limit=limit + 1,
            after=key,
            tz=UTC_ZONE if tz is None else tz,
            sort=sort,
            user=user,
            model=model,
        )
    )
    found = [_row(group_by, row) for row in rows[:limit]]
    if format == "csv":
        return Response(_csv(group_by, found), media_type="text/csv; charset=utf-8")
    places = [
        row[group_by] if sort == BY_KEY else position
        for row, position in zip(found, (each["position"] for each in rows), strict=False)
    ]
    return json_response(
        {
            "object": "list",
            "data": found,
            "first_id": places[0] if places else None,
            "last_id": places[-1] if places else None,
            "has_more": len(rows) > limit,
            "totals": {"object": "usage", **_sums([] if total is None else total["parts"])},
        }
    )


class HourObject(TypedDict):
    """The turns of an hour that a model has answered, and that ended in one way; or all turns of an hour or a day."""

    id: str
    object: Literal["usage.hour"]
    hour: int
    """Its beginning, Unix seconds. With `group_by=day`, that of the day in UTC."""
    model: str | None
    """Null with `group_by`, like `outcome`."""
    outcome: str | None
    """A turn's status; of one that has failed, the meaning of its error."""
    turns: int
    failed_turns: int
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    first_word_p50_ms: int | None
    """Median time to the first word of streams."""
    first_word_p95_ms: int | None
    first_word_p99_ms: int | None
    durations: list[int]
    """Number of turns per duration; the bounds are in docs/monitoring.md."""
    first_words: list[int]


@router.get("/usage/hours", response_model=ListObject[HourObject])
async def hours(
    caller: Authenticated,
    reads: Annotated[ReplicaReads, serving(ReplicaReads)],
    since: Seconds = None,
    until: Seconds = None,
    limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
    group_by: Annotated[
        Literal["hour", "day"] | None, Query(description="Adds up all models and outcomes of an hour, or of a day.")
    ] = None,
    model: Annotated[str | None, Query(max_length=256, description="Only answers of this model.")] = None,
) -> Response:
    """List turns by the hour, with their errors and durations."""
    begin, end = _range(since, until)
    rows = await reads.read(
        lambda database: listed(database, caller.project_id, begin, end, limit + 1, group_by=group_by, model=model)
    )
    return json_response(list_object(rows[:limit], shown, has_more=len(rows) > limit))


def _range(since: int | None, until: int | None) -> tuple[datetime, datetime]:
    if since is not None and until is not None and until <= since:
        raise BadRequest("'until' must be later than 'since'.", param="until")
    end = datetime(9999, 1, 1, tzinfo=UTC) if until is None else datetime.fromtimestamp(until, UTC)
    return datetime.fromtimestamp(since or 0, UTC), end


def _key(group_by: Group, after: str | None) -> str | None:
    if after is None or group_by != "thread":
        return after
    found = ids.parse(after, ids.THREAD_PREFIXES)
    if found is None:
        raise BadRequest("'after' must be the id of a thread.", param="after", code="invalid_cursor")
    return str(found)


def _row(group_by: Group, row: UsageRow) -> dict[str, Any]:
    key = row["key"]
    if group_by == "thread" and key is not None:
        key = f"thread_{key.replace('-', '')}"
    return {"object": "usage", group_by: key, **_sums(row["parts"])}


def _sums(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {**counted(parts), **costs(parts)}


def _csv(group_by: Group, rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # For spreadsheets that separate cells by semicolons, where a formula could begin after one.
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    columns = [group_by, *COUNTED, *COSTS, "currency"]
    writer.writerow([*columns, "costs", "unpriced_turns", "unpriced"])
    for row in rows:
        amounts = "; ".join(f"{amount} {currency}" for currency, amount in row["costs"].items())
        unpriced = "; ".join(f"{each['model']} ({each['turns']})" for each in row["unpriced"])
        cells = [*(row[name] for name in columns), amounts, row["unpriced_turns"], unpriced]
        is_split = any(isinstance(cell, str) and ";" in cell for cell in cells)
        (quoting if is_split else writer).writerow([_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def _cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet reads as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
