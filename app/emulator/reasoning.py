"""Reasoning as qwen4-max gives it: a summary where it is asked for, and all of it encrypted, to come back unchanged."""

import hashlib
from typing import Any

from app.emulator.state import Item, new_id

KEY = "the emulator's own: who changes a letter is found out"


def item(thought: str, *, summary: bool, encrypted: bool) -> Item:
    """A reasoning item.

    Args:
        summary: whether its words are shown.
        encrypted: whether it can be restored.
    """
    made: Item = {"type": "reasoning", "id": new_id("msg_"), "summary": []}
    if summary:
        made["summary"] = [{"type": "summary_text", "text": thought}]
    if encrypted:
        made["encrypted_content"] = _sealed(made, thought)
    return made


def is_ours(given: Item) -> bool:
    """Whether a reasoning item comes back as it was given: nothing of it changed."""
    sealed = given["encrypted_content"]
    thought = restored(given)
    return isinstance(sealed, str) and thought is not None and _sealed(given, thought) == sealed


def restored(given: Item) -> str | None:
    """What was thought."""
    sealed: Any = given.get("encrypted_content")
    try:
        return bytes.fromhex(sealed.partition(".")[2]).decode() if isinstance(sealed, str) and "." in sealed else None
    except ValueError:
        return None


def _sealed(made: Item, thought: str) -> str:
    seen = hashlib.sha256(f"{KEY}{made.get('id')}{made.get('summary')}{thought}".encode()).hexdigest()
    return f"{seen}.{thought.encode().hex()}"
