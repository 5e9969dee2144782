"""Versions of an endpoint as they are asked for, and what is recorded of them then."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlmodel import Session, col, select

from localml.core.errors import invalid
from localml.core.limits import MOST_REPLICAS, MOST_VARIANTS, need_at_most
from localml.core.people.identity import Caller
from localml.core.registry.tables import ModelVersion
from localml.core.serving.records import EndpointFull
from localml.core.serving.specs import LIVE_VARIANTS, VariantSpec, VariantState
from localml.core.serving.tables import Endpoint, Variant

ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What may stand for an endpoint, or one of its variants, in the gateway's paths."""
ROUTE_WORDS = "must start with a letter or digit and hold at most 128 letters, digits, '.', '_' and '-'"


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


Wanted = tuple[NewVariant, ModelVersion | None]
"""A version to serve with what is registered of it."""


def check_set(variants: Sequence[NewVariant], replicas: int) -> None:
    """Whether these can share an endpoint's requests.

    Args:
        replicas: how many each of them has at most that has no number of its own.

    Raises:
        LocalmlError: ``INVALID`` naming ``variants``, with the member's position where one is at fault.
    """
    if not variants:
        raise invalid("variants", "at least one is needed")
    need_at_most("variants", len(variants), MOST_VARIANTS, "versions in one request")
    for place, one in enumerate(variants):
        if not 0 < one.weight <= 100:
            words = f"must be more than 0 and at most 100, not {one.weight:g}; leave a version out to end it"
            raise invalid(f"variants.{place}.weight", words)
        if one.name and not ROUTE.fullmatch(one.name):
            raise invalid(f"variants.{place}.name", f"{one.name!r} {ROUTE_WORDS}")
        for before, other in enumerate(variants[:place]):
            if one.name and one.name == other.name:
                raise invalid(f"variants.{place}.name", f"'{one.name}' is the name of variants.{before}, too")
            if not (one.name and other.name) and _content(one) == _content(other):
                words = f"is the same as variants.{before}; give both names to have two of it"
                raise invalid(f"variants.{place}", words)
    total = sum(one.weight for one in variants)
    if abs(total - 100.0) > 0.01:
        raise invalid("variants", f"the weights must add up to 100, not {total:g}")
    need_few([one.spec for one in variants], replicas)


def need_few(variants: Sequence[VariantSpec], replicas: int, field: str = "variants") -> None:
    """Refuse more replicas than one endpoint may have; see :func:`check_set`.

    Raises:
        LocalmlError: ``INVALID`` naming the field.
    """
    total = sum(replicas if one.replicas is None else one.replicas for one in variants)
    need_at_most(field, total, MOST_REPLICAS, "replicas of all versions together")


def _content(one: NewVariant) -> tuple[int | None, VariantSpec]:
    return one.model_version_id, one.spec


def live_variants(session: Session, endpoint_id: int) -> list[Variant]:
    """Those that serve or are brought up, oldest first."""
    query = select(Variant).where(Variant.endpoint_id == endpoint_id, col(Variant.state).in_(LIVE_VARIANTS))
    return list(session.exec(query.order_by(col(Variant.id))))


def newest_batch(session: Session, endpoint_id: int) -> list[Variant]:
    """The newest variant with those that it came with, whatever became of them."""
    query = select(Variant).where(Variant.endpoint_id == endpoint_id).order_by(col(Variant.id).desc())
    last = session.exec(query).first()
    if last is None or last.batch is None:
        return [last] if last is not None else []
    together = select(Variant).where(Variant.endpoint_id == endpoint_id, Variant.batch == last.batch)
    return list(session.exec(together.order_by(col(Variant.id))))


def add_variants(
    session: Session, row: Endpoint, wanted: Sequence[Wanted], now: float, leaves: dict[int, float] | None = None
) -> None:
    """Record versions to be brought up; several take over together.

    Args:
        leaves: see :func:`localml.core.serving.shares.taken_over`.
    """
    names = set(session.exec(select(Variant.name).where(Variant.endpoint_id == row.id)))
    made: list[Variant] = []
    for new, version in wanted:
        name = _free_name(new.name or (f"v{version.number}" if version is not None else "custom"), names)
        names.add(name)
        one = Variant(
            endpoint_id=row.id or 0,
            name=name,
            model_version_id=new.model_version_id,
            spec=new.spec.model_dump_json(exclude_defaults=True),
            weight=new.weight,
            recreate=new.recreate,
            batch=made[0].id if made else None,
            leaves=leaves,
            created_at=now,
        )
        session.add(one)
        session.flush()
        made.append(one)
    if len(made) > 1:
        made[0].batch = made[0].id
        session.add(made[0])
        session.flush()


def _free_name(base: str, taken: set[str]) -> str:
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def give_up_rolling(session: Session, live: Sequence[Variant]) -> list[Variant]:
    """End what an earlier rollout still brings up; returns the others."""
    for one in live:
        if one.state is VariantState.ROLLING:
            one.state, one.message = VariantState.FAILED, "replaced by a newer rollout before it was ready"
            session.add(one)
    return [one for one in live if one.state is not VariantState.FAILED]


def is_same(one: Variant, new: NewVariant) -> bool:
    """Whether a variant is what is asked for; its name may have got a number."""
    named = not new.name or re.fullmatch(re.escape(new.name) + r"(-\d+)?", one.name)
    same = one.model_version_id == new.model_version_id and VariantSpec.model_validate_json(one.spec) == new.spec
    return bool(named) and same


def kept_and_new(live: Sequence[Variant], wanted: Sequence[Wanted]) -> tuple[dict[int, float], list[Wanted]]:
    """Of what is asked for: the variants that serve it already with their new shares, and what is to be brought up."""
    kept: dict[int, float] = {}
    new: list[Wanted] = []
    for one, version in wanted:
        there = (row for row in live if row.state is VariantState.SERVING and row.id not in kept and is_same(row, one))
        same = next(there, None)
        if same is None:
            new.append((one, version))
        else:
            kept[same.id or 0] = one.weight
    return kept, new


def label(version: ModelVersion | None, spec: VariantSpec) -> str:
    """A version as events name it."""
    return f"version {version.number}" if version is not None else spec.image


def revived(session: Session, batch: Sequence[Variant]) -> list[Wanted]:
    """The same versions once more, with the whole of the requests."""
    total = sum(one.weight for one in batch)
    found: list[Wanted] = []
    for one in batch:
        version = session.get(ModelVersion, one.model_version_id) if one.model_version_id else None
        share = round(100.0 * one.weight / total, 6)
        name = one.name if len(batch) > 1 else ""
        new = NewVariant(VariantSpec.model_validate_json(one.spec), one.model_version_id, share, name)
        found.append((new, version))
    return found


def who_asks(caller: Caller, new: NewVariant, found: EndpointFull | None) -> Caller | None:
    """Who asks for what a version takes of the machine; None when the endpoint has it, given by whomever."""
    has = [] if found is None else [one.spec.resources for one in found.variants]
    return None if new.spec.resources in has else caller
