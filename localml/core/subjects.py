"""What something is about: events, series, feeds and log files belong to a subject, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Noun(StrEnum):
    """What a subject can be."""

    WORKLOAD = "workload"
    ENDPOINT = "endpoint"
    VARIANT = "variant"
    INSTANCE = "instance"
    STUDY = "study"
    JOB = "job"
    POOL = "pool"
    MODEL = "model"
    NODE = "node"
    USER = "user"
    WORKSPACE = "workspace"
    PLATFORM = "platform"


class Subject(NamedTuple):
    """One thing of a kind, by its row's number."""

    kind: Noun
    id: int

    @classmethod
    def workload(cls, number: int) -> Subject:
        """A workload."""
        return cls(Noun.WORKLOAD, number)

    @classmethod
    def endpoint(cls, number: int) -> Subject:
        """An endpoint."""
        return cls(Noun.ENDPOINT, number)

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


@dataclass(frozen=True, slots=True)
class Parent:
    """Whose child a workload is, and which one: trial of a study, version of a job, run of an instance, replica of a
    variant. No two children of one parent have the same ``index``, deleted ones included."""

    of: Subject
    index: int


PLATFORM = Subject(Noun.PLATFORM, 0)
"""The installation itself."""
PEOPLE = Subject(Noun.USER, 0)
"""All users, and what they are where."""
