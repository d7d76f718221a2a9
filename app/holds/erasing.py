"""Erasure of what released holds have kept, in batches. A batch that broke off is taken up by the next round."""

from uuid import UUID

from app.db.engine import Database
from app.holds.schemas import hold_id
from app.holds.store import SQL
from app.trail.append import append_record
from app.trail.records import SERVICE

ROWS_AT_ONCE = 500


async def unerased(database: Database) -> list[tuple[UUID, UUID]]:
    """Return the released holds whose rows are to be erased, each with its project."""
    return [(row["project_id"], row["id"]) for row in await database.fetch(*SQL.unerased())]


async def erase_released(database: Database, project_id: UUID, id_: UUID) -> None:
    """Erase rows kept by a released hold, unless an active hold or a minimum retention covers them."""
    while await _erase_some(database, project_id, id_):
        pass


async def erase_retained(database: Database) -> None:
    """Erase rows kept by a minimum retention that has ended, unless a hold covers them."""
    while len(await database.fetch(*SQL.erase_retained(at_once=ROWS_AT_ONCE))) == ROWS_AT_ONCE:
        pass


async def _erase_some(database: Database, project_id: UUID, id_: UUID) -> bool:
    """Erase a batch. Returns False if nothing is left for this worker."""
    this = {"project_id": project_id, "hold_id": id_}
    async with database.session() as session:
        hold = (await session.execute(SQL.take_unerased.clause, this)).one_or_none()
        if hold is None:
            return False
        await session.execute(SQL.lock_shared.clause, {"project_id": project_id})
        batch = {"project_id": project_id, "at_once": ROWS_AT_ONCE}
        if hold.scope == "thread":
            where = {"bucket": hold.bucket, "thread_id": hold.thread_id}
            gone = await session.execute(SQL.erase_of_thread.clause, {**batch, **where})
        elif hold.scope == "user":
            gone = await session.execute(SQL.erase_of_user.clause, {**batch, "user_id": hold.user_id})
        else:
            gone = await session.execute(SQL.erase_of_project.clause, batch)
        count = len(gone.all())
        done = count < ROWS_AT_ONCE
        total = await session.scalar(SQL.count_erased.clause, {**this, "rows": count, "done": done})
        if done:
            # The hold forgets the user now. Its record names the user by a keyed digest only.
            detail = f"{hold_id(id_)}: {total} rows"
            await append_record(session, SERVICE, project_id, "hold.erased", detail=detail)
    return not done
