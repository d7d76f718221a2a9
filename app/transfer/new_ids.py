"""New ids for exported threads, where those of an earlier release do not fit or are in use.

A new id is computed from the old one, so that an import that is run again finds what it has imported already. Threads
that share turns get ids of the same bucket.
"""

import hashlib
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from app.db import ids
from app.items.shapes import objects, string
from app.transfer.schemas import FORMAT
from app.transfer.trees import seconds


class NewIds:
    """The new ids of the exported threads of a file."""

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self._group: dict[UUID, UUID] = {}
        for record in records:
            thread = ids.parse(string(record.get("id")), ids.THREAD_PREFIXES)
            if record.get("format") != FORMAT or thread is None:
                continue
            for turn in objects(record.get("turns")):
                if (turn_id := ids.parse(string(turn.get("id")), ids.TURN_PREFIXES)) is not None:
                    self._join(thread, turn_id)

    def apply(self, record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the record with new ids, and the new id of its thread and of each turn by the old one.

        An id that is not valid stays as it is, for the service to refuse.
        """
        mapping: dict[str, str] = {}
        group = self._root(ids.parse(string(record.get("id")), ids.THREAD_PREFIXES))

        def new(old: Any, prefixes: tuple[str, ...], created_at: Any) -> Any:
            id_ = ids.parse(string(old), prefixes)
            if id_ is None or group is None:
                return old
            mapping[old] = f"{prefixes[0]}_{_new_id(id_, group, created_at).hex}"
            return mapping[old]

        def mapped(owner: dict[str, Any], *names: str) -> dict[str, Any]:
            return {k: mapping.get(string(v), v) if k in names else v for k, v in owner.items()}

        thread = {**record, "id": new(record.get("id"), ids.THREAD_PREFIXES, record.get("created_at"))}
        turns = [
            {**turn, "id": new(turn.get("id"), ids.TURN_PREFIXES, turn.get("created_at"))}
            for turn in objects(record.get("turns"))
        ]
        thread["turns"] = [mapped(turn, "parent_id") for turn in turns]
        for name in ("compactions", "shares"):
            if name in record:
                thread[name] = [mapped(each, "turn_id") for each in objects(record[name])]
        return mapped(thread, "head_id", "forked_turn_id"), mapping

    def _join(self, one: UUID, other: UUID) -> None:
        low, high = sorted((self._root(one) or one, self._root(other) or other))
        self._group[high] = self._group[low] = low

    def _root(self, id_: UUID | None) -> UUID | None:
        while id_ is not None and (above := self._group.get(id_, id_)) != id_:
            self._group[id_] = self._group.get(above, above)
            id_ = above
        return id_


def _new_id(old: UUID, group: UUID, created_at: Any) -> UUID:
    """Return an id in the form of `ids.new_id`: the time of the old row, and a hash of its id for the random bits."""
    random = int.from_bytes(hashlib.sha256(b"everthread new id" + old.bytes).digest()[:8], "big")
    bucket = int.from_bytes(hashlib.sha256(b"everthread bucket" + group.bytes).digest()[:8], "big") % ids.BUCKETS
    return ids.made_of(int((seconds(created_at) or 0) * 1000), random >> 52, random & ((1 << 52) - 1), bucket)
