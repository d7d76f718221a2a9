"""Map of a thread: its turns on all branches, each with the beginning of its input."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from app.console.pages import paging
from app.console.view import View

MOST_MAPPED = 100
"""Turns on a page of the map."""

ROW = 36
"""Height of a turn's row in pixels, here and in tree.css."""

COLUMN = 20


async def page(view: View) -> Response:
    thread_id = view.request.path_params["thread_id"]
    found = await view.api.get(
        f"/threads/{thread_id}/chain",
        all_branches="true",
        order="desc",
        limit=MOST_MAPPED,
        after=view.asked("after"),
        before=view.asked("before"),
    )
    thread = await view.api.find(f"/threads/{thread_id}")
    return view.page(
        "tree.html",
        thread_id=thread_id,
        thread=thread,
        nodes=_mapped(found["data"]),
        paging=await paging.of_links(view, found),
    )


def _mapped(latest_first: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the position of each turn on the map: a row for each turn, and columns for the branches side by side."""
    ordered = list(reversed(latest_first))
    row = {turn["id"]: number for number, turn in enumerate(ordered)}
    branch: dict[str, str] = {}
    """The first turn of each turn's branch: the first child continues its parent's."""
    ends: dict[str, int] = {}
    """The last row of each branch, by its first turn."""
    continued: set[str] = set()
    for turn in ordered:
        parent = turn["parent_id"]
        first = branch[parent] if parent in row and parent not in continued else turn["id"]
        continued.add(parent)
        branch[turn["id"]], ends[first] = first, row[turn["id"]]
    columns: list[int] = []
    """The last row that is taken in each column."""
    column: dict[str, int] = {}
    starts = {turn["id"]: row.get(turn["parent_id"], row[turn["id"]]) for turn in ordered if turn["id"] in ends}
    for first, start in sorted(starts.items(), key=lambda each: (each[1], row[each[0]])):
        free = next((number for number, last in enumerate(columns) if last < start), len(columns))
        columns[free : free + 1] = [ends[first]]
        column[first] = free
    points = [
        {**turn, "x": COLUMN * (column[branch[turn["id"]]] + 1), "y": ROW * row[turn["id"]] + ROW // 2}
        for turn in ordered
    ]
    places = {point["id"]: point for point in points}
    lines = [(places[turn["parent_id"]], places[turn["id"]]) for turn in ordered if turn["parent_id"] in places]
    # A turn that continues one of an older page is drawn with the end of its line.
    cut = [point for point in points if point["parent_id"] is not None and point["parent_id"] not in places]
    width = COLUMN * (len(columns) + 1)
    return {"points": points, "lines": lines, "cut": cut, "width": width, "height": ROW * len(points)}
