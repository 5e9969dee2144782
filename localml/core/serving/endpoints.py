"""Endpoints as users and dialects handle them: create, roll out, scale, stop, find, and what happened to them.

Calls here record what is wanted, and that the endpoint is on its way there. Everything else is moved by the control
plane alone (``localml/control/serving/controller.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from localml.core import rows
from localml.core.capacity import pools
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.events.records import Events, record_event
from localml.core.events.tables import Event
from localml.core.numerals import whole
from localml.core.people import memberships
from localml.core.people.allow import need_priority
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.registry.tables import ModelVersion
from localml.core.serving.records import EndpointFull, Only, full, gateway_ports
from localml.core.serving.shares import give_share, give_shares
from localml.core.serving.specs import EndpointSpec, EndpointState, VariantSpec, VariantState
from localml.core.serving.tables import Endpoint, Variant, VariantSample
from localml.core.serving.variants import (
    ROUTE,
    ROUTE_WORDS,
    NewVariant,
    Wanted,
    add_variants,
    check_set,
    give_up_rolling,
    is_same,
    kept_and_new,
    label,
    live_variants,
    need_few,
    newest_batch,
    revived,
    who_asks,
)
from localml.core.subjects import Subject
from localml.core.work.reservations import reserved_cores
from localml.core.work.specs import NAME
from localml.core.work.states import Desired, Kind


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint to serve.

    Attributes:
        route: its name at the gateway, unique over all workspaces; ``name`` when empty.
        refuse_over_quota: refuse at once instead of waiting when a pool's limit is short.
    """

    name: str
    variants: tuple[NewVariant, ...]
    caller: Caller
    spec: EndpointSpec = field(default_factory=EndpointSpec)
    dialect: str = "native"
    workspace: str | None = None
    pool: str = pools.ROOT
    route: str = ""
    request: Any = None
    refuse_over_quota: bool = False


class Endpoints:
    """The service over endpoints.

    Args:
        check: asked before something is stored (spec, version, replicas, who asks if it has that not yet); raises when
            that many can never run here.
        nudge: wakes the control plane after a commit.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        check: Callable[[VariantSpec, ModelVersion | None, int, Caller | None], None] = lambda *_: None,
        admits: Callable[[Caller], None] = lambda _: None,
        nudge: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._check = check
        self._admits = admits
        self._nudge = nudge

    # -- changes ---------------------------------------------------------------------------------

    def create(self, new: NewEndpoint) -> EndpointFull:
        """Record an endpoint; it is on disk when this returns, and ready when its state says so.

        Raises:
            LocalmlError: ``INVALID`` (name, variants), ``CONFLICT`` (name or route taken), ``NOT_FOUND`` (a model
                version), ``CAPACITY`` or ``UNAVAILABLE`` from the check, ``QUOTA`` (only with ``refuse_over_quota``).
        """
        route = new.route or new.name
        if not NAME.fullmatch(new.name):
            raise invalid("name", f"{new.name!r} must be 1 to 128 letters, digits, '.', '_', '~' or '-'")
        if not ROUTE.fullmatch(route):
            field = "route" if new.route else "name"
            raise invalid(field, f"{route!r} {ROUTE_WORDS}")
        need_priority(new.caller, new.spec.priority)
        check_set(new.variants, new.spec.scaling.maximum)
        self._admits(new.caller)
        wanted = self._all_checked(new.variants, new.spec, new.caller)

        def act(session: Session) -> int:
            memberships.need_live(session, new.workspace or new.caller.workspace)
            mine = col(Endpoint.owner_id) == new.caller.id, col(Endpoint.deleted_at).is_(None)
            rows.need_few(session, Endpoint, "endpoints", *mine)
            pools.ensure(session, new.pool)
            if new.refuse_over_quota:
                _check_quota(session, new)
            if new.spec.gateway_port in gateway_ports(session):
                words = f"gateway_port: {new.spec.gateway_port} is another endpoint's"
                raise LocalmlError(Code.CONFLICT, words, field="gateway_port")
            row = self._endpoint_row(session, new, route)
            add_variants(session, row, wanted, self._clock.now())
            words = f"created by {new.caller.name} through the {new.dialect} API"
            self._tell(session, row, "Created", words)
            return row.id or 0

        return self._written(act)

    def _endpoint_row(self, session: Session, new: NewEndpoint, route: str) -> Endpoint:
        now, scaling = self._clock.now(), new.spec.scaling
        row = Endpoint(
            dialect=new.dialect,
            workspace=new.workspace or new.caller.workspace,
            owner=new.caller.name,
            owner_id=new.caller.id,
            name=new.name,
            route=route,
            pool=new.pool,
            spec=new.spec.model_dump_json(exclude_defaults=True),
            request=new.request,
            scale=scaling.clamp(scaling.minimum),
            active_at=now,
            created_at=now,
            updated_at=now,
        )
        session.add(row)
        try:
            session.flush()
        except IntegrityError:
            raise LocalmlError(
                Code.CONFLICT, f"name: '{new.name}' is already used by an endpoint", field="name"
            ) from None
        return row

    def rollout(self, endpoint_id: int, caller: Caller, new: NewVariant, *, keep_settings: bool = True) -> EndpointFull:
        """Bring up another version, which takes ``weight`` percent once it is ready; with 100 it replaces all others.

        A version that serves already with the same settings just gets another share. One that is still being brought
        up by an earlier rollout is given up.

        Args:
            keep_settings: take resources and options from the newest version, one that serves if there is one.
        """
        if not 0 < new.weight <= 100:
            raise invalid("weight", f"must be more than 0 and at most 100, not {new.weight:g}")
        if new.recreate and new.weight < 100:
            raise invalid("recreate", "leaves no other version, so the weight must be 100")
        version = self._checked(new, 1, who_asks(caller, new, self.get(endpoint_id)))

        def act(session: Session) -> int:
            row = self._live_row(session, endpoint_id)
            live = live_variants(session, endpoint_id)
            last = live[-1:] or newest_batch(session, endpoint_id)[-1:]
            wanted = new
            if keep_settings and last:
                wanted = replace(new, spec=VariantSpec.model_validate_json(last[0].spec))
            serving = self._begin(session, row, live)
            words = f"{caller.name} asked for {label(version, wanted.spec)} with {new.weight:g} %"
            self._tell(session, row, "RolloutRequested", words)
            same = next((one for one in serving if is_same(one, wanted)), None)
            if same is not None and same.state is VariantState.SERVING:
                give_share(session, serving, same, new.weight)
            else:
                add_variants(session, row, [(wanted, version)], self._clock.now())
            return endpoint_id

        return self._written(act)

    def put_variants(self, endpoint_id: int, caller: Caller, variants: Sequence[NewVariant]) -> EndpointFull:
        """Replace all versions at once, such as two with 90 and 10 percent.

        Those that serve already with the same settings stay, and have their new share when the others have theirs.
        The others are brought up beside what serves, and take over together once all of them are ready; if one fails,
        none of them stays. What is left out ends then. One that is still being brought up is given up.

        Raises:
            LocalmlError: ``INVALID`` naming ``variants`` (weights, names, two that are the same) or ``recreate``, and
                what :meth:`create` raises for a version.
        """
        check_set(variants, (found := self.get(endpoint_id)).spec.scaling.maximum)
        wanted = self._all_checked(variants, found.spec, caller, found)

        def act(session: Session) -> int:
            row = self._live_row(session, endpoint_id)
            live = live_variants(session, endpoint_id)
            kept, new = kept_and_new(live, wanted)
            if kept and any(one.recreate for one in variants):
                raise invalid("recreate", "leaves no other version, and one of these serves already")
            serving = self._begin(session, row, live)
            shares = ", ".join(f"{label(version, one.spec)} with {one.weight:g} %" for one, version in wanted)
            self._tell(session, row, "RolloutRequested", f"{caller.name} asked for {shares}")
            if new:
                add_variants(session, row, new, self._clock.now(), kept)
            else:
                give_shares(session, serving, kept)
            return endpoint_id

        return self._written(act)

    def _begin(self, session: Session, row: Endpoint, live: Sequence[Variant]) -> list[Variant]:
        """A rollout begins; returns what serves until it has succeeded."""
        serving = give_up_rolling(session, live)
        if row.desired is Desired.RUN:
            row.state = EndpointState.UPDATING if serving else EndpointState.STARTING
        return serving

    def set_scaling(self, endpoint_id: int, caller: Caller, **limits: Any) -> EndpointFull:
        """Change limits of :class:`localml.core.serving.specs.Scaling` (``minimum``, ``maximum``, ``target`` ...)."""
        live = self.get(endpoint_id).live()
        if live and limits.get("minimum"):
            self._check(live[0].spec, live[0].version, int(limits["minimum"]), None)

        def act(session: Session) -> int:
            row = self._live_row(session, endpoint_id)
            spec = EndpointSpec.stored(row.spec)
            merged = {**spec.scaling.model_dump(), **{key: value for key, value in limits.items() if value is not None}}
            try:
                scaling = type(spec.scaling).model_validate(merged)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                field = ".".join(["scaling", *(str(part) for part in first["loc"])])
                raise invalid(field, first["msg"].removeprefix("Value error, ")) from error
            need_few([one.spec for one in live], scaling.maximum, "maximum")
            row.spec = spec.model_copy(update={"scaling": scaling}).model_dump_json(exclude_defaults=True)
            if row.scale > 0 or scaling.minimum > 0:
                wanted = scaling.clamp(row.scale)
                if wanted > row.scale and row.desired is Desired.RUN:
                    row.state = EndpointState.UPDATING if row.scale else EndpointState.STARTING
                row.scale = wanted
            words = f"{caller.name} asked for {scaling.minimum} to {scaling.maximum} replicas"
            self._tell(session, row, "ScaleRequested", words)
            return endpoint_id

        return self._written(act)

    def stop(self, endpoint_id: int, caller: Caller) -> EndpointFull:
        """Let its replicas finish and end; the endpoint stays and can be started again."""
        return self._want(endpoint_id, caller, Desired.STOP, "StopRequested", "stopped")

    def start(self, endpoint_id: int, caller: Caller) -> EndpointFull:
        """Start it again. A version that failed is tried again when no other one serves."""
        return self._want(endpoint_id, caller, Desired.RUN, "StartRequested", "started")

    def _want(self, endpoint_id: int, caller: Caller, desired: Desired, reason: str, verb: str) -> EndpointFull:
        def act(session: Session) -> int:
            row = self._live_row(session, endpoint_id)
            if desired is Desired.RUN:
                self._revive(session, row)
                row.scale = max(row.scale, 1)
                row.active_at = self._clock.now()
            if row.desired is not desired:
                row.desired = desired
                row.state = EndpointState.STARTING if desired is Desired.RUN else EndpointState.STOPPING
                self._tell(session, row, reason, f"{verb} by {caller.name}")
            session.add(row)
            return endpoint_id

        return self._written(act)

    def _revive(self, session: Session, row: Endpoint) -> None:
        if live_variants(session, row.id or 0):
            return
        if batch := newest_batch(session, row.id or 0):
            row.state = EndpointState.STARTING
            add_variants(session, row, revived(session, batch), self._clock.now())

    def delete(self, endpoint_id: int, caller: Caller) -> EndpointFull:
        """Hide it after its replicas have finished; its name is free at once."""

        def act(session: Session) -> int:
            row = self._live_row(session, endpoint_id)
            row.deleted_at = self._clock.now()
            self._tell(session, row, "Deleted", f"deleted by {caller.name}")
            return endpoint_id

        return self._written(act)

    def gateway_ports(self) -> set[int]:
        """Ports of the gateway that endpoints have to themselves."""
        with self._store.read() as session:
            return gateway_ports(session)

    def _written(self, act: Callable[[Session], int]) -> EndpointFull:
        number = self._store.write(act)
        self._nudge()
        return self.get(number)

    def _all_checked(
        self, variants: Sequence[NewVariant], spec: EndpointSpec, caller: Caller, found: EndpointFull | None = None
    ) -> list[Wanted]:
        count = spec.scaling.clamp(spec.scaling.minimum)
        return [(one, self._checked(one, _replicas(one, count), who_asks(caller, one, found))) for one in variants]

    def _checked(self, new: NewVariant, replicas: int, by: Caller | None) -> ModelVersion | None:
        version = None
        if new.model_version_id is not None:
            with self._store.read() as session:
                version = session.get(ModelVersion, new.model_version_id)
            if version is None or version.deleted_at is not None:
                raise not_found("model version", new.model_version_id)
            if not version.runtime and not new.spec.image:
                raise invalid("model", f"no runtime serves the format '{version.format}'; give an image that does")
        elif not new.spec.image:
            raise invalid("model", "give a registered model, or an image")
        self._check(new.spec, version, replicas, by)
        return version

    def _live_row(self, session: Session, endpoint_id: int) -> Endpoint:
        row = session.get(Endpoint, endpoint_id)
        if row is None or row.deleted_at is not None:
            raise not_found("endpoint", endpoint_id)
        return row

    def _tell(self, session: Session, row: Endpoint, reason: str, words: str) -> None:
        row.updated_at = self._clock.now()
        session.add(row)
        session.flush()
        record_event(session, Subject.endpoint(row.id or 0), reason, words, now=row.updated_at)

    # -- questions -------------------------------------------------------------------------------

    def get(self, endpoint_id: int) -> EndpointFull:
        """An endpoint by its id, deleted ones included."""
        with self._store.read() as session:
            row = session.get(Endpoint, endpoint_id)
            if row is None:
                raise not_found("endpoint", endpoint_id)
            return full(session, [row])[0]

    def find(
        self, reference: str, workspaces: Collection[str] | None = None, *, prefer: str | None = None, only: Only = bool
    ) -> EndpointFull:
        """A live endpoint of these workspaces (None: of all) by name, route or id.

        Args:
            prefer: a workspace whose endpoint goes before those of others.
            only: whether an endpoint is there for whoever asks.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``CONFLICT`` when several have the name.
        """
        found = [one for one in self.list(workspaces) if only(one.row)]
        same = [one for one in found if one.row.route == reference and one.row.name == reference]
        same = same or [one for one in found if reference in (one.row.name, one.row.route)]
        if not same and (number := whole(reference)) is not None:
            same = [one for one in found if one.row.id == number]
        same = [one for one in same if one.row.workspace == prefer] or same
        if not same:
            raise not_found("endpoint", reference)
        if len(same) > 1:
            words = ", ".join(f"{one.row.id} ({one.row.dialect}, workspace {one.row.workspace})" for one in same)
            raise LocalmlError(Code.CONFLICT, f"several endpoints are named '{reference}'; say which by id: {words}")
        return same[0]

    def events(self, endpoint_id: int, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events of an endpoint, oldest first."""
        return Events(self._store).of(Subject.endpoint(endpoint_id), after=after, limit=limit)

    def samples(self, endpoint_id: int, *, since: float | None = None) -> Mapping[str, list[VariantSample]]:
        """Variant's name -> what it did, in order of time."""
        with self._store.read() as session:
            names = {
                one.id: one.name for one in session.exec(select(Variant).where(Variant.endpoint_id == endpoint_id))
            }
            query = select(VariantSample).where(col(VariantSample.variant_id).in_(list(names)))
            if since is not None:
                query = query.where(col(VariantSample.at) >= int(since * 1000))
            found: dict[str, list[VariantSample]] = {name: [] for name in names.values()}
            for row in session.exec(query.order_by(col(VariantSample.at))):
                found[names[row.variant_id]].append(row)
        return found

    def list(self, workspaces: Collection[str] | None = None, dialect: str | None = None) -> list[EndpointFull]:
        """All endpoints (of these workspaces) that are not deleted, by name."""
        query = select(Endpoint).where(col(Endpoint.deleted_at).is_(None))
        if workspaces is not None:
            query = query.where(col(Endpoint.workspace).in_(workspaces))
        if dialect is not None:
            query = query.where(Endpoint.dialect == dialect)
        with self._store.read() as session:
            return full(session, list(session.exec(query.order_by(col(Endpoint.name), col(Endpoint.id)))))


def _replicas(one: NewVariant, count: int) -> int:
    """How many replicas a variant will have when there are ``count`` in all."""
    return one.spec.replicas if one.spec.replicas is not None else math.ceil(count * one.weight / 100)


def _check_quota(session: Session, new: NewEndpoint) -> None:
    count = new.spec.scaling.clamp(new.spec.scaling.minimum)
    found = [(_replicas(one, count), one.spec.resources) for one in new.variants]
    pools.check_quota(
        session,
        new.pool,
        cpu=sum(reserved_cores(each, Kind.ENDPOINT) * number for number, each in found),
        memory=sum((each.memory or 0) * number for number, each in found),
        gpu=sum(each.gpu * number for number, each in found),
        count=sum(number for number, _ in found),
    )
