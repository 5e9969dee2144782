"""What a study is asked to do, as frozen values: a space, who proposes, what is better, what a trial runs, when to end.

A study's trials are workloads, made from one template. In the template's commands and variables ``{NAME}`` stands for
the value of the parameter of that name, ``{trial}`` for the trial's number and ``{params}`` for all parameters as
options (``--lr 0.1 --batch 32``; as one variable, separated by blanks). Braces around anything else stay.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, model_validator

from localml.core.limits import MOST_DIMENSIONS, MOST_GRID_POINTS, MOST_PARALLEL, MOST_TRIALS
from localml.core.studies.space import Parameter, Values, need_space
from localml.core.work.specs import Frozen, Seconds, WorkloadSpec


class Goal(StrEnum):
    """Which values of the objective are better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"

    @property
    def sign(self) -> int:
        """What to multiply a value by, so that less is better."""
        return 1 if self is Goal.MINIMIZE else -1


class Take(StrEnum):
    """Which of the values that a trial reported of a metric is its value."""

    BEST = "best"  # the least or the greatest, whichever the goal has better
    LAST = "last"


class Strategy(StrEnum):
    """Which of a further metric's values is shown."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"
    LATEST = "latest"


class Objective(Frozen):
    """What is made small or large: a metric that the trials report."""

    metric: str = Field(min_length=1, max_length=200)
    goal: Goal = Goal.MINIMIZE
    take: Take = Take.BEST


class AlgorithmChoice(Frozen):
    """Who proposes: one of :mod:`localml.core.studies.algorithms`, or an installed one, by its name.

    ``params`` are texts, as the vendor's API has them; the built-in algorithms refuse what they do not know.
    """

    name: str = Field(default="tpe", min_length=1, max_length=200)
    params: dict[str, str] = Field(default_factory=dict)


class EarlyStopping(Frozen):
    """Stop trials that do worse at a step than the median of the others did by then (Golovin et al., Google Vizier,
    2017, 3.2.1). A step is a point of the objective's series, by the order in which they were reported.

    Attributes:
        min_trials: that completed before anything is stopped.
        min_steps: that a trial may always take.
    """

    min_trials: int = Field(default=5, ge=1, le=MOST_TRIALS)
    min_steps: int = Field(default=5, ge=0, le=1_000_000)


class ResultFile(Frozen):
    """A file in which a trial leaves its metrics, in place of lines of its output: a JSON list of objects, one for each
    step (metric -> number), or one object.

    ``uri`` is an object URI, with ``{trial}`` in it and, where the study is to start over, ``{run}``.
    """

    uri: str = Field(min_length=1, max_length=4096)


class StudySpec(Frozen):
    """A search.

    Attributes:
        space: parameters; empty where ``experiments`` lists the trials.
        experiments: the values of each trial, for the algorithm ``grid`` alone; they need not have the same names.
        metrics: further metrics to show.
        trial: the workload that a trial runs; its ``time_limit`` is the trial's.
        max_trials: trials in all; None: as many as the algorithm proposes, or without end.
        max_time: seconds that the search may take from its first trial on; then it ends, and its trials with it.
        max_failures: the search fails after so many trials in a row that failed; None: never.
        result: where a trial's metrics are; None: what the core's parser finds in its output.
        seed: of the proposals; one is drawn where none is given, when the study is made.
    """

    space: tuple[Parameter, ...] = Field(default=(), max_length=MOST_DIMENSIONS)
    experiments: tuple[Values, ...] = Field(default=(), max_length=MOST_GRID_POINTS)
    algorithm: AlgorithmChoice = AlgorithmChoice()
    objective: Objective
    metrics: dict[str, Strategy] = Field(default_factory=dict, max_length=100)
    trial: WorkloadSpec
    max_trials: int | None = Field(default=None, ge=1, le=MOST_TRIALS)
    parallel: int = Field(default=1, ge=1, le=MOST_PARALLEL)
    max_time: Seconds | None = Field(default=None, gt=0)
    max_failures: int | None = Field(default=5, ge=1, le=MOST_TRIALS)
    early_stopping: EarlyStopping | None = None
    result: ResultFile | None = None
    seed: int | None = Field(default=None, ge=0, lt=1 << 32)

    @model_validator(mode="after")
    def _space_or_experiments(self) -> StudySpec:
        if bool(self.space) == bool(self.experiments):
            raise ValueError("give one of space and experiments")
        return self


def need_study(spec: StudySpec) -> None:
    """Refuse what no single member shows to be wrong.

    Raises:
        LocalmlError: ``INVALID`` naming the parameter.
    """
    need_space(spec.space)
