"""Time ranges of pages: the last hour, day, week or month, or a custom range, chosen in the query."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from app.console.view import View

HOUR, DAY = 3600, 86_400

LENGTHS = {"1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
CUSTOM = "custom"

MOST_DAYS = 366
"""The longest custom range."""

FIRST_YEAR, LAST_YEAR = 2000, 2100

MOST_HOURLY = 3 * DAY
"""Longer ranges are drawn by day."""

OWN = ("range", "from", "to")
CURSORS = ("after", "before")
"""Cursors, which are invalid in another range."""

_MINUTE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Range:
    name: str
    since: int
    """Unix seconds."""
    until: int
    """Unix seconds; the first that is outside."""
    kept: tuple[tuple[str, str], ...] = ()
    """The page's other query parameters."""
    entered: Mapping[str, str] = field(default_factory=dict)
    """The values of the custom fields, empty where what was entered cannot be used."""
    wrong: Mapping[str, str] = field(default_factory=dict)
    """Messages about custom fields that cannot be used, by field."""

    @staticmethod
    def of(view: View, default: str = "24h") -> "Range":
        """Return the range of a page's query. The default range replaces one that cannot be used."""
        kept = tuple(
            (name, value) for name, value in view.request.query_params.multi_items() if name not in OWN + CURSORS
        )
        name = view.asked("range") or default
        wrong: dict[str, str] = {}
        if name == CUSTOM:
            since, until = (_moment(view.asked(field), field, wrong) for field in ("from", "to"))
            entered = {"from": "" if since is None else minute(since), "to": "" if until is None else minute(until)}
            if since is not None and until is not None:
                if until <= since:
                    wrong["to"] = "The end must be later than the beginning."
                elif until - since > MOST_DAYS * DAY:
                    wrong["to"] = "A range has 366 days at most."
                else:
                    return Range(CUSTOM, since, until, kept, entered)
        else:
            entered = {}
        name = name if name in LENGTHS else default
        until = int(time.time()) // 60 * 60 + 60
        since = until - LENGTHS[name]
        return Range(name, since, until, kept, entered or {"from": minute(since), "to": minute(until)}, wrong)

    @property
    def query(self) -> dict[str, str]:
        """Query parameters that select this range on another page."""
        if self.name != CUSTOM:
            return {"range": self.name}
        return {"range": CUSTOM, "from": minute(self.since), "to": minute(self.until)}

    @property
    def api(self) -> dict[str, int]:
        """Query parameters of the public API."""
        return {"since": self.since, "until": self.until}

    @property
    def before(self) -> "Range":
        """The period of the same length before this one."""
        return Range(CUSTOM, 2 * self.since - self.until, self.since)

    @property
    def step(self) -> int:
        """Seconds between two points of a chart: an hour or a day."""
        return HOUR if self.until - self.since <= MOST_HOURLY else DAY

    def times(self) -> range:
        """Return the beginning of each hour or day that the range touches."""
        return range(self.since // self.step * self.step, self.until, self.step)

    def link(self, name: str) -> str:
        """Return the query of the same page with another range."""
        return "?" + urlencode([("range", name), *self.kept])


def minute(seconds: int) -> str:
    """Return a time as a field of a form has it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M}"


def _moment(entered: str, name: str, wrong: dict[str, str]) -> int | None:
    """Return a time in Unix seconds; None, with a message about its field, if it cannot be used."""
    if _MINUTE.fullmatch(entered):
        try:
            found = datetime.strptime(entered, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
        except ValueError:  # No such day or hour exists.
            pass
        else:
            if FIRST_YEAR <= found.year <= LAST_YEAR:
                return int(found.timestamp())
    wrong[name] = "Enter a date and a time, such as 2026-11-30T09:00."
    return None
