"""Buckets as what belongs to somebody: which there are, in which workspace, open to whom.

The files are not looked at here. Whether the caller may is asked before, by
:func:`localml.core.people.allow.allow`; :class:`localml.objects.access.BucketsFor` does so for everything that names an
object.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from sqlmodel import Session, col, select

from localml.core.buckets.tables import Bucket
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people import memberships
from localml.core.people.allow import Thing, may, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, MemberRole, ThingKind
from localml.core.ports import Store
from localml.core.rows import need_few
from localml.core.sql import read_rows

_COLUMNS = tuple(Bucket.model_fields)


def thing_of(row: Bucket, called: str | None = None) -> Thing:
    """A bucket itself as what rights are asked about."""
    return replace(Thing.of(ThingKind.BUCKET, row, called), id=row.name, everyone=row.everyone)


def object_of(row: Bucket, uri: str) -> Thing:
    """What is in a bucket as what rights are asked about."""
    return replace(Thing.of(ThingKind.OBJECT, row, uri), id=uri, everyone=row.everyone)


def taken(name: str, field: str, advice: str = "") -> LocalmlError:
    """A bucket cannot be made: names are one space for all, so that much does everybody learn."""
    return LocalmlError(Code.CONFLICT, f"{field}: a bucket '{name}' exists{advice}", field=field)


class BucketRecords:
    """The service over whose buckets are whose."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def find(self, name: str) -> Bucket | None:
        """The bucket of this name; None if there is none."""
        return self._one("name = ?", name)

    def get(self, number: int) -> Bucket | None:
        """The bucket with this id; None when there is none any more."""
        return self._one("id = ?", number)

    def _one(self, where: str, value: str | int) -> Bucket | None:
        """Each submission asks, several times."""
        with self._store.read_raw() as connection:
            found = next(iter(list(read_rows(connection, Bucket, _COLUMNS, where, (value,)))), None)
        return None if found is None else Bucket(**dict(zip(_COLUMNS, found, strict=True)))

    def visible(self, caller: Caller) -> list[Bucket]:
        """Those that a caller may read, by name.

        Raises:
            LocalmlError: ``FORBIDDEN`` when the token's scope leaves lists out.
        """
        reach(caller, ThingKind.BUCKET)
        return [row for row in self.all() if may(caller, Action.READ, thing_of(row))]

    def all(self) -> list[Bucket]:
        """All there are, by name."""
        with self._store.read() as session:
            return list(session.exec(select(Bucket).order_by(col(Bucket.name))))

    def of(self, workspaces: Collection[str]) -> list[Bucket]:
        """Those of these workspaces, and those that are open to everyone, by name."""
        query = select(Bucket).where(col(Bucket.workspace).in_(list(workspaces)) | col(Bucket.everyone).is_not(None))
        with self._store.read() as session:
            return list(session.exec(query.order_by(col(Bucket.name))))

    def create(
        self, name: str, caller: Caller, workspace: str, *, everyone: MemberRole | None = None, field: str = "name"
    ) -> Bucket:
        """Make a bucket in a workspace.

        Raises:
            LocalmlError: ``CONFLICT`` when the name is taken, by whomever; ``NOT_FOUND`` for no such workspace.
        """

        def act(session: Session) -> Bucket:
            if _named(session, name) is not None:
                raise taken(name, field)
            return self._made(session, name, caller, workspace, everyone)

        return self._store.write(act)

    def ensure(self, name: str, caller: Caller, workspace: str) -> Bucket:
        """The bucket of this name, whosever it is; made if there is none."""
        return self._store.write(
            lambda session: _named(session, name) or self._made(session, name, caller, workspace, None)
        )

    def _made(self, session: Session, name: str, caller: Caller, workspace: str, everyone: MemberRole | None) -> Bucket:
        memberships.need_live(session, workspace)
        need_few(session, Bucket, "buckets", col(Bucket.owner_id) == caller.id)
        row = Bucket(
            name=name,
            workspace=workspace,
            owner=caller.name,
            owner_id=caller.id,
            everyone=everyone,
            created_at=self._clock.now(),
        )
        session.add(row)
        session.flush()
        return row

    def change(self, name: str, *, workspace: str | None = None, everyone: MemberRole | bool | None = False) -> Bucket:
        """Move a bucket to another workspace, or say what all users are to it.

        Args:
            workspace: id of the new one; None leaves it.
            everyone: False leaves it as it is.
        """

        def act(session: Session) -> Bucket:
            row = _need(session, name)
            if workspace is not None:
                memberships.need_live(session, workspace)
                row.workspace = workspace
            row.everyone = row.everyone if isinstance(everyone, bool) else everyone
            session.add(row)
            session.flush()
            return row

        return self._store.write(act)

    def delete(self, name: str) -> None:
        """Forget whose a bucket was; what is in it is deleted by who asks."""
        self._store.write(lambda session: session.delete(_need(session, name)))

    def adopt(self, names: Iterable[str], owner: Caller, *, everyone: MemberRole | None) -> None:
        """Give folders that are nobody's yet to a user's own workspace."""
        for name in names:
            self.create(name, owner, owner.workspace, everyone=everyone)


def _named(session: Session, name: str) -> Bucket | None:
    return session.exec(select(Bucket).where(Bucket.name == name)).first()


def _need(session: Session, name: str) -> Bucket:
    row = _named(session, name)
    if row is None:
        raise not_found("bucket", name)
    return row
