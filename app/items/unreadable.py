"""Contents that are there and cannot be opened: their ciphertext was changed or moved, or their key is missing."""

from typing import Any, NotRequired

from typing_extensions import TypedDict

from app.http.errors import Conflict
from app.items.shapes import Item

CODE = "content_unreadable"


class Unreadable(dict[str, Any]):
    """Stands for a document that cannot be opened. Its type tells it from anything that a client can send."""


class Marked(TypedDict):
    unreadable: NotRequired[list[str]]


def marked(row: Any) -> Marked:
    """Return what an object says of its row's columns that cannot be opened; nothing where all of them are."""
    found = row.get("unreadable") if hasattr(row, "get") else row.unreadable
    return {"unreadable": list(found)} if found else {}


def unreadable_item(type_: str) -> Unreadable:
    """Return what is shown in the place of an item that cannot be opened."""
    return Unreadable(type=type_, unreadable=True)


def is_unreadable(item: Item) -> bool:
    return isinstance(item, Unreadable)


class ContentUnreadable(Conflict):
    """A request needs contents that cannot be opened. It is refused: nothing is sent without them."""

    code = CODE

    def __init__(self, what: str, way_out: str) -> None:
        """Args: what: names the content. way_out: says in a sentence how to continue without it."""
        super().__init__(
            f"{what} cannot be opened: the stored ciphertext was changed or moved, or its key is missing. {way_out}"
        )
