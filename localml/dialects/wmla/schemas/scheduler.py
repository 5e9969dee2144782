"""Queries and answers of the scheduler."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, RootModel

from localml.core.numerals import MOST_DIGITS, whole
from localml.dialects.kit.parameters import Parameters

SORT = r"^-?[A-Za-z][A-Za-z0-9]*$"


def _place(value: Any) -> Any:
    if value in (None, ""):
        return None
    text = str(value)
    if not text.isascii() or not text.isdigit():
        raise ValueError("must be a whole number from 0 on")
    return whole(text) if len(text) <= MOST_DIGITS else 10**MOST_DIGITS


def _text(value: Any) -> Any:
    return None if value == "" else value


Place = Annotated[int | None, BeforeValidator(_place)]
Text = Annotated[str | None, BeforeValidator(_text)]


class StatisticQuery(Parameters):
    """Which applications count, and which part of the list of users is wanted."""

    applicationid: Text = None
    applicationname: Text = None
    consumer: Text = None
    state: Text = None
    start: Place = None
    length: Place = None


class ApplicationQuery(Parameters):
    """Which applications are wanted, and in which order. ``state`` may be several with commas between."""

    applicationid: Text = None
    applicationname: Text = None
    driverid: Text = None
    search: Text = None
    sort: Annotated[Annotated[str, Field(pattern=SORT)] | None, BeforeValidator(_text)] = None
    order: Text = None
    state: Text = None
    start: Place = None
    length: Place = None


class EngineQuery(Parameters):
    """The same of the scheduler's engine, where other members have other names."""

    state: Text = None
    sort: Annotated[Annotated[str, Field(pattern=r"^-?[A-Za-z_0-9]+$")] | None, BeforeValidator(_text)] = None
    start: Place = None
    length: Place = None


class ObjectQuery(Parameters):
    """Which of Kubernetes' objects are asked for."""

    type: Text = None
    name: Text = None


class ApplicationPath(BaseModel):
    """An application in the URL."""

    appid: str


class ApplicationDetail(BaseModel):
    """An application: a task, a search's trial or a notebook. Times in milliseconds since the epoch, ``memused`` in MB,
    ``apprunduration`` in seconds. Members that say nothing of one are left out."""

    applicationid: str
    applicationname: str
    type: Literal["BATCH", "NOTEBOOK"]
    state: str
    slots: int
    demandslots: int
    hosts: int
    coresused: float
    memused: float
    username: str
    timestamp: int
    submittedtime: int
    schedulerUrl: str
    endtime: int | None = None
    apprunduration: float
    model: str | None = None
    dataset: str | None = None
    dltype: str | None = None
    tunningname: str | None = None
    appReason: str | None = None
    appFailureDetail: str | None = None


class ApplicationStatistic(BaseModel):
    """What the applications of a user ask for and use: cores, GPUs, and how many wait and run."""

    username: str
    cpuReq: float
    cpuUsed: float
    gpuReq: float
    gpuUsed: float
    jobPending: int
    jobRunning: int


class Applications(RootModel[list[ApplicationDetail]]):
    """Applications."""


class Statistics(RootModel[list[ApplicationStatistic]]):
    """Users."""


class DriverPath(BaseModel):
    """A log of an application in the URL."""

    appid: str
    type: str


class ExecutorPath(BaseModel):
    """A log of one of an application's executors in the URL."""

    appid: str
    executorid: str
    type: str


class LinesQuery(Parameters):
    """``lastlines``: how many; 10 for what is no number from 1 on."""

    lastlines: str = ""
