"""The one question of rights: may this caller do this to that?

Pure: a caller (with roles and scope), an action, a thing, and the table :data:`localml.core.people.rights.NEEDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.people.identity import Caller
from localml.core.people.rights import (
    LEAST_PRIORITY,
    MOST_PRIORITY,
    NEEDS,
    OWNERS,
    ROLE_OF,
    USERS_PRIORITY,
    Action,
    MemberRole,
    Need,
    ThingKind,
)


class InWorkspace(Protocol):
    """A row of something that is in a workspace."""

    id: int | None
    name: str
    owner: str
    owner_id: int
    workspace: str


@dataclass(frozen=True, slots=True)
class Thing:
    """What is asked about.

    Attributes:
        id: None for one that is to be made.
        called: what the caller called it, which is what an answer says does not exist.
        owner: number of the user whose it is, if it is anybody's; a name may have been another user's before.
        workspace: id of the one that it is in, if it is in any; a workspace is in itself.
        granted: whether a grant of its own lets the caller use it; True for what knows no grants.
        owner_name: what a refusal calls the owner.
        everyone: what all users are to it, members of its workspace or not (a bucket's).
    """

    noun: ThingKind
    id: str | None = None
    called: str = ""
    owner: int | None = None
    workspace: str | None = None
    granted: bool = True
    owner_name: str = ""
    everyone: MemberRole | None = None

    @classmethod
    def of(cls, noun: ThingKind, row: InWorkspace, called: str | None = None) -> Thing:
        """A row as a thing."""
        name = row.name if called is None else called
        return cls(noun, str(row.id), name, row.owner_id, row.workspace, owner_name=row.owner)

    @classmethod
    def of_user(cls, caller: Caller, user: str, noun: ThingKind = ThingKind.USER) -> Thing:
        """A user by name, or what is a user's; judged before it is looked up whether there is such a user at all."""
        return cls(noun, user, user, caller.id if user == caller.name else None, owner_name=user)


MACHINE = Thing(ThingKind.MACHINE, "local", "local")


def allow(caller: Caller, action: Action, thing: Thing) -> None:
    """Return when the caller may.

    Raises:
        LocalmlError: ``NOT_FOUND`` for what the caller may not even see, as if it did not exist; ``FORBIDDEN`` for
            what is seen, or is to be made where the caller sees what is there.
    """
    if may(caller, action, thing):
        return
    if not _sees(caller, action, thing):
        if action is Action.CREATE and thing.noun is not ThingKind.WORKSPACE:
            raise not_found(ThingKind.WORKSPACE, thing.workspace)
        raise not_found(thing.noun, thing.called)
    raise LocalmlError(Code.FORBIDDEN, _refusal(caller, action, thing))


def may_add_version(caller: Caller, model: InWorkspace) -> None:
    """:func:`allow` to register another version of a model that there is, which changes what its name stands for."""
    allow(caller, Action.CHANGE, Thing.of(ThingKind.MODEL, model))


def need_priority(caller: Caller, wanted: int, before: int | None = None) -> None:
    """Refuse a priority in the queue that is beyond what a caller may give.

    Args:
        before: what it has already, given by whomever; that may stay.

    Raises:
        LocalmlError: ``INVALID`` naming ``priority`` and the range.
    """
    administers = may(caller, Action.ADMINISTER, MACHINE)
    most = MOST_PRIORITY if administers else USERS_PRIORITY
    if wanted == before or LEAST_PRIORITY <= wanted <= most:
        return
    more = "" if administers else "; more is for administrators"
    raise invalid("priority", f"must be between {LEAST_PRIORITY} and {most}, not {wanted}{more}")


def may(caller: Caller, action: Action, thing: Thing) -> bool:
    """Whether the caller may: the roles say so, and the token's scope leaves it in."""
    return caller.scope.covers(action, thing.noun, thing.id, thing.workspace) and _has(
        caller, NEEDS[thing.noun][action], thing
    )


def reach(caller: Caller, noun: ThingKind) -> frozenset[str] | None:
    """The workspaces whose things of this kind a caller may list; None for all there are.

    Raises:
        LocalmlError: ``FORBIDDEN`` when the token's scope leaves lists out.
    """
    if not caller.scope.has_right(Action.READ, noun) or caller.scope.thing is not None:
        raise LocalmlError(Code.FORBIDDEN, f"the scope of this token leaves out lists of {noun}s")
    return places(caller)


def places(caller: Caller) -> frozenset[str] | None:
    """The workspaces that a name is looked for in; None for all there are. What is found is still to be allowed."""
    only = caller.scope.workspace
    if caller.admin:
        return None if only is None else frozenset({only})
    return frozenset(caller.roles) if only is None else frozenset({only}) & caller.roles.keys()


def _has(caller: Caller, need: Need, thing: Thing) -> bool:
    if caller.admin or need is Need.ANYBODY:
        return True
    if need is Need.GRANTED:
        return thing.granted
    owns = thing.owner is not None and thing.owner == caller.id
    if need is Need.SELF:
        return owns
    role = _role(caller, thing)
    if role is None:
        return False
    alone = ROLE_OF.get(need)
    return (alone is not None and role.covers(alone)) or (need in OWNERS and owns and role.covers(MemberRole.MEMBER))


def _role(caller: Caller, thing: Thing) -> MemberRole | None:
    """The better one of what the caller is in the thing's workspace, and of what everyone is to it."""
    known = [one for one in (caller.roles.get(thing.workspace or ""), thing.everyone) if one is not None]
    return max(known, key=lambda one: one.rank, default=None)


def _sees(caller: Caller, action: Action, thing: Thing) -> bool:
    if NEEDS[thing.noun][Action.READ] is Need.SELF:
        return True  # whose it is was said by the caller; a refusal before it is looked up tells nothing
    if action is not Action.CREATE or thing.everyone is not None:
        return may(caller, Action.READ, thing)
    if thing.workspace is None:
        return True
    place = Thing(ThingKind.WORKSPACE, thing.workspace, workspace=thing.workspace)
    return _has(caller, Need.VIEWER, place) and caller.scope.workspace in (None, thing.workspace)


def _refusal(caller: Caller, action: Action, thing: Thing) -> str:
    need = NEEDS[thing.noun][action]
    words = f"{caller.name} may not {action} this {thing.noun}"
    if _has(caller, need, thing):
        return f"{words} with this token: its scope leaves that out"
    return f"{words}: {_WANTED[need].format(owner=thing.owner_name)}"


_WANTED: dict[Need, str] = {
    Need.ANYBODY: "",
    Need.GRANTED: "it was not granted",
    Need.SELF: "only {owner} and administrators may",
    Need.VIEWER: "that takes a member of its workspace",
    Need.MEMBER: "that takes the role member in its workspace",
    Need.EDITOR: "that takes the role editor in its workspace",
    Need.OWNER: "that takes the role owner in its workspace",
    Need.OWN: "only {owner} and administrators may",
    Need.OWN_OR_EDITOR: "only {owner}, editors of its workspace and administrators may",
    Need.OWN_OR_OWNER: "only {owner}, owners of its workspace and administrators may",
    Need.ADMIN: "only administrators may",
}
