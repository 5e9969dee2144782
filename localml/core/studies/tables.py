"""Studies, their trials, what their suggesters remember, and the algorithms that were installed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, Index, LargeBinary, text
from sqlmodel import Field, SQLModel

from localml.core.rows import enum_column, owner_column
from localml.core.work.states import Desired


class StudyState(StrEnum):
    """Where a study is. ``stopping``: it proposes nothing more, and its trials are being ended; the last three are
    final, though a study that ended can be resumed or started over."""

    WAITING = "waiting"  # its suggester has not proposed anything yet
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETE = "complete"
    FAILED = "failed"
    STOPPED = "stopped"


OVER = frozenset({StudyState.COMPLETE, StudyState.FAILED, StudyState.STOPPED})


class TrialState(StrEnum):
    """Where a trial is, beyond what its workload says: ``running`` until its result was read, ``pruned`` if it was
    stopped early because it did worse than others."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    STOPPED = "stopped"


PREPARING = "Preparing"
"""Events that tell what an algorithm is about before it proposes anything."""


class Study(SQLModel, table=True):
    """A search over parameters; its trials are workloads, whose parent it is.

    The counts are kept with the rows that they count, by the same transactions. ``sequence`` numbers what the suggester
    was asked and told, in order; replayed, it proposes the same again.
    """

    __table_args__ = (
        Index(
            "uq_study_live_name", "dialect", "workspace", "name", unique=True, sqlite_where=text("deleted_at IS NULL")
        ),
        Index("ix_study_active", "id", sqlite_where=text("ended_at IS NULL")),
        Index("ix_study_owner_id", "owner_id", "id"),
        Index("ix_study_workspace_id", "workspace", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    dialect: str
    workspace: str
    owner: str
    owner_id: int = owner_column()
    name: str
    pool: str
    spec: str  # StudySpec as JSON
    request: Any = Field(default=None, sa_column=Column(JSON))  # the vendor's body, answered back as given
    algorithm: str
    seed: int
    state: StudyState = enum_column(StudyState, StudyState.WAITING)
    outcome: StudyState | None = enum_column(StudyState)  # the state that 'stopping' leads to
    desired: Desired = enum_column(Desired, Desired.RUN)
    forced: bool = False  # its trials get no time to end by themselves
    message: str = ""
    run: int = 1  # grows when it is started over
    life: int = 1  # grows when it is resumed, too
    first: int = 1  # the number of this run's first trial
    asked: int = 0  # the number of its newest trial, of all runs
    running: int = 0
    complete: int = 0  # of this run, as the following
    pruned: int = 0
    failed: int = 0
    stopped: int = 0
    failing: int = 0  # how many failed in a row
    best: int | None = None  # the number of the best trial
    best_value: float | None = None
    sequence: int = 0
    exhausted: bool = False  # its algorithm has nothing more to propose
    created_at: float
    updated_at: float
    started_at: float | None = None
    deadline: float | None = None  # set with the first trial where its time is limited, and again when it is resumed
    ended_at: float | None = None
    deleted_at: float | None = None


class Trial(SQLModel, table=True):
    """One set of values and what came of it. Its number is its workload's index below the study."""

    __table_args__ = (
        Index("ix_trial_running", "study_id", "number", sqlite_where=text("told IS NULL")),
        Index("ix_trial_improving", "study_id", "number", sqlite_where=text("improves")),
        Index("uq_trial_workload_id", "workload_id", unique=True),
    )

    study_id: int = Field(primary_key=True, foreign_key="study.id")
    number: int = Field(primary_key=True)
    workload_id: int  # no reference: its trial stays when its records are pruned
    run: int = 1
    state: TrialState = enum_column(TrialState, TrialState.RUNNING)
    params: Any = Field(default=None, sa_column=Column("params", JSON))  # parameter -> value
    asked: int  # where the asking for it, and the telling of its result, stand in the study's sequence
    told: int | None = None
    value: float | None = None  # of the objective
    improves: bool = False  # that is better than those of all trials that were told before it
    metrics: Any = Field(default=None, sa_column=Column("metrics", JSON))  # name -> {"min", "max", "latest", "steps"}
    pruning: bool = False  # it is being stopped early
    message: str = ""  # why it failed or was stopped
    created_at: float
    ended_at: float | None = None


class SuggesterState(SQLModel, table=True):
    """What a suggester gave to be kept, after it was asked or told what stands at ``sequence``."""

    __tablename__ = "suggester_state"

    study_id: int = Field(primary_key=True, foreign_key="study.id")
    sequence: int
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Algorithm(SQLModel, table=True):
    """An algorithm that somebody installed: a class in a folder. The built-in ones have no rows."""

    __table_args__ = (Index("uq_algorithm_name", "name", unique=True), {"sqlite_autoincrement": True})

    id: int | None = Field(default=None, primary_key=True)
    name: str
    owner: str
    owner_id: int = owner_column()
    folder: str  # below the data directory where it was uploaded, else as it was given
    uploaded: bool
    log_level: str = "INFO"
    settings: Any = Field(default=None, sa_column=Column(JSON))  # what the vendor's request had besides
    created_at: float
