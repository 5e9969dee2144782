"""Workspaces and who is in them, inside a transaction of whoever asks."""

from __future__ import annotations

import secrets
from collections.abc import Collection

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from localml.core.errors import invalid, not_found
from localml.core.people.rights import MemberRole
from localml.core.people.tables import Membership, User, Workspace
from localml.core.sql import driver

_LIVE = "SELECT 1 FROM workspace WHERE id = ? AND deleted_at IS NULL"


def new_id() -> str:
    """A new workspace's id: 32 hexadecimal digits, as vendors' project ids are."""
    return secrets.token_hex(16)


def living(name: str | None = None) -> SelectOfScalar[User]:
    """The users that were not removed, or the one of this name."""
    found = select(User).where(col(User.removed_at).is_(None))
    return found if name is None else found.where(User.name == name)


def need_live(session: Session, workspace: str) -> None:
    """Make sure that something can be put into a workspace; for sessions that write.

    Raises:
        LocalmlError: ``NOT_FOUND`` when there is none of this id, or none any more.
    """
    if driver(session).execute(_LIVE, (workspace,)).fetchone() is None:
        raise not_found("workspace", workspace)


def roles(session: Session, users: Collection[int]) -> dict[int, dict[str, MemberRole]]:
    """user -> workspace -> what the user is there, as a member or because everybody is."""
    live = col(Workspace.deleted_at).is_(None)
    everyone: dict[str, MemberRole] = {
        one.id: one.everyone
        for one in session.exec(select(Workspace).where(live, col(Workspace.everyone).is_not(None)))
        if one.everyone is not None
    }
    found = {user: dict(everyone) for user in users}
    query = select(Membership).join(Workspace).where(live, col(Membership.user_id).in_(list(users)))
    for member in session.exec(query):
        known = found[member.user_id].get(member.workspace)
        if known is None or member.role.covers(known):
            found[member.user_id][member.workspace] = member.role
    return found


def settle(session: Session, user: User, *, now: float) -> None:
    """Give a new user its own workspace, and make it a member of its organisation's.

    ``user.org`` is the id or the name of a shared workspace, which is made if there is none; it is the id afterwards.

    Raises:
        LocalmlError: ``INVALID`` (org) when it names somebody's own workspace, or one that was deleted.
    """
    own = _made_by(user, user.workspace, user.name, now)
    own.personal = True
    session.add(own)
    session.flush()
    add(session, own.id, user, MemberRole.OWNER, now=now)
    if user.org:
        org = _organisation(session, user, now)
        user.org = org.id
        session.add(user)
        lead(session, user, now=now)


def lead(session: Session, user: User, *, now: float) -> None:
    """Make an administrator an owner of its organisation, and anybody else an editor."""
    if user.org:
        add(session, user.org, user, MemberRole.OWNER if user.admin else MemberRole.EDITOR, now=now)


def add(session: Session, workspace: str, user: User, role: MemberRole, *, now: float) -> None:
    """Make a user a member, or change what it is there."""
    found = session.get(Membership, (workspace, user.id))
    if found is None:
        found = Membership(workspace=workspace, user_id=user.id or 0, role=role, created_at=now)
    found.role = role
    session.add(found)
    session.flush()


def shared_named(name: str) -> SelectOfScalar[Workspace]:
    """The live workspace of this name that is nobody's own."""
    live = col(Workspace.deleted_at).is_(None)
    return select(Workspace).where(Workspace.name == name, col(Workspace.personal).is_(False), live)


def _organisation(session: Session, user: User, now: float) -> Workspace:
    found = session.get(Workspace, user.org)
    if found is None:
        found = session.exec(shared_named(user.org)).first()
    if found is None:
        found = _made_by(user, user.org, user.org, now)
        found.origin = _ORGANISATION
        session.add(found)
        session.flush()
    reason = _no_organisation(found)
    if reason:
        raise invalid("org", f"'{user.org}' {reason}")
    return found


def _made_by(user: User, workspace: str, name: str, now: float) -> Workspace:
    return Workspace(id=workspace, name=name, owner=user.name, owner_id=user.id or 0, created_at=now, updated_at=now)


def _no_organisation(found: Workspace) -> str:
    """Why it cannot be one; empty when it can."""
    if found.personal:
        return f"is the own workspace of {found.owner}"
    if found.deleted_at is not None:
        return "was deleted"
    return "" if found.origin in _OF_USERS else f"is the workspace of the {found.origin} API"


_ORGANISATION = "cloudml"
_OF_USERS = ("native", _ORGANISATION)
"""Origins of the workspaces that users make; the others are made by a dialect, for all."""
