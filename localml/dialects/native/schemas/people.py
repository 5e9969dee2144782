"""What goes over the wire about users, tokens and workspaces; see ``schemas.work`` for the rest."""

from __future__ import annotations

from pydantic import BaseModel, Field

from localml.core.people.rights import MemberRole
from localml.core.work.specs import Seconds
from localml.dialects.native.schemas.work import Strict


class UserPath(Strict):
    """A user's name."""

    name: str


class TokenPath(UserPath):
    """A user's token, by id or name."""

    token: str


class KeyPath(UserPath):
    """A user's key pair, by access key or name."""

    key: str


class UserIn(Strict):
    """A new user; ``org`` is its organisation's workspace, which is made if there is none."""

    name: str
    password: str
    admin: bool = False
    org: str = "default"


class PasswordIn(Strict):
    """A user's new password."""

    password: str


class EndedCounts(BaseModel):
    """How many of a user's credentials were ended."""

    tokens: int
    keys: int


class EndedOut(BaseModel):
    """What a user's new password, or an end of all credentials, has ended; ``token`` is a new one for who did so to
    its own."""

    name: str
    ended: EndedCounts
    token: str | None


class KeyIn(Strict):
    """A new key pair."""

    name: str = Field(default="", max_length=128)


class KeyOut(BaseModel):
    """A key pair; ``id`` is the access key. ``used_at`` is exact to the hour."""

    id: str
    name: str
    made_by: str
    created_at: float
    used_at: float | None


class NewKeyOut(KeyOut):
    """A new key pair; ``secret_key`` is shown this once."""

    user: str
    access_key: str
    secret_key: str


class KeysOut(BaseModel):
    """A user's key pairs, oldest first."""

    keys: list[KeyOut]


class TokenIn(Strict):
    """A new token; it may what its owner may, as far as ``scope``, ``workspace`` and ``thing`` leave that in.

    ``scope`` holds ``NOUN``, ``ACTION`` or ``NOUN:ACTION``; ``workspace`` is an id or a name; ``thing`` is one thing,
    such as ``workload:12``. ``lifetime`` in seconds, for ever when left out.
    """

    name: str = Field(default="", max_length=128)
    scope: list[str] = Field(default_factory=list, max_length=100)
    workspace: str | None = None
    thing: str | None = None
    lifetime: Seconds | None = Field(default=None, gt=0, le=1e10)


class ScopeOut(BaseModel):
    """A restriction; members that are null or empty restrict nothing."""

    rights: list[str]
    workspace: str | None
    thing: str | None


class TokenOut(BaseModel):
    """A token; ``scope`` is null where nothing is restricted. ``used_at`` is exact to the hour."""

    id: str
    name: str
    purpose: str
    scope: ScopeOut | None
    made_by: str
    created_at: float
    expires_at: float | None
    used_at: float | None


class NewTokenOut(TokenOut):
    """A new token; ``token`` is shown this once."""

    user: str
    token: str


class TokensOut(BaseModel):
    """A user's tokens, oldest first."""

    tokens: list[TokenOut]


class WorkspacePath(Strict):
    """A workspace, by id or name."""

    ref: str


class MemberPath(WorkspacePath):
    """A user in a workspace."""

    user: str


class WorkspaceIn(Strict):
    """A new workspace. ``everyone``: what all users are in it without being members."""

    name: str
    description: str = ""
    everyone: MemberRole | None = None


class WorkspaceChange(Strict):
    """What to change; what is left out stays."""

    name: str | None = None
    description: str | None = None
    everyone: MemberRole | None = None


class MemberIn(Strict):
    """What a user is to be."""

    role: MemberRole = MemberRole.MEMBER


class MemberOut(BaseModel):
    """A user in a workspace."""

    user: str
    role: MemberRole
    since: float


class WorkspaceOut(BaseModel):
    """A workspace; ``role`` is what the caller is in it, null for an administrator who is none of its members."""

    id: str
    name: str
    description: str
    owner: str
    personal: bool
    everyone: MemberRole | None
    role: MemberRole | None
    origin: str
    created_at: float
    updated_at: float
    deleted_at: float | None


class WorkspaceFull(WorkspaceOut):
    """A workspace with its members, by name."""

    members: list[MemberOut]


class WorkspacesOut(BaseModel):
    """Workspaces by name."""

    workspaces: list[WorkspaceOut]
