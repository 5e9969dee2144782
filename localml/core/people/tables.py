"""Users with their key pairs and tokens, and the workspaces that they share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Index, text
from sqlmodel import Field, SQLModel

from localml.core.people.rights import MemberRole
from localml.core.rows import enum_column, owner_column


class User(SQLModel, table=True):
    """Who calls. ``workspace`` is the user's own, and the project that vendors show; ``org`` is the shared one that
    stands for an organisation where a vendor knows one per user (empty: none). ``generation`` counts how often all
    credentials were ended: what was made for an earlier one is good for nothing.

    The row of one that was removed stays, so that its number is never another's: what it left is known by that. Its
    name is free. Who looks for users asks :func:`localml.core.people.memberships.living`.
    """

    __table_args__ = (Index("uq_user_live_name", "name", unique=True, sqlite_where=text("removed_at IS NULL")),)

    id: int | None = Field(default=None, primary_key=True)
    name: str
    password_hash: str
    admin: bool = False
    workspace: str = Field(index=True)
    org: str = "default"
    created_at: float
    generation: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    removed_at: float | None = None


class Workspace(SQLModel, table=True):
    """What belongs together: whatever runs, is served or is registered is in one. A vendor shows it as workspace,
    organisation, project, or the users of a virtual cluster."""

    __table_args__ = (
        Index(
            "uq_workspace_live_name",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL AND personal = 0"),
        ),
    )

    id: str = Field(primary_key=True)
    name: str
    description: str = ""
    owner: str  # the name of the user who made it
    owner_id: int = owner_column()
    personal: bool = False  # a user's own, which comes with the user
    everyone: MemberRole | None = enum_column(MemberRole)  # what all users are in it, members or not
    origin: str = "native"  # the dialect that it was made through
    created_at: float
    updated_at: float
    deleted_at: float | None = None


class Membership(SQLModel, table=True):
    """What a user is in a workspace."""

    workspace: str = Field(primary_key=True, foreign_key="workspace.id")
    user_id: int = Field(primary_key=True, foreign_key="user.id", index=True)
    role: MemberRole = enum_column(MemberRole, required=True)
    created_at: float


class AccessKey(SQLModel, table=True):
    """A key pair of a signing scheme; the secret is encrypted, because HMAC needs it back."""

    __tablename__ = "access_key"

    id: str = Field(primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    secret: bytes
    name: str = Field(default="", sa_column_kwargs={"server_default": ""})  # what its owner calls it
    made_by: str = Field(default="", sa_column_kwargs={"server_default": ""})  # name of the user who made it
    created_at: float
    disabled_at: float | None = None
    used_at: float | None = None  # the last time that was written down, to the hour


class Token(SQLModel, table=True):
    """A bearer token; only its SHA-256 is kept, whose beginning names it."""

    hash: str = Field(primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    purpose: str = "api"
    name: str = Field(default="", sa_column_kwargs={"server_default": ""})  # what its owner calls it
    made_by: str = Field(default="", sa_column_kwargs={"server_default": ""})  # name of the user who made it
    scope: Any = Field(default=None, sa_column=Column(JSON))  # Scope.stored(); NULL: all that its owner may
    created_at: float
    expires_at: float | None = None  # NULL: never
    used_at: float | None = None  # the last time that was written down, to the hour
