"""Tool calls and their outputs: which belong together, and in what order they are sent.

Whatever a history has (calls in parallel, an id that is used twice, words between a call and its output, an output
without a call, a call that was never answered), what comes out is pairs: each call with its output close behind it.
"""

from collections import deque
from collections.abc import Container, Sequence

from app.items.kinds import Kind, kind_of
from app.items.shapes import Item

_NO_CALLS: dict[int, int | None] = {}


class Block:
    """Items that are sent together or not at all: one alone, or calls with their outputs."""

    __slots__ = ("answers_nothing", "calls", "items")

    def __init__(
        self, items: list[int], calls: dict[int, int | None] | None = None, *, answers_nothing: bool = False
    ) -> None:
        self.items = items
        """Their positions, in the order in which they are sent."""
        self.calls = _NO_CALLS if calls is None else calls
        """The output's position for each call's; None while there is none."""
        self.answers_nothing = answers_nothing
        """It is the output of a call that is not among the items."""


_Waiting = tuple[Block, deque[int]]
"""A block, and those of its calls that may wait for an output of one id."""


def arranged(items: Sequence[Item], alone: Container[int] = ()) -> list[Block]:
    """Items that are sent, as blocks, in order. Calls without an output, and what is never sent, are left out.

    Args:
        alone: the positions of items that are known to be sent, and to be no half of a call.
    """
    blocks = [_without_unanswered(block) if block.calls else block for block in _paired(items, alone)]
    return [block for block in blocks if block.items]


def unanswered(items: Sequence[Item]) -> list[int]:
    """Return the positions of the calls that no output among the items answers."""
    return [place for block in _paired(items) for place, output in block.calls.items() if output is None]


def answers(items: Sequence[Item]) -> set[str]:
    """The calls that these items answer and do not hold themselves."""
    return {
        kind_of(items[block.items[0]]).key(items[block.items[0]]) for block in arranged(items) if block.answers_nothing
    }


def asked(items: Sequence[Item]) -> list[str]:
    """The calls among these items that wait for an answer."""
    called = [kind.key(item) for item in items if (kind := kind_of(item)).pair == "call"]
    answered = {kind.key(item) for item in items if (kind := kind_of(item)).pair == "output"}
    return [key for key in called if key not in answered]


def _paired(items: Sequence[Item], alone: Container[int] = ()) -> list[Block]:
    """Return items as blocks, in order, with the calls that have no output."""
    blocks: list[Block] = []
    waiting: dict[str, list[_Waiting]] = {}
    tools: Block | None = None
    for place, item in enumerate(items):
        if place in alone:
            blocks.append(Block([place]))
            tools = None
            continue
        kind = kind_of(item)
        if kind.pair == "call":
            if tools is None:
                tools = Block([], {})
                blocks.append(tools)
            tools.items.append(place)
            tools.calls[place] = None
            for key in _keys(kind, item):
                of_key = waiting.setdefault(key, [])
                if not of_key or of_key[-1][0] is not tools:
                    of_key.append((tools, deque()))
                of_key[-1][1].append(place)
        elif kind.pair == "output":
            answered = _answered(waiting.get(kind.key(item), []))
            if answered is None:
                blocks.append(Block([place], answers_nothing=True))
                tools = None
            else:
                block, call = answered
                block.items.append(place)
                block.calls[call] = place
        elif kind.carried(item):
            blocks.append(Block([place]))
            tools = None
    return blocks


def _keys(kind: Kind, item: Item) -> set[str]:
    """A call is answered by its call id; a shell's, by some clients, by its id."""
    own = item.get("id")
    return (
        {kind.key(item), own} if isinstance(own, str) and item.get("type") == "local_shell_call" else {kind.key(item)}
    )


def _answered(waiting: list[_Waiting]) -> tuple[Block, int] | None:
    """Return the call that an output answers: of those with its id, the first open one of the latest block.

    Calls that have been answered are taken out, so that each is looked at once.
    """
    while waiting:
        block, calls = waiting[-1]
        while calls:
            call = calls.popleft()
            if block.calls[call] is None:
                return block, call
        waiting.pop()
    return None


def _without_unanswered(block: Block) -> Block:
    return Block([place for place in block.items if block.calls.get(place, place) is not None], block.calls)
