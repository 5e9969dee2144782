"""Who may do what: nouns, actions, roles, and the table of what each action asks for.

The table is the whole policy. :func:`localml.core.people.allow.allow` reads it, and nothing else decides.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto


class ThingKind(StrEnum):
    """What something can be done to."""

    WORKLOAD = "workload"  # jobs, notebooks, TensorBoards, replicas
    ENDPOINT = "endpoint"
    MODEL = "model"
    STUDY = "study"
    ALGORITHM = "algorithm"  # one that was installed
    WORKSPACE = "workspace"
    POOL = "pool"
    BUCKET = "bucket"  # and who may at what is in it
    OBJECT = "object"  # what is in a bucket
    USER = "user"
    TOKEN = "token"
    MACHINE = "machine"  # GPUs, images, backups, the platform's own events


class Action(StrEnum):
    """What is done."""

    READ = "read"  # show it, its output, events and series
    USE = "use"  # send it requests; put something into it
    CREATE = "create"  # make one
    CHANGE = "change"
    REPORT = "report"  # add to its series
    STOP = "stop"  # and start again
    DELETE = "delete"
    ENTER = "enter"  # open a shell in it, read the tokens that open it
    SHARE = "share"  # let others at it: members of a workspace, endpoints without tokens
    ADMINISTER = "administer"  # pass the rules that hold for all


class MemberRole(StrEnum):
    """What a user is in a workspace, the least first; each may do all that those before it may."""

    VIEWER = "viewer"  # sees everything, uses endpoints
    MEMBER = "member"  # makes things, and changes those that are its own
    EDITOR = "editor"  # changes what others made, too
    OWNER = "owner"  # says who is a member

    @property
    def rank(self) -> int:
        """Its place in the order, from 0."""
        return _ORDER.index(self)

    def covers(self, other: MemberRole) -> bool:
        """Whether it may do all that ``other`` may."""
        return self.rank >= other.rank


_ORDER = tuple(MemberRole)


class Need(Enum):
    """What an action asks for. Administrators of the installation have all of it."""

    ANYBODY = auto()  # any user
    GRANTED = auto()  # a grant of the thing's own, where it has such (a virtual cluster's)
    SELF = auto()  # to be its owner, whatever the workspace
    VIEWER = auto()  # at least this role in its workspace
    MEMBER = auto()
    EDITOR = auto()
    OWNER = auto()
    OWN = auto()  # at least MEMBER, and to be its owner
    OWN_OR_EDITOR = auto()
    OWN_OR_OWNER = auto()
    ADMIN = auto()


def _needs(default: Need, **needs: Need) -> dict[Action, Need]:
    return {action: needs.get(action.value, default) for action in Action}


_IN_WORKSPACES = _needs(
    Need.ADMIN,
    read=Need.VIEWER,
    use=Need.VIEWER,
    create=Need.MEMBER,
    change=Need.OWN_OR_EDITOR,
    report=Need.OWN_OR_EDITOR,
    stop=Need.OWN_OR_EDITOR,
    delete=Need.OWN_OR_EDITOR,
    enter=Need.OWN,
    share=Need.OWN_OR_OWNER,
)

NEEDS: dict[ThingKind, dict[Action, Need]] = {
    ThingKind.WORKLOAD: _IN_WORKSPACES,
    ThingKind.ENDPOINT: _IN_WORKSPACES,
    ThingKind.MODEL: _IN_WORKSPACES,
    ThingKind.STUDY: _IN_WORKSPACES,
    ThingKind.ALGORITHM: _needs(
        Need.ADMIN, read=Need.ANYBODY, use=Need.ANYBODY, create=Need.ANYBODY, change=Need.SELF, delete=Need.SELF
    ),
    ThingKind.WORKSPACE: _needs(
        Need.ADMIN,
        read=Need.VIEWER,
        use=Need.MEMBER,
        create=Need.ANYBODY,
        change=Need.OWNER,
        delete=Need.OWNER,
        share=Need.OWNER,
    ),
    ThingKind.POOL: _needs(Need.ADMIN, read=Need.ANYBODY, use=Need.GRANTED),
    ThingKind.BUCKET: _needs(
        Need.ADMIN,
        read=Need.VIEWER,
        use=Need.VIEWER,
        create=Need.MEMBER,
        change=Need.OWN_OR_OWNER,
        delete=Need.OWN_OR_OWNER,
        share=Need.OWN_OR_OWNER,
    ),
    ThingKind.OBJECT: _needs(
        Need.ADMIN,
        read=Need.VIEWER,
        use=Need.VIEWER,
        create=Need.MEMBER,
        change=Need.MEMBER,
        delete=Need.MEMBER,
    ),
    ThingKind.USER: _needs(Need.ADMIN, read=Need.SELF, change=Need.SELF),
    ThingKind.TOKEN: _needs(Need.ADMIN, read=Need.SELF, create=Need.SELF, delete=Need.SELF),
    ThingKind.MACHINE: _needs(Need.ADMIN, read=Need.ANYBODY),
}
"""noun -> action -> what it asks for. Total; ``tests/core/people/test_allow.py`` proves that it is."""

LEAST_PRIORITY, USERS_PRIORITY, MOST_PRIORITY = -1000, 100, 1000
"""What orders the queue: up to the second for every user, up to the third for administrators. The queue is one for all
workspaces, and everybody owns one: so a role in a workspace raises nobody above others."""

ROLE_OF: dict[Need, MemberRole] = {
    Need.VIEWER: MemberRole.VIEWER,
    Need.MEMBER: MemberRole.MEMBER,
    Need.EDITOR: MemberRole.EDITOR,
    Need.OWNER: MemberRole.OWNER,
    Need.OWN_OR_EDITOR: MemberRole.EDITOR,
    Need.OWN_OR_OWNER: MemberRole.OWNER,
}
"""The role that alone satisfies a need."""
OWNERS: frozenset[Need] = frozenset({Need.OWN, Need.OWN_OR_EDITOR, Need.OWN_OR_OWNER})
"""What a member has of the things that are its own."""
