"""Workspaces for tests of parts that know no users."""

from __future__ import annotations

from localml.core.people.identity import ADMIN
from localml.core.people.rights import MemberRole
from localml.core.people.tables import Workspace
from localml.core.ports import Store
from localml.objects import BucketsFor
from localml.platform import Platform


def add_workspaces(store: Store, *ids: str, owner: str = "me") -> None:
    """Make workspaces of these ids, which are their names, too."""
    rows = [Workspace(id=one, name=one, owner=owner, owner_id=1, created_at=1.0, updated_at=1.0) for one in ids]
    store.write(lambda session: session.add_all(rows))


def tree_of(platform: Platform, user: str = ADMIN) -> BucketsFor:
    """The objects that a user may use."""
    return platform.buckets_for(platform.identity.user(user))


def common_bucket(platform: Platform, name: str) -> None:
    """Make a bucket that every user may write, if there is none."""
    if platform.bucket_records.find(name) is None:
        tree_of(platform).create(name, everyone=MemberRole.MEMBER)
