"""Key that authenticates the entries in Redis."""

from sqlalchemy import CheckConstraint, LargeBinary, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class CacheKey(Base):
    """One row, made with the table."""

    __tablename__ = "cache_keys"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, server_default=text("1"))
    key: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("id = 1", name="id"), CheckConstraint("octet_length(key) = 32", name="key"))
