"""What goes over the wire about studies, their trials and algorithms."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

from localml.core.limits import MOST_TRIALS
from localml.core.studies.specs import StudySpec
from localml.core.studies.tables import StudyState, TrialState
from localml.core.work.totals import need_few
from localml.dialects.native.schemas.work import LARGEST, EventOut, Strict


class StudyIn(Strict):
    """A search to begin. Without a name it is given one. ``workspace`` is an id or a name; the caller's own by
    default."""

    name: str | None = None
    workspace: str | None = None
    pool: str = "default"
    spec: StudySpec

    @field_validator("spec", mode="before")
    @classmethod
    def _few_members(cls, value: Any) -> Any:
        """Before a million of them are looked at one by one."""
        if isinstance(value, dict):
            need_few("spec.trial", value.get("trial"))
        return value


class StudiesQuery(Strict):
    """Which studies, the newest first; ``after`` is the ``next`` of the page before."""

    state: list[StudyState] = Field(default_factory=list)
    dialect: str | None = None
    workspace: str | None = None
    owner: str | None = None
    contains: str | None = None
    limit: int = Field(default=50, ge=1, le=1000)
    after: str | None = None


class StopQuery(Strict):
    """``force``: trials that run are ended without time to end by themselves."""

    force: bool = False


class ResumeIn(Strict):
    """How many trials there are to be in all, from now on; as many as before when left out."""

    max_trials: int | None = Field(default=None, ge=1, le=MOST_TRIALS)


class TrialsQuery(Strict):
    """Which trials, by number; ``after`` is the number to go on behind. ``run``: only of this one, where the study was
    started over; the newest by default, 0 for all."""

    run: int | None = Field(default=None, ge=0, le=LARGEST)
    state: list[TrialState] = Field(default_factory=list)
    after: int = Field(default=0, ge=0, le=LARGEST)
    limit: int = Field(default=100, ge=1, le=1000)


class TrialPath(Strict):
    """A trial of a study by its number."""

    ref: str
    number: int = Field(ge=1, le=LARGEST)


class ExportQuery(Strict):
    """As what, and of which run; see the list of trials."""

    format: Literal["csv", "json"] = "csv"
    run: int | None = Field(default=None, ge=0, le=LARGEST)


# -- answers -----------------------------------------------------------------------------------------------------------


class TrialOut(BaseModel):
    """A set of values and what came of it.

    ``workload_state`` is that of the workload that runs it, ``metrics`` name -> ``min``, ``max``, ``latest`` and
    ``steps`` of what it has reported; a trial that runs has its metrics so far, and no ``value``.
    """

    number: int
    run: int
    state: str
    workload_id: int
    workload: str
    workload_state: str
    params: dict[str, Any]
    value: float | None
    metrics: dict[str, Any]
    message: str
    created_at: float
    started_at: float | None
    ended_at: float | None


class TrialsOut(BaseModel):
    """One page; ``next`` is null at the end."""

    trials: list[TrialOut]
    next: int | None


class StudyOut(BaseModel):
    """A study in a list.

    ``run`` grows when it is started over; its trials are those from number ``first`` on, and the counts from
    ``running`` to ``stopped`` are of them. ``best`` is the number of the best one. ``planned`` is how many trials there
    will be, where that is known.
    """

    id: int
    name: str
    dialect: str
    workspace: str
    owner: str
    pool: str
    algorithm: str
    seed: int
    metric: str
    goal: str
    state: str
    desired: str
    message: str
    run: int
    first: int
    asked: int
    running: int
    complete: int
    pruned: int
    failed: int
    stopped: int
    planned: int | None
    parallel: int
    best: int | None
    best_value: float | None
    created_at: float
    updated_at: float
    started_at: float | None
    ended_at: float | None
    deleted_at: float | None


class StudiesOut(BaseModel):
    """One page; ``next`` is null at the end."""

    studies: list[StudyOut]
    next: str | None


class StudyFull(StudyOut):
    """Everything that is kept about one study but its trials. ``curve``: (number, value) of each trial that was better
    than all before it."""

    spec: dict[str, Any]
    request: Any
    best_trial: TrialOut | None
    curve: list[tuple[int, float]]
    events: list[EventOut]


class AlgorithmParamOut(BaseModel):
    """A parameter of an algorithm; ``default`` is a text, null where there is none."""

    name: str
    type: str
    default: str | None
    description: str


class AlgorithmOut(BaseModel):
    """Somebody who proposes trials: built in, or installed by ``owner``."""

    name: str
    builtin: bool
    owner: str
    description: str
    params: list[AlgorithmParamOut]


class AlgorithmsOut(BaseModel):
    """All of them."""

    algorithms: list[AlgorithmOut]
