"""Verification of stored cosignatures, and of the last answers of witnesses."""

from collections.abc import Mapping
from uuid import UUID

from app.audit import store
from app.audit.notes import COSIGNATURE, BadNote, Checkpoint, Note, VerifierKey
from app.db.engine import Database

Found = tuple[str, str]
"""The place of a problem, and its description."""


async def problems(database: Database, project_id: UUID, notes: Mapping[int, Note]) -> list[Found]:
    """Verify each cosignature against its note. A witness that has cosigned another history is a problem, too.

    Args:
        notes: the verified notes of checkpoints, by size. `verify` reports notes that do not verify.
    """
    found: list[Found] = []
    for row in await store.cosignatures(database, project_id):
        note = notes.get(row["size"])
        if note is None:
            continue
        try:
            if row["origin"] != Checkpoint.parse(note.text).origin:
                raise BadNote("it belongs to another log")
            VerifierKey(row["name"], COSIGNATURE, row["public_key"]).verify(note.text, row["signature"])
        except BadNote as error:
            found.append((f"checkpoint {row['size']}", f"the cosignature by {row['name']} does not verify: {error}"))
    for witness in await store.witnesses(database, project_id):
        if witness["forked"]:
            what = "the witness has cosigned another history of this trail, and refuses this one"
            found.append((f"witness {witness['name'] or witness['public_key'].hex()}", what))
    return found
