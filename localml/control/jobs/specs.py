"""Frozen specs of workloads that are not over, parsed once: equal ones are one object, equal needs one shape.

One that cannot be read is told, and stands for a workload that asks for nothing until that has been ended.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Hashable, Mapping
from hashlib import blake2b
from typing import Generic, TypeVar

from localml.control.jobs.demands import Demand, Shape
from localml.core.sql import IDS, id_list, read_rows
from localml.core.work.reservations import is_service, reserved_cores
from localml.core.work.specs import Role, WorkloadSpec
from localml.core.work.tables import WorkloadDetail

log = logging.getLogger("localml.control")

T = TypeVar("T")
_UNREADABLE = WorkloadSpec(roles=(Role(command=("true",)),))


class _Shared(Generic[T]):
    """One object for all who ask for the same key, for as long as somebody has it."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[T, int]] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        known = self._found.get(key)
        value, users = known if known is not None else (make(), 0)
        self._found[key] = value, users + 1
        return value

    def give_back(self, key: Hashable) -> None:
        value, users = self._found.pop(key)
        if users > 1:
            self._found[key] = value, users - 1


class SpecCache:
    """Parsed specs with their needs.

    Attributes:
        broken: workloads whose spec cannot be read -> why.
    """

    def __init__(self) -> None:
        self.broken: dict[int, str] = {}
        self._known: dict[int, tuple[bytes, WorkloadSpec, Shape]] = {}
        self._specs: _Shared[WorkloadSpec] = _Shared()
        self._shapes: _Shared[Shape] = _Shared()

    def load(self, connection: sqlite3.Connection, kinds: Mapping[int, str]) -> None:
        """Parse those that are not known yet, by number with their kinds; a spec never changes."""
        missing = [one for one in kinds if one not in self._known]
        if missing:
            where, given = f"workload_id {IDS}", (id_list(missing),)
            for number, text in read_rows(connection, WorkloadDetail, ("workload_id", "spec"), where, given):
                self._add(number, text, kinds[number])

    def _add(self, number: int, text: str, kind: str) -> None:
        key = blake2b(text.encode(), digest_size=16).digest()
        try:
            spec = self._specs.get(key, lambda: WorkloadSpec.model_validate_json(text))
        except Exception as error:
            log.exception("the spec of workload %s cannot be read", number)
            self.broken[number] = f"its record cannot be read ({type(error).__name__}: {str(error)[:200]})"
            key = b""
            spec = self._specs.get(key, lambda: _UNREADABLE)
        demands = demands_of(spec, kind)
        shape = self._shapes.get(demands, lambda: Shape.of(*demands))
        self._known[number] = key, spec, shape

    def spec(self, number: int) -> WorkloadSpec:
        """The spec of a workload that was loaded."""
        return self._known[number][1]

    def shape(self, number: int) -> Shape:
        """Its needs, as admission wants them."""
        return self._known[number][2]

    def forget(self, number: int) -> None:
        """A workload that is over."""
        known = self._known.pop(number, None)
        self.broken.pop(number, None)
        if known is not None:
            key, _, shape = known
            self._specs.give_back(key)
            self._shapes.give_back(shape.demands)


def demands_of(spec: WorkloadSpec, kind: str) -> tuple[Demand, ...]:
    """A spec's needs by role."""
    return tuple(
        Demand(
            role.name,
            role.count,
            reserved_cores(role.resources, kind),
            role.resources.memory or 0,
            role.resources.gpu,
            role.resources.gpu_type,
            is_service(kind) and role.resources.cpu is None,
        )
        for role in spec.roles
    )
