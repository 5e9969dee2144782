"""Workspaces as users and dialects handle them: make, find, rename, share, delete.

Whether the caller may is asked before, by :func:`localml.core.people.allow.allow`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import func, or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from localml.core.buckets.tables import Bucket
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.instances.tables import Instance
from localml.core.people import memberships
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller
from localml.core.people.memberships import shared_named
from localml.core.people.rights import Action, MemberRole, ThingKind
from localml.core.people.tables import Membership, User, Workspace
from localml.core.ports import Store
from localml.core.registry.tables import Model
from localml.core.rows import need_few
from localml.core.serving.tables import Endpoint
from localml.core.studies.tables import Study
from localml.core.work.states import TERMINAL
from localml.core.work.tables import Workload

T = TypeVar("T")

NAME = re.compile(r"\w[\w .~-]{0,63}")
MAX_DESCRIPTION = 1000


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a workspace."""

    user: str
    role: MemberRole
    since: float


def thing_of(row: Workspace, called: str | None = None) -> Thing:
    """A workspace as what rights are asked about."""
    name = row.name if called is None else called
    return Thing(ThingKind.WORKSPACE, row.id, name, row.owner_id, row.id, owner_name=row.owner)


class Workspaces:
    """The service over workspaces.

    Args:
        changed: told after each change of who is in which, so that nothing that is cached outlives it.
    """

    def __init__(self, store: Store, clock: Clock, *, changed: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        self._of_dialects: dict[str, str] = {}

    def create(
        self,
        caller: Caller,
        name: str,
        *,
        description: str = "",
        everyone: MemberRole | None = None,
        origin: str = "native",
    ) -> Workspace:
        """Make a workspace, whose owner the caller is.

        Args:
            everyone: what all users are in it without being members; None for nothing.
            origin: the dialect that it is made through.

        Raises:
            LocalmlError: ``INVALID`` (name, description), ``CONFLICT`` when a shared one has the name.
        """
        _check(name, description)
        now = self._clock.now()

        def act(session: Session) -> Workspace:
            row = Workspace(
                id=memberships.new_id(),
                name=name,
                description=description,
                owner=caller.name,
                owner_id=caller.id,
                everyone=everyone,
                origin=origin,
                created_at=now,
                updated_at=now,
            )
            mine = col(Workspace.owner_id) == caller.id, col(Workspace.deleted_at).is_(None)
            need_few(session, Workspace, "workspaces", *mine)
            _store_named(session, row)
            memberships.add(session, row.id, _maker(session, caller), MemberRole.OWNER, now=now)
            return row

        return self._written(act)

    def ensure(self, origin: str, *, owner: Caller, everyone: MemberRole) -> str:
        """Make a dialect's own workspace, which all users are in, if there is none; returns its id.

        Its id and its name are the dialect's where they are free: one that somebody made stays as it is, and is not
        opened to all.
        """
        query = select(Workspace.id).where(Workspace.origin == origin, col(Workspace.deleted_at).is_(None))
        with self._store.read() as session:
            found = session.exec(query.order_by(col(Workspace.created_at), Workspace.id)).first()
            taken = session.get(Workspace, origin) is not None
            named = session.exec(shared_named(origin)).first() is not None
        if found is None:
            now = self._clock.now()
            row = Workspace(
                id=memberships.new_id() if taken else origin,
                name=f"{origin} ({origin})" if named else origin,
                owner=owner.name,
                owner_id=owner.id,
                everyone=everyone,
                origin=origin,
                created_at=now,
                updated_at=now,
            )
            found = row.id
            self._written(lambda session: _store_named(session, row))
        self._of_dialects[origin] = found
        return found

    def of_dialect(self, origin: str) -> str:
        """The id that :meth:`ensure` gave."""
        return self._of_dialects[origin]

    def get(self, workspace: str) -> Workspace:
        """A workspace by its id, deleted ones included; ``NOT_FOUND`` if there is none."""
        with self._store.read() as session:
            found = session.get(Workspace, workspace)
        if found is None:
            raise not_found("workspace", workspace)
        return found

    def visible(self, caller: Caller, reference: str | None = None) -> list[Workspace]:
        """The workspaces that a caller may see, by name; with a reference those of this id or name."""
        query = select(Workspace).where(col(Workspace.deleted_at).is_(None))
        if reference is not None:
            query = query.where(or_(col(Workspace.id) == reference, col(Workspace.name) == reference))
        with self._store.read() as session:
            rows = session.exec(query.order_by(col(Workspace.name), col(Workspace.id)))
            return [row for row in rows if may(caller, Action.READ, thing_of(row))]

    def shared(self) -> list[str]:
        """Ids of the workspaces that users share by being members, in order."""
        query = select(Workspace.id).where(col(Workspace.personal).is_(False), col(Workspace.everyone).is_(None))
        with self._store.read() as session:
            return list(session.exec(query.where(col(Workspace.deleted_at).is_(None)).order_by(Workspace.id)))

    def find(self, caller: Caller, reference: str) -> Workspace:
        """One of those by id or name; the caller's own goes before shared ones, those before others' own.

        Everybody may name a workspace: no name that somebody gives takes in what a user means for the own one.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``CONFLICT`` when several have the name.
        """
        rows = self.visible(caller, reference)
        for chosen in (
            [row for row in rows if row.id == reference],
            [row for row in rows if row.id == caller.workspace],
            [row for row in rows if not row.personal],
            rows,
        ):
            if len(chosen) == 1:
                return chosen[0]
        if not rows:
            raise not_found("workspace", reference)
        words = ", ".join(row.id for row in rows)
        raise LocalmlError(Code.CONFLICT, f"several workspaces are named '{reference}'; say which by id: {words}")

    def change(
        self,
        workspace: str,
        *,
        name: str | None = None,
        description: str | None = None,
        everyone: MemberRole | bool | None = False,
    ) -> Workspace:
        """Change what is given.

        Args:
            everyone: False leaves it as it is.

        Raises:
            LocalmlError: ``INVALID``, ``CONFLICT`` when the name is taken, ``WRONG_STATE`` for the name of a user's
                own workspace, which is the user's.
        """
        _check(name, description)

        def act(session: Session) -> Workspace:
            row = _live(session, workspace)
            if name is not None and name != row.name and row.personal:
                raise LocalmlError(
                    Code.WRONG_STATE, f"name: {row.owner}'s own workspace has {row.owner}'s name", field="name"
                )
            row.name = row.name if name is None else name
            row.description = row.description if description is None else description
            row.everyone = row.everyone if isinstance(everyone, bool) else everyone
            row.updated_at = self._clock.now()
            _store_named(session, row)
            return row

        return self._written(act)

    def members(self, workspace: str) -> list[Member]:
        """Who is in it, by name."""
        query = select(User.name, Membership.role, Membership.created_at).where(
            Membership.workspace == workspace, Membership.user_id == User.id
        )
        with self._store.read() as session:
            return [
                Member(name, MemberRole(role), since) for name, role, since in session.exec(query.order_by(User.name))
            ]

    def set_member(self, workspace: str, user: str, role: MemberRole) -> None:
        """Make a user a member, or change what it is there.

        Raises:
            LocalmlError: ``NOT_FOUND`` for no such user, ``WRONG_STATE`` when nobody would be its owner any more.
        """

        def act(session: Session) -> None:
            row = _live(session, workspace)
            before = _owners(session, row)
            memberships.add(session, row.id, _user(session, user), role, now=self._clock.now())
            _check_owners(session, row, before)

        self._written(act)

    def remove_member(self, workspace: str, user: str) -> None:
        """End a membership. What the user made there stays, and is the workspace's.

        Raises:
            LocalmlError: ``NOT_FOUND`` when the user is no member, ``WRONG_STATE`` when nobody would be its owner any
                more, or when it is the user's organisation.
        """

        def act(session: Session) -> None:
            row = _live(session, workspace)
            one = _user(session, user)
            found = session.get(Membership, (workspace, one.id))
            if found is None:
                raise not_found("member", user)
            if one.org == workspace:
                raise LocalmlError(Code.WRONG_STATE, f"{user} belongs to the organisation {row.name}")
            before = _owners(session, row)
            session.delete(found)
            session.flush()
            _check_owners(session, row, before)

        self._written(act)

    def delete(self, workspace: str) -> Workspace:
        """Delete a workspace that nothing is in use in. What is over stays among the records, for administrators.

        Raises:
            LocalmlError: ``WRONG_STATE`` saying what is in it; for a user's own, and for users' organisation.
        """

        def act(session: Session) -> Workspace:
            row = _live(session, workspace)
            reason = _in_use(session, row)
            if reason:
                raise LocalmlError(Code.WRONG_STATE, f"workspace {row.name} {reason}")
            row.deleted_at = row.updated_at = self._clock.now()
            session.add(row)
            return row

        return self._written(act)

    def _written(self, act: Callable[[Session], T]) -> T:
        done = self._store.write(act)
        self._changed()
        return done


def _check(name: str | None, description: str | None) -> None:
    if name is not None and not NAME.fullmatch(name):
        raise invalid("name", f"{name!r} must be 1 to 64 letters, digits, spaces and . _ ~ -, a letter or digit first")
    if description is not None and len(description) > MAX_DESCRIPTION:
        raise invalid("description", f"must be at most {MAX_DESCRIPTION} characters, not {len(description)}")


def _live(session: Session, workspace: str) -> Workspace:
    row = session.get(Workspace, workspace)
    if row is None or row.deleted_at is not None:
        raise not_found("workspace", workspace)
    return row


def _user(session: Session, name: str) -> User:
    found = session.exec(memberships.living(name)).first()
    if found is None:
        raise not_found("user", name)
    return found


def _maker(session: Session, caller: Caller) -> User:
    """The caller's row: by number, since the name may be another user's by now."""
    found = session.get(User, caller.id)
    if found is None or found.removed_at is not None:
        raise not_found("user", caller.name)
    return found


def _store_named(session: Session, row: Workspace) -> None:
    name = row.name
    session.add(row)
    try:
        session.flush()
    except IntegrityError:
        raise LocalmlError(Code.CONFLICT, f"name: a workspace '{name}' exists", field="name") from None


def _owners(session: Session, row: Workspace) -> frozenset[int]:
    query = select(Membership.user_id).where(Membership.workspace == row.id, Membership.role == MemberRole.OWNER)
    return frozenset(session.exec(query))


def _check_owners(session: Session, row: Workspace, before: frozenset[int]) -> None:
    """A workspace that had an owner keeps one. Administrators look after those that have none: a dialect's own, an
    organisation without an administrator, and what a user who was removed has left."""
    now = _owners(session, row)
    if row.personal and row.owner_id in before - now:
        raise LocalmlError(Code.WRONG_STATE, f"{row.owner} stays owner of the own workspace")
    if before and not now and row.everyone is None:
        raise LocalmlError(Code.WRONG_STATE, f"workspace {row.name} would have no owner")


def _in_use(session: Session, row: Workspace) -> str:
    """Why it cannot be deleted; empty when it can."""
    if row.personal:
        return f"is {row.owner}'s own"
    if session.exec(memberships.living().where(User.org == row.id)).first() is not None:
        return "is the organisation of users"
    found = [
        f"{number} {_plural(word) if number > 1 else word}"
        for word, query in (
            ("workload", _count(Workload, row).where(col(Workload.state).not_in(TERMINAL))),
            ("stopped notebook or TensorBoard", _stopped(row)),
            ("study", _count(Study, row).where(col(Study.ended_at).is_(None))),
            ("endpoint", _count(Endpoint, row).where(col(Endpoint.closed_at).is_(None))),
            ("model", _count(Model, row).where(col(Model.deleted_at).is_(None))),
            ("bucket", _count(Bucket, row)),
        )
        if (number := session.exec(query).one())
    ]
    return f"holds {' and '.join(found)}" if found else ""


def _plural(word: str) -> str:
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def _stopped(row: Workspace) -> SelectOfScalar[int]:
    """How many wait to be started again."""
    query = select(func.count()).select_from(Instance).where(Instance.workspace == row.id)
    over = Workload.id == Instance.workload_id, col(Workload.deleted_at).is_(None), col(Workload.state).in_(TERMINAL)
    return query.where(*over)


def _count(kind: type[Workload | Study | Endpoint | Model | Bucket], row: Workspace) -> SelectOfScalar[int]:
    return select(func.count()).select_from(kind).where(kind.workspace == row.id)
