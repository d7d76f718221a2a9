"""Tables of large media, which are stored beside their items."""

from uuid import UUID

from sqlalchemy import ForeignKeyConstraint, Index, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.sealing.columns import SealedDigest, SealedText


class Medium(Base):
    """A large image, video, audio recording or file: a data URL or base64. It is deleted with the last item that
    refers to it."""

    __tablename__ = "media"
    __bound_by__ = ("id",)

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    thread_id: Mapped[UUID]
    """The thread in which it was sent; no foreign key. It does not change if a fork takes over the turn."""
    digest: Mapped[bytes] = mapped_column(SealedDigest("data"))
    """Keyed: equal media of different projects or users have different digests."""
    data: Mapped[str] = mapped_column(SealedText)

    __table_args__ = (Index("media_digest_key", "project_id", "bucket", "thread_id", "digest", unique=True),)


class ItemMedium(Base):
    """The place in an item from which a medium was extracted. Only the service writes these rows: no value of a client
    is a reference."""

    __tablename__ = "item_media"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    turn_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    """Its number among the media of the item, see `items/media.py`."""
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
