"""Users, their key pairs and their tokens."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class User(SQLModel, table=True):
    """Who calls. ``project`` and ``org`` are the tenancy ids that vendors show."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    password_hash: str
    admin: bool = False
    project: str = Field(index=True)
    org: str = "default"
    created_at: float


class AccessKey(SQLModel, table=True):
    """A key pair of a signing scheme; the secret is encrypted, because HMAC needs it back."""

    __tablename__ = "access_key"

    id: str = Field(primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    secret: bytes
    created_at: float
    disabled_at: float | None = None


class Token(SQLModel, table=True):
    """A bearer token; only its SHA-256 is kept."""

    hash: str = Field(primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    purpose: str = "api"
    created_at: float
    expires_at: float | None = None
