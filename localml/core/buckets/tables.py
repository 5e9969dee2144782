"""Whose buckets are."""

from __future__ import annotations

from sqlmodel import Field, SQLModel

from localml.core.people.rights import MemberRole
from localml.core.rows import enum_column


class Bucket(SQLModel, table=True):
    """A bucket of the tree. Names are one space for all; an id is never used again, so that a bucket which was deleted
    and made anew under its name is another one."""

    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    workspace: str = Field(foreign_key="workspace.id", index=True)
    owner: str  # the user who made it, as it was called
    owner_id: int  # its number; 0 for nobody's
    everyone: MemberRole | None = enum_column(MemberRole)  # what all users are to it, beside its workspace's members
    created_at: float
