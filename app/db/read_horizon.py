"""The moment up to which a list that is read upwards is complete."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

# A row's moment is never before the beginning of its transaction. One that has written nothing for as long as nobody
# needs between the two is a reader, and holds nobody up.
OLDEST_WRITER = text(
    """SELECT least(clock_timestamp(), min(xact_start)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND (backend_xid IS NOT NULL OR xact_start > clock_timestamp() - interval '2 seconds')"""
)


@dataclass(frozen=True, slots=True)
class ReadHorizon:
    """The moment before which no row can be added any more: ascending lists end there."""

    seconds: float | None = None
    """The longest time that a transaction may take until its rows are visible; None to look at the open ones."""

    async def until(self, session: AsyncSession) -> datetime:
        """The moment, to be asked for before the list is read."""
        if self.seconds is not None:
            settling = select(func.clock_timestamp() - timedelta(seconds=self.seconds))
            waited: datetime = (await session.execute(settling)).scalar_one()
            return waited
        until: datetime = (await session.execute(OLDEST_WRITER)).scalar_one()
        return until
