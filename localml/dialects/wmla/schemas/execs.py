"""Bodies of training tasks."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from localml.dialects.kit.parameters import Parameters
from localml.dialects.wmla.schemas.sources import WithSources


class ExecPath(BaseModel):
    """A task in the URL."""

    execId: str = Field(min_length=1)


class StartQuery(Parameters):
    """The options of a task that is to be started."""

    args: str = Field(default="", description="Command-line style task options, including options meant for the model")


class LogType(StrEnum):
    """Which output is meant."""

    OUT = "outlog"
    ERR = "errlog"
    BOTH = "outerrlog"


class LogQuery(Parameters):
    """Which part of a task's log."""

    logType: LogType = LogType.BOTH


class Lenient(BaseModel):
    """Members that are not known are ignored, as the vendor's service ignores those of other versions."""

    model_config = ConfigDict(extra="ignore")


class TaskData(WithSources, Lenient):
    """The field ``data`` of a task's form."""

    args: str | None = None
    hardwareSpec: dict[str, Any] | None = None


class Batch(BaseModel):
    """A task."""

    creator: str
    id: str
    args: str
    submissionId: str
    workDir: str
    appName: str
    events: str
    appId: str
    schedulerUrl: str
    state: str
    framework: str
    numWorker: int
    elastic: bool = False
    createTime: str


class Batches(RootModel[list[Batch]]):
    """Tasks, the newest first."""


class CreationResponse(BaseModel):
    """What was made, and where it is found."""

    uid: str
    href: str


class NewBatch(Batch, CreationResponse):
    """A task that was started."""


class Framework(BaseModel):
    """A framework plugin."""

    name: str
    desc: list[str]
    frameworkVersion: str
    distributeStrategy: str
    description: str
    numPs: int = 0


class Frameworks(RootModel[list[Framework]]):
    """All framework plugins."""


class Pair(Lenient):
    """An attribute or a variable."""

    name: str = Field(min_length=1, max_length=256)
    value: str = Field(default="", max_length=100_000)


class EDIModelDescription(Lenient):
    """How a model is to be deployed. The vendor's command line sends attributes and environments as plain objects."""

    name: str | None = None
    tag: str | None = None
    runtime: str | None = None
    weight: str | None = None
    kernel: str | None = None
    attributes: list[Pair] = Field(default_factory=list, max_length=1000)
    environments: list[Pair] = Field(default_factory=list, max_length=1000)

    @field_validator("attributes", "environments", mode="before")
    @classmethod
    def _pairs(cls, given: Any) -> Any:
        if given is None:
            return []
        return (
            [{"name": name, "value": _text(one)} for name, one in given.items()] if isinstance(given, dict) else given
        )


def _text(value: Any) -> Any:
    """A number or a truth value of an object as the text that a pair would have."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value
