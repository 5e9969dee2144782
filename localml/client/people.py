"""Users, tokens and workspaces of a server, from Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from localml.client.transport import Transport
from localml.client.types import make


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token, but for the token itself; times in seconds since the epoch.

    ``scope`` is None where nothing is restricted, else ``{"rights", "workspace", "thing"}``. ``used_at`` is exact to
    the hour.
    """

    id: str
    name: str
    purpose: str
    scope: dict[str, Any] | None
    made_by: str
    created_at: float
    expires_at: float | None
    used_at: float | None


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key pair, but for its secret; ``id`` is the access key, ``used_at`` is exact to the hour."""

    id: str
    name: str
    made_by: str
    created_at: float
    used_at: float | None


@dataclass(frozen=True, slots=True)
class User:
    """A user; ``workspace`` is the id of its own, ``org`` of its organisation's."""

    id: int
    name: str
    admin: bool
    workspace: str
    org: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How many credentials of a user were ended; ``token`` is a new one for who has ended its own, else None."""

    tokens: int
    keys: int
    token: str | None


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a workspace: ``viewer``, ``member``, ``editor`` or ``owner``."""

    user: str
    role: str
    since: float


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace. ``role`` is what the caller is in it; ``everyone`` what all users are; ``members`` are only filled
    for a single one."""

    id: str
    name: str
    description: str
    owner: str
    personal: bool
    everyone: str | None
    role: str | None
    origin: str
    created_at: float
    updated_at: float
    members: list[Member] = field(default_factory=list)


class People:
    """Part of :class:`localml.client.Client`, as its ``people``."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def me(self) -> str:
        """Name of the user who calls."""
        return str(self._http.json("GET", "/status")["user"])

    def users(self) -> list[User]:
        """All users, oldest first; for administrators."""
        return [make(User, one) for one in self._http.json("GET", "/users")["users"]]

    def create_user(self, name: str, password: str, *, admin: bool = False) -> dict[str, Any]:
        """Add a user; the answer holds a token and a key pair, which are shown once."""
        return dict(self._http.json("POST", "/users", {"name": name, "password": password, "admin": admin}))

    def remove_user(self, name: str) -> None:
        """Remove a user with its keys and tokens; its jobs go on, its notebooks and TensorBoards are stopped."""
        self._http.json("DELETE", f"/users/{_part(name)}")

    def set_password(self, name: str, password: str) -> Ended:
        """Change a user's password, which ends all else that it gets in with. Who changes the own one goes on with the
        token in the answer, as this client does."""
        return self._ended(self._http.json("PUT", f"/users/{_part(name)}/password", {"password": password}))

    def end_credentials(self, name: str) -> Ended:
        """End all that a user gets in with but the password; as :meth:`set_password` otherwise."""
        return self._ended(self._http.json("DELETE", f"/users/{_part(name)}/credentials"))

    def _ended(self, answer: dict[str, Any]) -> Ended:
        if answer["token"] is not None:
            self._http.use(answer["token"])
        return Ended(**answer["ended"], token=answer["token"])

    def keys(self, user: str) -> list[Key]:
        """A user's key pairs, oldest first."""
        return [make(Key, one) for one in self._http.json("GET", f"/users/{_part(user)}/keys")["keys"]]

    def create_key(self, user: str, *, name: str = "") -> dict[str, Any]:
        """A new key pair for a user; the answer holds it as ``access_key`` and ``secret_key``, this once."""
        return dict(self._http.json("POST", f"/users/{_part(user)}/keys", {"name": name}))

    def revoke_key(self, user: str, key: str) -> Key:
        """End a key pair, by access key or name."""
        return make(Key, self._http.json("DELETE", f"/users/{_part(user)}/keys/{_part(key)}"))

    def tokens(self, user: str) -> list[Token]:
        """A user's tokens, oldest first."""
        return [make(Token, one) for one in self._http.json("GET", f"/users/{_part(user)}/tokens")["tokens"]]

    def create_token(
        self,
        user: str,
        *,
        name: str = "",
        scope: list[str] | None = None,
        workspace: str | None = None,
        thing: str | None = None,
        lifetime: float | None = None,
    ) -> dict[str, Any]:
        """A new token for a user; the answer holds it as ``token``, this once.

        Args:
            name: what its owner calls it.
            scope: ``NOUN``, ``ACTION`` or ``NOUN:ACTION`` each; all that the owner may when left out.
            workspace: only in this one (id or name).
            thing: only this one, such as ``workload:12`` or ``endpoint:digits``.
            lifetime: seconds; for ever when left out.
        """
        body = {"name": name, "scope": scope or [], "workspace": workspace, "thing": thing, "lifetime": lifetime}
        return dict(self._http.json("POST", f"/users/{_part(user)}/tokens", body))

    def revoke_token(self, user: str, token: str) -> Token:
        """End a token, by id or name."""
        return make(Token, self._http.json("DELETE", f"/users/{_part(user)}/tokens/{_part(token)}"))

    def workspaces(self) -> list[Workspace]:
        """All workspaces that the caller sees, by name."""
        return [_workspace(one) for one in self._http.json("GET", "/workspaces")["workspaces"]]

    def workspace(self, ref: str) -> Workspace:
        """One workspace with its members, by id or name."""
        return _workspace(self._http.json("GET", f"/workspaces/{_part(ref)}"))

    def create_workspace(self, name: str, *, description: str = "", everyone: str | None = None) -> Workspace:
        """Make a workspace; ``everyone`` is what all users are in it without being members."""
        body = {"name": name, "description": description, "everyone": everyone}
        return _workspace(self._http.json("POST", "/workspaces", body))

    def change_workspace(self, ref: str, **members: Any) -> Workspace:
        """Change ``name``, ``description`` or ``everyone``; what is left out stays."""
        return _workspace(self._http.json("PATCH", f"/workspaces/{_part(ref)}", members))

    def delete_workspace(self, ref: str) -> Workspace:
        """Delete a workspace that nothing is in use in."""
        return _workspace(self._http.json("DELETE", f"/workspaces/{_part(ref)}"))

    def set_member(self, ref: str, user: str, role: str = "member") -> Workspace:
        """Make a user a member of a workspace, or change what it is there."""
        return _workspace(self._http.json("PUT", f"/workspaces/{_part(ref)}/members/{_part(user)}", {"role": role}))

    def remove_member(self, ref: str, user: str) -> Workspace:
        """End a membership."""
        return _workspace(self._http.json("DELETE", f"/workspaces/{_part(ref)}/members/{_part(user)}"))


def _workspace(values: dict[str, Any]) -> Workspace:
    members = [make(Member, one) for one in values.get("members", ())]
    return make(Workspace, {**values, "members": members})


def _part(text: str) -> str:
    return quote(text, safe="")
