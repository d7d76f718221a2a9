"""Items as they are kept: under which type and id, whatever they are themselves."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import orjson
from uuid_utils import uuid7

from app.http.errors import BadRequest
from app.items import client_door, provider_door
from app.items.input_item import InputItem
from app.items.kinds import MALFORMED, Kind, kind_of, type_of
from app.items.shapes import Item
from app.items.unreadable import is_unreadable
from app.process.values import value

NEUTRAL: Item = {"type": MALFORMED}


@value
class StoredItem:
    type: str
    """`malformed` where the item has not the shape of its own type: what looks into it looks at `item`."""
    id: str
    """On the wire: the provider's for its output, where a key can be made of it; else ours. Unique in its project."""
    data: Item
    """As it came."""

    @property
    def item(self) -> Item:
        """The item, of a shape that its kind relies on."""
        return self.data if self.type != MALFORMED else NEUTRAL

    @property
    def kind(self) -> Kind:
        return kind_of(self.item)

    @property
    def shown(self) -> Item:
        """The item with its id, as clients see it."""
        if self.data.get("id") == self.id:
            return self.data
        return {"id": self.id, **{name: value for name, value in self.data.items() if name != "id"}}


def stored_input(items: Iterable[InputItem]) -> list[StoredItem]:
    """A client's items, through the door by now. Their ids are ours: one that is given names an item that is there."""
    return [StoredItem(item.type, provider_door.new_id(item.type, uuid7().hex), item.data) for item in items]


def stored_output(output: Any, *, own_ids: bool = False) -> list[StoredItem]:
    """Return the stored items of a provider's output, whatever its shape.

    Args:
        own_ids: whether all get ids of ours: the provider's are those of other items.
    """
    found: dict[str, StoredItem] = {}
    for item in provider_door.items_of(output):
        type_ = provider_door.stored_type(item)
        id_ = provider_door.usable_id(item.get("id"))
        if id_ is None or id_ in found or own_ids:
            id_ = provider_door.new_id(type_, uuid7().hex)
        found[id_] = StoredItem(type_, id_, item)
    return list(found.values())


class Row(Protocol):
    """A row with an item's type, item_id and data, from wherever it was read."""

    def __getitem__(self, name: str, /) -> Any: ...


def stored_item(row: Row) -> StoredItem:
    """An item read back. One that cannot be opened has no shape to rely on."""
    data = row["data"]
    return StoredItem(MALFORMED if is_unreadable(data) else row["type"], row["item_id"], data)


def imported_type(origin: str, data: Item) -> str:
    """The type under which an item is kept that another Everthread has exported."""
    if origin == "output":
        return provider_door.stored_type(data)
    try:
        (item,) = client_door.items_of([data], any_media=True)
    except (BadRequest, ValueError):
        return MALFORMED
    return type_of(item) if item == data else MALFORMED


def columns(items: Sequence[StoredItem]) -> tuple[list[str], list[str], list[str]]:
    """Items as the arrays (types, ids, data) that an insert unnests."""
    return (
        [item.type for item in items],
        [item.id for item in items],
        [orjson.dumps(item.data).decode() for item in items],
    )
