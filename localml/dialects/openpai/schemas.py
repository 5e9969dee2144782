"""Bodies of requests and answers. What clients send beyond these members is kept and answered."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator

from localml.core.errors import LocalmlError
from localml.core.limits import MOST_REPLICAS, MOST_ROLES
from localml.core.work.specs import NAME
from localml.dialects.kit.parameters import Parameters
from localml.dialects.kit.wire import parse_json
from localml.dialects.openpai.translate.forms import nested

MOST = 10**9
"""No count or amount may be larger; what the machine has is asked later."""
MAX_LABEL = 56  # so that the numbers of several ports find room behind it
MAX_PORTS = 100
SHORTEST_S, LONGEST_S = 60, 7 * 24 * 3600
"""Seconds that a token may be asked for to live."""
FOR_EVER, WITHOUT_FAULT = -2, -1
"""``retryCount``: tried again whatever it failed by, or whenever that was not the user's fault."""
_USER = r"^[_A-Za-z0-9]+$"
_WORD = r"^[A-Za-z0-9._~]+$"
_THRESHOLDS = ("minFailedTaskCount", "minSucceededTaskCount")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not a boolean")
    return value


def _null(value: Any) -> Any:
    """Forms can say null only in words."""
    return None if value in ("", "null") else value


def _job_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("must be 1 to 128 letters, digits, . _ ~ - (this not at its start), and neither '.' nor '..'")
    return value


def _variables(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if not _ENV.fullmatch(name):
            raise ValueError(f"{name[:100]!r} is no name of an environment variable")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool), Field(le=MOST)]
Threshold = Annotated[int | None, Field(ge=1, le=MOST), BeforeValidator(_no_bool), BeforeValidator(_null)]
Text = Annotated[str | None, BeforeValidator(_null)]


class ListQuery(Parameters):
    """``username``: only this user's jobs."""

    username: str | None = None


class JobPath(BaseModel):
    """A job in the URL."""

    jobName: str = Field(min_length=1)


class UserPath(BaseModel):
    """A user in the URL."""

    username: str = Field(pattern=_USER)


class ClusterPath(BaseModel):
    """A virtual cluster in the URL."""

    vcName: str = Field(min_length=1)


class Error(BaseModel):
    """Error answer"""

    error: str
    message: str


class Message(BaseModel):
    """Confirmation"""

    message: str


class Credentials(BaseModel):
    """User name and password; ``expiration`` is the token's life in seconds."""

    username: str
    password: str
    expiration: Annotated[int | None, Field(ge=SHORTEST_S, le=LONGEST_S), BeforeValidator(_no_bool)] = None


class Token(BaseModel):
    """Access token; ``admin`` tells whether it is an administrator's."""

    token: str
    user: str
    admin: bool


class UserUpdate(BaseModel):
    """User to add (``modify`` false) or to change (true); without it whichever fits."""

    username: str = Field(pattern=_USER, max_length=128)
    password: str = Field(min_length=6, max_length=1024)
    admin: bool | None = None
    modify: bool | None = None


class UserName(BaseModel):
    """User to remove"""

    username: str = Field(pattern=_USER)


class VirtualClusterAssignment(BaseModel):
    """Clusters to allow, joined by commas"""

    virtualClusters: str


class PortRequest(BaseModel):
    """Ports of a task: ``portNumber`` of them from ``beginAt`` on, or any (0)."""

    model_config = ConfigDict(extra="allow")

    label: str = Field(pattern=_WORD, max_length=MAX_LABEL)
    beginAt: Whole = Field(default=0, ge=0, le=65535)
    portNumber: Whole = Field(default=1, ge=1, le=MAX_PORTS)

    @model_validator(mode="after")
    def _in_range(self) -> PortRequest:
        if self.beginAt and self.beginAt + self.portNumber - 1 > 65535:
            raise ValueError("the last port would be above 65535")
        return self


class TaskRole(BaseModel):
    """Tasks of one command; amounts are for each of them."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(pattern=_WORD, max_length=64)
    taskNumber: Whole = Field(ge=1, le=MOST_REPLICAS)
    cpuNumber: Whole = Field(ge=1)
    memoryMB: Whole = Field(ge=100)
    shmMB: Whole = Field(default=64, ge=1)
    gpuNumber: Whole = Field(ge=0)
    portList: list[PortRequest] | None = None
    command: str = Field(min_length=1)
    minFailedTaskCount: Threshold = 1
    minSucceededTaskCount: Threshold = None

    @model_validator(mode="after")
    def _consistent(self) -> TaskRole:
        if self.shmMB > self.memoryMB:
            raise ValueError(f"shmMB ({self.shmMB}) must not be more than memoryMB ({self.memoryMB})")
        labels = [port.label for port in self.portList or ()]
        if len(set(labels)) != len(labels):
            raise ValueError("portList: labels must differ")
        return self


class KeptConfig(BaseModel):
    """Job config as it may be among the records: those of former versions may have no ``taskRoles``."""

    model_config = ConfigDict(extra="allow")

    jobName: Annotated[str, Field(min_length=1), AfterValidator(_job_name)]
    image: Text = None
    authFile: Text = None
    dataDir: Text = None
    outputDir: Text = None
    codeDir: Text = None
    virtualCluster: Text = None
    gpuType: Text = None
    retryCount: Whole = Field(default=0, ge=FOR_EVER, le=1000)
    killAllOnCompletedTaskNumber: Whole = Field(default=0, ge=0)
    jobEnvs: Annotated[dict[str, str | int | float | bool], AfterValidator(_variables)] | None = None
    taskRoles: list[TaskRole] | None = Field(default=None, min_length=1, max_length=MOST_ROLES)

    @model_validator(mode="before")
    @classmethod
    def _of_a_form(cls, given: Any) -> Any:
        try:
            return as_config(given)
        except LocalmlError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _names_differ(self) -> KeptConfig:
        names = [role.name for role in self.taskRoles or ()]
        if len(set(names)) != len(names):
            raise ValueError("taskRoles: names must differ")
        return self


class JobConfig(KeptConfig):
    """Job config"""

    taskRoles: list[TaskRole] = Field(min_length=1, max_length=MOST_ROLES)


def as_config(given: Any) -> Any:
    """A job config as it is kept: what came as form fields put into objects, or ``taskRoles`` read from JSON text."""
    given = nested(given)
    if isinstance(given, dict) and isinstance(given.get("taskRoles"), str):
        try:
            return {**given, "taskRoles": parse_json(given["taskRoles"].encode())}
        except LocalmlError:
            return given  # as a text, which is refused as one
    return given


def as_kept(job: JobConfig, given: Any) -> dict[str, Any]:
    """A config as it is kept and shown: what was sent, but numbers as numbers, which forms can say only in texts."""
    found = _numbered(job, as_config(given))
    if job.taskRoles is not None:
        found["taskRoles"] = [_role(*both) for both in zip(job.taskRoles, found["taskRoles"], strict=True)]
    return found


def _role(role: TaskRole, given: dict[str, Any]) -> dict[str, Any]:
    found = _numbered(role, given)
    if role.portList is not None:
        found["portList"] = [_numbered(*both) for both in zip(role.portList, found["portList"], strict=True)]
    return found


def _numbered(model: BaseModel, given: dict[str, Any]) -> dict[str, Any]:
    read = {name: getattr(model, name) for name in given if name in type(model).model_fields}
    return given | {name: value for name, value in read.items() if isinstance(value, int) or name in _THRESHOLDS}


class JobSummary(BaseModel):
    """Job in a list; times are milliseconds since the Unix epoch."""

    name: str
    username: str
    state: str
    subState: str
    executionType: str
    retries: int
    virtualCluster: str
    createdTime: str
    completedTime: str | None
    appId: str | None
    appTrackingUrl: str | None
    appLaunchedTime: str | None
    appCompletedTime: str | None
    appExitCode: int | None
    appExitDiagnostics: str | None


class JobStatus(JobSummary):
    """Job status: flat as the document has it, and nested as clients read it."""

    appProgress: str | None
    jobStatus: dict[str, Any]
    taskRoles: dict[str, Any]


class JobList(RootModel[list[JobSummary]]):
    """Jobs, the newest first."""


class SshContainer(BaseModel):
    """Where a container is reached by ssh."""

    id: str
    sshIp: str
    sshPort: str


class KeyPair(BaseModel):
    """The key pair of a job."""

    folderPath: str
    publicKeyFileName: str
    privateKeyFileName: str
    privateKeyDirectDownloadLink: str


class JobSsh(BaseModel):
    """Ssh access of a job"""

    containers: list[SshContainer]
    keyPair: KeyPair


class ExecutionType(BaseModel):
    """Command for a job"""

    value: Literal["START", "STOP"]


class ResourcesUsed(BaseModel):
    """Resources in use; memory in MB."""

    memory: float
    vCores: float
    GPUs: float


class VirtualCluster(BaseModel):
    """Virtual cluster status; shares are percent of the machine."""

    capacity: float
    maxCapacity: float
    usedCapacity: float
    numActiveJobs: int
    numJobs: int
    numPendingJobs: int
    resourcesUsed: ResourcesUsed


class VirtualClusterMap(RootModel[dict[str, VirtualCluster]]):
    """Virtual clusters by name"""
