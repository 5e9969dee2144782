"""Endpoints as users and dialects handle them: create, roll out, scale, stop, find, and what happened to them.

Calls here record what is wanted, and that the endpoint is on its way there. Everything else is moved by the control
plane alone (``localml/control/serving/controller.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from localml.core.capacity import pools
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.events.records import Events, record_event
from localml.core.events.tables import Event
from localml.core.people import memberships
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.registry.tables import ModelVersion
from localml.core.serving.records import EndpointFull, full
from localml.core.serving.shares import give_share
from localml.core.serving.specs import LIVE_VARIANTS, EndpointSpec, EndpointState, VariantSpec, VariantState
from localml.core.serving.tables import Endpoint, Variant, VariantSample
from localml.core.subjects import Subject
from localml.core.work.specs import NAME
from localml.core.work.states import Desired

ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What may stand for an endpoint in the gateway's paths."""


@dataclass(frozen=True, slots=True)
class NewVariant:
    """A version to serve: a registered one by its id, or a custom image (``spec.image``). ``weight`` in percent.

    ``recreate``: the versions before it end before it starts, where there is no room for both.
    """

    spec: VariantSpec = field(default_factory=VariantSpec)
    model_version_id: int | None = None
    weight: float = 100.0
    name: str = ""
    recreate: bool = False


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
        check: asked before something is stored (spec, version, replicas); raises when that many can never run here.
        nudge: wakes the control plane after a commit.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        check: Callable[[VariantSpec, ModelVersion | None, int], None] = lambda *_: None,
        nudge: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._check = check
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
            words = "must start with a letter or digit and hold at most 128 letters, digits, '.', '_' and '-'"
            raise invalid(field, f"{route!r} {words}")
        if not new.variants:
            raise invalid("variants", "at least one is needed")
        if len(new.variants) > 1 and abs(sum(one.weight for one in new.variants) - 100.0) > 0.01:
            raise invalid("variants", "the weights must add up to 100")
        count = new.spec.scaling.clamp(new.spec.scaling.minimum)
        versions = [self._checked(one, math.ceil(count * one.weight / 100)) for one in new.variants]

        def act(session: Session) -> int:
            memberships.need_live(session, new.workspace or new.caller.workspace)
            pools.ensure(session, new.pool)
            if new.refuse_over_quota:
                _check_quota(session, new)
            if new.spec.gateway_port in _gateway_ports(session):
                words = f"gateway_port: {new.spec.gateway_port} is another endpoint's"
                raise LocalmlError(Code.CONFLICT, words, field="gateway_port")
            row = self._endpoint_row(session, new, route)
            for one, version in zip(new.variants, versions, strict=True):
                self._add_variant(session, row, one, version)
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

    def rollout(
        self,
        endpoint_id: int,
        caller: Caller,
        new: NewVariant,
        *,
        keep_settings: bool = True,
    ) -> EndpointFull:
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
        version = self._checked(new)

        def act(session: Session) -> int:
            row = self._live_row(session, endpoint_id)
            live = self._live_variants(session, endpoint_id)
            serving = [one for one in live if one.state is not VariantState.ROLLING]
            spec = new.spec
            last = live[-1] if live else self._newest(session, endpoint_id)
            if keep_settings and last is not None:
                spec = VariantSpec.model_validate_json(last.spec)
            if row.desired is Desired.RUN:
                row.state = EndpointState.UPDATING if serving else EndpointState.STARTING
            words = f"{caller.name} asked for {_label(version, spec)} with {new.weight:g} %"
            self._tell(session, row, "RolloutRequested", words)
            for one in live:
                if one.state is VariantState.ROLLING:
                    one.state, one.message = VariantState.FAILED, "replaced by a newer rollout before it was ready"
                    session.add(one)
            same = next((one for one in serving if _is_same(one, new, spec)), None)
            if same is not None and same.state is VariantState.SERVING:
                give_share(session, serving, same, new.weight)
            else:
                self._add_variant(session, row, replace(new, spec=spec), version)
            return endpoint_id

        return self._written(act)

    def set_scaling(self, endpoint_id: int, caller: Caller, **limits: Any) -> EndpointFull:
        """Change limits of :class:`localml.core.serving.specs.Scaling` (``minimum``, ``maximum``, ``target`` ...)."""

        newest = next(iter(self.get(endpoint_id).live()), None)
        if newest is not None and limits.get("minimum"):
            self._check(newest.spec, newest.version, int(limits["minimum"]))

        def act(session: Session) -> int:
            row = self._live_row(session, endpoint_id)
            spec = EndpointSpec.model_validate_json(row.spec)
            merged = {**spec.scaling.model_dump(), **{key: value for key, value in limits.items() if value is not None}}
            try:
                scaling = type(spec.scaling).model_validate(merged)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                field = ".".join(["scaling", *(str(part) for part in first["loc"])])
                raise invalid(field, first["msg"].removeprefix("Value error, ")) from error
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
        if self._live_variants(session, row.id or 0):
            return
        last = self._newest(session, row.id or 0)
        if last is not None:
            row.state = EndpointState.STARTING
            new = NewVariant(VariantSpec.model_validate_json(last.spec), last.model_version_id, 100.0)
            version = session.get(ModelVersion, last.model_version_id) if last.model_version_id else None
            self._add_variant(session, row, new, version)

    @staticmethod
    def _newest(session: Session, endpoint_id: int) -> Variant | None:
        """The newest variant, whatever became of it."""
        query = select(Variant).where(Variant.endpoint_id == endpoint_id).order_by(col(Variant.id).desc())
        return session.exec(query).first()

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
            return _gateway_ports(session)

    def _written(self, act: Callable[[Session], int]) -> EndpointFull:
        number = self._store.write(act)
        self._nudge()
        return self.get(number)

    def _checked(self, new: NewVariant, replicas: int = 1) -> ModelVersion | None:
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
        self._check(new.spec, version, replicas)
        return version

    def _add_variant(self, session: Session, row: Endpoint, new: NewVariant, version: ModelVersion | None) -> None:
        names = set(session.exec(select(Variant.name).where(Variant.endpoint_id == row.id)))
        base = new.name or (f"v{version.number}" if version is not None else "custom")
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        session.add(
            Variant(
                endpoint_id=row.id or 0,
                name=name,
                model_version_id=new.model_version_id,
                spec=new.spec.model_dump_json(exclude_defaults=True),
                weight=new.weight,
                recreate=new.recreate,
                created_at=self._clock.now(),
            )
        )
        session.flush()

    def _live_row(self, session: Session, endpoint_id: int) -> Endpoint:
        row = session.get(Endpoint, endpoint_id)
        if row is None or row.deleted_at is not None:
            raise not_found("endpoint", endpoint_id)
        return row

    @staticmethod
    def _live_variants(session: Session, endpoint_id: int) -> list[Variant]:
        query = (
            select(Variant)
            .where(Variant.endpoint_id == endpoint_id, col(Variant.state).in_(LIVE_VARIANTS))
            .order_by(col(Variant.id))
        )
        return list(session.exec(query))

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
        self, reference: str, workspaces: Collection[str] | None = None, *, prefer: str | None = None
    ) -> EndpointFull:
        """A live endpoint by name, route or id.

        Args:
            workspaces: None looks in all workspaces.
            prefer: a workspace whose endpoint goes before those of others.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``CONFLICT`` when several have the name.
        """
        found = self.list(workspaces)
        same = [one for one in found if one.row.route == reference and one.row.name == reference]
        same = same or [one for one in found if reference in (one.row.name, one.row.route)]
        if not same and reference.isascii() and reference.isdigit():
            same = [one for one in found if one.row.id == int(reference)]
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
            rows = list(session.exec(query.order_by(col(Endpoint.name), col(Endpoint.id))))
            return full(session, rows)


def _is_same(one: Variant, new: NewVariant, spec: VariantSpec) -> bool:
    return one.model_version_id == new.model_version_id and VariantSpec.model_validate_json(one.spec) == spec


def _label(version: ModelVersion | None, spec: VariantSpec) -> str:
    return f"version {version.number}" if version is not None else spec.image


def _check_quota(session: Session, new: NewEndpoint) -> None:
    count, each = new.spec.scaling.clamp(new.spec.scaling.minimum), new.variants[0].spec.resources
    cpu, memory = (each.cpu or 0) * count, (each.memory or 0) * count
    pools.check_quota(session, new.pool, cpu=cpu, memory=memory, gpu=each.gpu * count, count=count)


def _gateway_ports(session: Session) -> set[int]:
    specs = session.exec(select(Endpoint.spec).where(col(Endpoint.deleted_at).is_(None)))
    found = (EndpointSpec.model_validate_json(spec).gateway_port for spec in specs)
    return {port for port in found if port is not None}
