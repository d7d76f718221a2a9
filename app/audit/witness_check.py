"""Verification of the cosignatures in the database, and of what witnesses have answered."""

from collections.abc import Mapping
from uuid import UUID

from app.audit import store
from app.audit.notes import COSIGNATURE, BadNote, Checkpoint, Note, VerifierKey
from app.db.engine import Database

Found = tuple[str, str]
"""The place of a problem, and its description."""


async def problems(database: Database, project_id: UUID, notes: Mapping[int, Note]) -> list[Found]:
    """Compare cosignatures with the notes that they are of. A witness that has seen another history is a problem, too.

    Args:
        notes: the verified notes of checkpoints, by their size. Those that do not verify are named elsewhere.
    """
    found: list[Found] = []
    for row in await store.cosignatures(database, project_id):
        note = notes.get(row["size"])
        if note is None:
            continue
        try:
            if row["origin"] != Checkpoint.parse(note.text).origin:
                raise BadNote("it is of another log")
            VerifierKey(row["name"], COSIGNATURE, row["public_key"]).verify(note.text, row["signature"])
        except BadNote as error:
            found.append((f"checkpoint {row['size']}", f"the cosignature of {row['name']} is wrong: {error}"))
    for witness in await store.witnesses(database, project_id):
        if witness["forked"]:
            what = "it has cosigned another history of this trail, and refuses this one"
            found.append((f"witness {witness['name'] or witness['public_key'].hex()}", what))
    return found
