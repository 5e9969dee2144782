"""Bodies about search tasks. What clients send beyond these members chooses nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, Field, RootModel, StrictStr, model_validator

from localml.core.errors import invalid
from localml.core.limits import MOST_PARALLEL, MOST_SECONDS, MOST_TRIALS
from localml.core.studies.specs import Goal, Strategy
from localml.core.work.specs import NAME
from localml.dialects.wmla.schemas.searches_space import Lenient, Real, Space, Whole, folded, repeated
from localml.dialects.wmla.schemas.sources import WithSources

RESERVED = "algorithm"
"""No search can have this name: it stands for the algorithms in URLs."""
UNLIMITED = -1


def plain_name(value: str) -> str:
    """A name of a search or an algorithm, which stands in URLs."""
    if not NAME.fullmatch(value):
        raise ValueError("must be 1 to 128 letters, digits, '.', '_', '~' or '-', and no '-' at its start")
    return value


def _name(value: str | None) -> str | None:
    if value == RESERVED:
        raise ValueError(f"'{RESERVED}' stands for the algorithms in URLs; take another name")
    return plain_name(value) if value else None


HpoName = Annotated[StrictStr | None, AfterValidator(_name)]


class HpoPath(BaseModel):
    """A search in the URL."""

    hpoName: str = Field(min_length=1)


class AlgoParam(Lenient):
    """A parameter of an algorithm: texts, numbers and booleans among them."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    value: Annotated[StrictStr, Field(max_length=10_000)]


def _strategy(word: str) -> Strategy:
    return Strategy(word.lower()) if word.lower() in set(Strategy) else Strategy.LATEST


class AlgoDefBase(Lenient):
    """Who proposes, what is optimized, and when it ends. A limit of 0 is none, as -1 is: nobody starts a search so that
    nothing is tried."""

    algorithm: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    maxRunTime: Annotated[Whole, Field(ge=UNLIMITED, le=MOST_SECONDS // 60)] = UNLIMITED
    maxJobNum: Annotated[Whole, Field(ge=UNLIMITED, le=MOST_TRIALS)] = UNLIMITED
    maxParalleJob: Annotated[Whole, Field(ge=1, le=MOST_PARALLEL)] = Field(
        default=1, validation_alias=AliasChoices("maxParalleJob", "maxParalleJobNum")
    )
    objectiveMetric: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    objective: Annotated[Goal, folded()] | None = None
    additionalMetrics: Annotated[dict[str, StrictStr], Field(max_length=100)] = Field(default_factory=dict)
    hyperbandEta: Real | None = None
    algoParams: Annotated[list[AlgoParam], Field(max_length=100)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _each_once(self) -> AlgoDefBase:
        if twice := repeated([one.name for one in self.algoParams]):
            raise invalid("algoDef.algoParams", f"{twice} is there twice")
        return self

    @property
    def strategies(self) -> dict[str, Strategy]:
        """Further metrics; a word that is no strategy counts as ``latest``."""
        return {name: _strategy(word) for name, word in self.additionalMetrics.items()}


class AlgoDef(AlgoDefBase):
    """The same; a search that is started must say what is optimized."""

    objectiveMetric: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    objective: Annotated[Goal, folded()]


class ModelSpec(WithSources, Lenient):
    """What a training runs, in the options of ``POST /execs``."""

    args: StrictStr


class HpoTaskRequest(Space):
    """The form's ``data``: a search to be started."""

    hpoName: HpoName = None
    modelSpec: ModelSpec
    algoDef: AlgoDef

    @model_validator(mode="after")
    def _space_fits(self) -> HpoTaskRequest:
        self.need_for(self.algoDef.algorithm)
        return self


class Creation(BaseModel):
    """What was made, and where."""

    uid: str
    href: str


class Metric(BaseModel):
    """What a training reported of a metric."""

    name: str
    min: float
    max: float
    latest: float


class FixedValue(BaseModel):
    """The value that a training has of a hyperparameter."""

    name: str
    type: Literal["fix"]
    dataType: Literal["int", "double", "str"]
    fixedVal: str
    userDefined: bool


class HpoExperiment(BaseModel):
    """One training of a search. ``maxiteration``: how many iterations it reported. ``message``, which the document has
    not: why it failed or was stopped."""

    id: int
    state: str
    message: str | None = None
    metricVal: float | None = None
    metrics: list[Metric]
    maxiteration: int
    hyperParams: list[FixedValue]
    appId: str
    startTime: str
    endTime: str | None = None


class HpoTaskState(BaseModel):
    """A search and what came of it so far. ``message``, which the document has not: why it ended as it did."""

    hpoName: str
    state: str
    message: str | None = None
    running: int
    complete: int
    failed: int
    progress: str
    duration: str
    creator: str
    createtime: str
    best: HpoExperiment | None = None
    experiments: list[HpoExperiment]


class HpoTaskStates(RootModel[list[HpoTaskState]]):
    """All searches that the caller may see."""
