"""Tables of large media, which are stored beside the items that hold them."""

from uuid import UUID

from sqlalchemy import ForeignKeyConstraint, Index, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.sealing.columns import SealedDigest, SealedText


class Medium(Base):
    """A large image, video, audio recording or file: a data URL or base64. It is deleted with the last item that holds
    it."""

    __tablename__ = "media"
    __bound_by__ = ("id",)

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    thread_id: Mapped[UUID]
    """The thread that it was sent in. It stays when a fork has taken the turn over, and refers to nothing."""
    digest: Mapped[bytes] = mapped_column(SealedDigest("data"))
    """Keyed by the thread's key: equal media in two threads of different projects or users have nothing in common."""
    data: Mapped[str] = mapped_column(SealedText)

    __table_args__ = (Index("media_digest_key", "project_id", "bucket", "thread_id", "digest", unique=True),)


class ItemMedium(Base):
    """The place in an item that a medium was taken out of. Only the service writes these: no value that a client sends
    is a reference."""

    __tablename__ = "item_media"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    turn_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    """Its number among the media of the item: see `items/media.py`."""
    media_id: Mapped[UUID]

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "turn_id", "position"],
            ["items.project_id", "items.bucket", "items.turn_id", "items.position"],
            name="item_media_item_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["project_id", "bucket", "media_id"],
            ["media.project_id", "media.bucket", "media.id"],
            name="item_media_medium_fkey",
        ),
        Index("item_media_medium_idx", "project_id", "bucket", "media_id"),
    )
