"""Failures page: failures of a time range by code, model, account and user, each with its turn."""

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from app.console.meanings import meaning_of
from app.console.ranges import Range
from app.console.view import View

ROWS = 50

FILTERS = {
    "status": "State", "code": "Code", "model": "Model", "account": "Account", "user": "User", "thread": "Thread",
}  # fmt: skip
"""Filters of the API with their labels."""

TOPS = {"code": "By code", "model": "By model", "account": "By account", "user": "By user"}

SHOWN = 6
"""Values in each list below the chart, and codes with a colour of their own."""

COLOURS = ("hue-0", "hue-1", "hue-6", "hue-4", "hue-7", "hue-2")


async def page(view: View) -> Response:
    span = Range.of(view)
    chosen = {name: value for name in FILTERS if (value := view.asked(name))}
    summary = await view.api.get("/failures/summary", **span.api, **chosen)
    found = await view.api.get("/failures", **span.api, **chosen, limit=ROWS, after=view.asked("after"))

    def address(changed: dict[str, str | None]) -> str:
        query = {**span.query, **chosen, **changed}
        return "/console/failures?" + urlencode({name: value for name, value in query.items() if value})

    return view.page(
        "failures.html",
        range=span,
        summary=summary,
        chips=[(FILTERS[name], value, address({name: None})) for name, value in chosen.items() if name != "status"],
        chosen=chosen,
        address=address,
        meaning=meaning_of(chosen.get("status", ""), chosen["code"]) if "code" in chosen and found["data"] else None,
        tops=[(name, heading, _top(summary, name, address)) for name, heading in TOPS.items()],
        series=_series(view, summary),
        rows=_over_time(summary),
        failures=[_failure(each) for each in found["data"]],
        more=view.more(found),
    )


def _top(summary: dict[str, Any], name: str, address: Any) -> dict[str, Any]:
    """Return the most frequent values of a field, with the page that shows each alone."""
    counted = summary[f"by_{name}"]
    data = [
        {**entry, "href": None if entry["value"] is None else address({name: entry["value"]})}
        for entry in counted["data"][:SHOWN]
    ]
    rest = sum(entry["failures"] for entry in counted["data"][SHOWN:]) + counted["other"]
    return {"data": data, "rest": rest, "most": max((entry["failures"] for entry in data), default=1)}


def _series(view: View, summary: dict[str, Any]) -> list[dict[str, str]]:
    """Return the codes of the chart, one of which stands for all others."""
    codes = [entry["value"] for entry in summary["by_code"]["data"]]
    shown = [
        {"name": f"code-{number}", "label": code or view.t("none"), "colour": COLOURS[number]}
        for number, code in enumerate(codes[:SHOWN])
    ]
    return shown + ([{"name": "other", "label": view.t("Other"), "colour": "quiet"}] if len(codes) > SHOWN else [])


def _over_time(summary: dict[str, Any]) -> list[dict[str, Any]]:
    if not summary["failures"]:
        return []
    places = {entry["value"]: f"code-{place}" for place, entry in enumerate(summary["by_code"]["data"][:SHOWN])}
    rows = []
    for bucket in summary["series"]:
        values = dict.fromkeys([*places.values(), "other"], 0)
        for entry in bucket["codes"]:
            values[places.get(entry["value"], "other")] += entry["failures"]
        values["other"] += bucket["other"]
        rows.append({"time": bucket["start"], "values": values})
    return rows


def _failure(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table with its meaning and the address of its turn."""
    place = {"turn": row["id"]} if row["is_last"] else {"until": row["id"], "turn": row["id"]}
    return {
        **row,
        "meaning": meaning_of(row["status"], row["code"] or "", row["message"] or "", row["provider_status"]),
        "href": f"/console/threads/{row['thread_id']}?{urlencode(place)}#{row['id']}",
    }
