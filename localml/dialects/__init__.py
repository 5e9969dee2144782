"""The APIs, as a list one can read. A new one is a line here and a folder of that name (``scripts/new-dialect``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class PoolsFor(Enum):
    """Whom the pools below an API's name are for, whatever API the work comes through."""

    EVERYBODY = auto()
    GRANTED = auto()  # whom they were granted; the one named default everybody
    MEMBERS = auto()  # NAME/KIND/ID, of a workspace: those who may make something in it


@dataclass(frozen=True, slots=True)
class Registered:
    """An API: ``create_app`` of the package with its name serves what lies below its prefixes.

    One without prefixes is known, so that people can prepare for it, and not served by this version.
    """

    name: str
    prefixes: tuple[str, ...] = ()
    pools: PoolsFor = PoolsFor.EVERYBODY


REGISTRY = (
    Registered("native", ("/localml/v1",)),
    Registered("cloudml", ("/cloud_ml",), PoolsFor.MEMBERS),
    Registered("openpai", ("/api/v1",), PoolsFor.GRANTED),
    Registered("mlbench", ("/api/pods", "/api/metrics", "/api/runs", "/api/openapi.json")),
    Registered("wmla", ("/platform/rest/deeplearning/v1", "/auth/v1")),
    Registered("modelarts"),
)

DIALECTS: tuple[tuple[str, str], ...] = tuple(
    (prefix, f"localml.dialects.{one.name}:create_app") for one in REGISTRY for prefix in one.prefixes
)
"""Path prefix -> ``module:factory`` of the app."""


def served() -> frozenset[str]:
    """Names of the APIs that are served."""
    return frozenset(one.name for one in REGISTRY if one.prefixes)
