"""What something is about: events, series, feeds and log files belong to a subject, whatever its kind."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Noun(StrEnum):
    """What a subject can be."""

    WORKLOAD = "workload"
    ENDPOINT = "endpoint"
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


PLATFORM = Subject(Noun.PLATFORM, 0)
"""The installation itself."""
