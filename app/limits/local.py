"""Limits while Redis is unavailable: each worker admits its share."""

import time
from collections.abc import Sequence

from app.limits.rules import Rule

MOST_BUCKETS = 50_000


class LocalShare:
    def __init__(self, workers: int) -> None:
        """Args: workers: how many processes share what there is, as far as this one knows."""
        self._workers = workers
        self._left: dict[str, tuple[float, float]] = {}
        self._running: dict[str, set[str]] = {}
        self._held: dict[str, dict[str, int]] = {}
        """Reservation of each running turn, by the key of the month's limit."""
        self._used: dict[str, int] = {}
        """Usage of that limit by turns that were admitted here."""

    def admit(self, rules: Sequence[Rule], takes: Sequence[int], id_: str) -> tuple[int, int]:
        """Let a turn in, or take nothing.

        Args:
            takes: how much it takes of each.

        Returns:
            The number of the rule that refuses, from 1, or 0; and how many milliseconds to wait.
        """
        now = time.monotonic()
        levels: dict[str, float] = {}
        for place, (rule, taken) in enumerate(zip(rules, takes, strict=True), 1):
            limit = self._share(rule)
            if rule.kind == "bucket":
                left, at = self._left.get(rule.key, (limit, now))
                levels[rule.key] = level = min(limit, left + (now - at) * limit / 60)
                if level < min(taken, limit):
                    return place, int((min(taken, limit) - level) * 60_000 / limit) + 1
            elif rule.kind == "running" and len(self._running.get(rule.key, ())) >= limit:
                return place, 1000
            elif rule.kind == "month":
                used, held = self._used.get(rule.key, 0), self._held.get(rule.key)
                if used >= limit:
                    return place, -1
                if held and used + sum(held.values()) + taken > limit:
                    return place, 2000
        if len(self._left) > MOST_BUCKETS:
            self._left.clear()
        if len(self._used) > MOST_BUCKETS:
            self._used.clear()
        for rule, taken in zip(rules, takes, strict=True):
            if rule.kind == "bucket":
                self._left[rule.key] = (levels[rule.key] - min(taken, self._share(rule)), now)
            elif rule.kind == "running":
                self._running.setdefault(rule.key, set()).add(id_)
            else:
                self._held.setdefault(rule.key, {})[id_] = taken
        return 0, 0

    def end(self, rules: Sequence[Rule], id_: str, used: Sequence[int]) -> None:
        """End a turn. Args: used: how much of each limit, for those of a month."""
        for rule, spent in zip(rules, used, strict=True):
            held = self._held.get(rule.key)
            if held is not None and held.pop(id_, None) is not None:
                self._used[rule.key] = self._used.get(rule.key, 0) + spent
                if not held:
                    del self._held[rule.key]
            running = self._running.get(rule.key)
            if running is not None:
                running.discard(id_)
                if not running:
                    del self._running[rule.key]

    def _share(self, rule: Rule) -> float:
        return max(1.0, rule.limit / self._workers)
