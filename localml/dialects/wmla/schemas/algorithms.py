"""Bodies about search algorithms."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    RootModel,
    StrictBool,
    StrictStr,
    model_validator,
)

from localml.core.errors import invalid
from localml.dialects.kit.parameters import Parameters
from localml.dialects.wmla.schemas.searches import AlgoDefBase, HpoName, ModelSpec, plain_name
from localml.dialects.wmla.schemas.searches_space import Lenient, Space, Whole


class AlgorithmType(StrEnum):
    """The two kinds of algorithms, in the document's spelling."""

    BUILD_IN = "BUILD_IN"
    USER_PLUGIN = "USER_PLUGIN"


class AlgorithmQuery(Parameters):
    """Which algorithms to list; all without a type."""

    type: AlgorithmType | None = None


class AlgoPath(BaseModel):
    """An algorithm in the URL."""

    algoName: str = Field(min_length=1)


class HpoAlgorithm(BaseModel):
    """An algorithm; the last eight members are those of installed ones."""

    name: str
    type: AlgorithmType
    remoteExec: bool = False
    path: str | None = None
    condaHome: str | None = None
    condaEnv: str | None = None
    creator: str | None = None
    createtime: str | None = None
    logLevel: str | None = None


class HpoAlgorithms(RootModel[list[HpoAlgorithm]]):
    """Algorithms, the built-in ones first."""


class InstallRequest(Lenient):
    """The form's ``data``: an algorithm to be installed.

    ``condaHome``, ``condaEnv`` and ``remoteExec`` are answered as given: each algorithm has an environment of its own
    anyway, and a process of its own on this machine.
    """

    name: Annotated[StrictStr, AfterValidator(plain_name)]
    path: StrictStr | None = Field(default=None, max_length=4096)
    condaHome: StrictStr | None = Field(default=None, max_length=4096)
    condaEnv: StrictStr | None = Field(default=None, max_length=4096)
    remoteExec: StrictBool = False
    logLevel: Annotated[StrictStr, Field(min_length=1, max_length=40)] = "INFO"


def _iterations(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Iterations = Annotated[StrictStr, BeforeValidator(_iterations)]


class ResDef(Lenient):
    """What a search of the old form says of its resources."""

    framework: Literal["Caffe", "TensorFlow", "PyTorch", "PyTorchOnElastic"]
    maxiteration: Iterations
    miniteration: Iterations = "1"
    batchsize: Whole
    initWeightPath: StrictStr | None = None
    gpuNum: Whole | None = None
    workerNum: Whole | None = None
    distribute: StrictBool | None = None
    syncMode: Literal["SYNC", "ASYNC"] | None = None
    resourceInstanceId: StrictStr | None = None


class DebugRequest(Space):
    """A search that is not started, in the form of ``POST /hypersearch`` or in the old one, with ``modelName`` and
    ``resDef`` in place of ``modelSpec``."""

    hpoName: HpoName = None
    modelSpec: ModelSpec | None = None
    modelName: StrictStr | None = None
    resDef: ResDef | None = None
    algoDef: AlgoDefBase

    @model_validator(mode="after")
    def _has_one_form(self) -> DebugRequest:
        for name in ("objectiveMetric", "objective"):
            if self.modelSpec is not None and getattr(self.algoDef, name) is None:
                raise invalid(f"algoDef.{name}", "is required")
        if self.modelSpec is None and (self.modelName is None or self.resDef is None or self.hpoName is None):
            raise invalid("modelSpec", "is required, or modelName, hpoName and resDef in its place")
        self.need_for(self.algoDef.algorithm)
        return self
