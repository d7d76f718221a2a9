"""The declarative base of every table, with names for constraints that migrations can rely on."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import TIMESTAMP, MetaData, Uuid
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeEngine


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: TIMESTAMP(timezone=True), UUID: Uuid()}
    __bound_by__: ClassVar[tuple[str, ...]] = ()
    """The columns that the row's ciphertexts are bound to, beside its project: see `sealing/columns.py`."""
    unreadable: ClassVar[Sequence[str]] = ()
    """The columns of an entity whose values could not be opened."""


def domain(name: str, type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """A type of migrations/schema.sql, which says what a value may be."""
    return DOMAIN(name, type_, create_type=False)
