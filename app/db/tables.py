"""Table of the revisions that the database can serve."""

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class ServedRevision(Base):
    """A migration whose release can run on the schema as it is now: the newest, and those before that it serves."""

    __tablename__ = "served_revisions"

    revision: Mapped[str] = mapped_column(Text, primary_key=True)
