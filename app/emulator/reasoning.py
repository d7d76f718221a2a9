"""Reasoning as qwen4-max gives it: a summary where it is asked for, and all of it encrypted, to come back unchanged."""

import hashlib
import json
from typing import Any

from app.emulator.state import Item, new_id

KEY = "the emulator's own: who changes a letter is found out"


def item(thought: str, family: str, *, summary: bool, encrypted: bool) -> Item:
    """A reasoning item.

    Args:
        family: of the model, which alone can restore it.
        summary: whether its words are shown.
        encrypted: whether it can be restored.
    """
    made: Item = {"type": "reasoning", "id": new_id("msg_"), "summary": []}
    if summary:
        made["summary"] = [{"type": "summary_text", "text": thought}]
    if encrypted:
        made["encrypted_content"] = _sealed(made, thought, family)
    return made


def is_ours(given: Item, family: str) -> bool:
    """Return True if a reasoning item comes back unchanged, and to a model of the family that made it."""
    sealed = given["encrypted_content"]
    thought = restored(given)
    return isinstance(sealed, str) and thought is not None and _sealed(given, thought, family) == sealed


def restored(given: Item) -> str | None:
    """Return the reasoning text."""
    sealed: Any = given.get("encrypted_content")
    try:
        return bytes.fromhex(sealed.partition(".")[2]).decode() if isinstance(sealed, str) and "." in sealed else None
    except ValueError:
        return None


def _sealed(made: Item, thought: str, family: str) -> str:
    seen = hashlib.sha256(
        f"{KEY}{family}{made.get('id')}{json.dumps(made.get('summary'), sort_keys=True)}{thought}".encode()
    ).hexdigest()
    return f"{seen}.{thought.encode().hex()}"
