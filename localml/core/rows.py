"""What all tables share, and the facts about the installation. Rows are the domain records; nested parts are frozen
specs kept as JSON.

All times are seconds since the Unix epoch (UTC) as floats.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Dialect, MetaData, String, TypeDecorator, func, select
from sqlmodel import Field, Session, SQLModel

from localml.core.limits import MOST_OF_ONE, need_at_most
from localml.core.ports import Store

SQLModel.metadata.naming_convention = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
).naming_convention


class EnumText(TypeDecorator[StrEnum]):
    """A string enum kept as its plain value, so that a new member needs no migration."""

    impl = String
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        return None if value is None else self.kind(value)


def enum_column(kind: type[StrEnum], default: StrEnum | None = None, *, required: bool = False) -> Any:
    """A field of a table that holds an enum; NULL is allowed unless it is required or has a default."""
    column: Column[Any] = Column(EnumText(kind), nullable=not required and default is None)
    return Field(sa_column=column) if required else Field(default=default, sa_column=column)


def owner_column() -> Any:
    """A field of a table that holds whose a row is: a user's number, which is never another's. The name beside it is
    the one that the user had, for show. 0 is nobody."""
    return Field(sa_column_kwargs={"server_default": "0"})


class Meta(SQLModel, table=True):
    """Facts about this installation (install id, when it was made)."""

    key: str = Field(primary_key=True)
    value: str


def install_id(store: Store) -> str:
    """The name of this installation, made at first start: eight hexadecimal digits, which its containers carry."""

    def act(session: Session) -> str:
        found = session.get(Meta, "install")
        if found is None:
            found = Meta(key="install", value=secrets.token_hex(4))
            session.add(found)
        return found.value

    return store.write(act)


def need_few(session: Session, model: type[SQLModel], what: str, *conditions: Any, most: int | None = None) -> None:
    """Refuse one more row for a user who has ``most`` of these, or :data:`localml.core.limits.MOST_OF_ONE`.

    Args:
        what: what they are, in the plural; also the field's name.
        conditions: which rows are the user's.

    Raises:
        LocalmlError: ``INVALID`` with both numbers.
    """
    there = session.execute(select(func.count()).select_from(model).where(*conditions)).scalar_one()
    need_at_most(what, int(there) + 1, MOST_OF_ONE if most is None else most, f"{what} of one user")
