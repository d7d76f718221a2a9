"""The limits while Redis is away: each worker lets in its share."""

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
        if len(self._left) > MOST_BUCKETS:
            self._left.clear()
        for rule, taken in zip(rules, takes, strict=True):
            if rule.kind == "bucket":
                self._left[rule.key] = (levels[rule.key] - min(taken, self._share(rule)), now)
            elif rule.kind == "running":
                self._running.setdefault(rule.key, set()).add(id_)
        return 0, 0

    def end(self, rules: Sequence[Rule], id_: str) -> None:
        for rule in rules:
            running = self._running.get(rule.key)
            if running is not None:
                running.discard(id_)
                if not running:
                    del self._running[rule.key]

    def _share(self, rule: Rule) -> float:
        return max(1.0, rule.limit / self._workers)
