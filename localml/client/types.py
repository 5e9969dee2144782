"""What :class:`localml.client.Client` answers with. Times are seconds since the epoch, amounts of memory bytes.

Members that this version does not know are dropped, so that an older client reads a newer server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")

ENDED = frozenset({"succeeded", "failed", "stopped"})


@dataclass(frozen=True, slots=True)
class Event:
    """A fact about a subject: a workload, an endpoint, a model, the platform (its id is 0) ..."""

    id: int
    workload_id: int | None
    at: float
    severity: str
    reason: str
    message: str
    source: str
    replica: str
    subject_kind: str = ""
    subject_id: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a workload waits: what it is ``short`` of, who holds it (ids; ``held_by`` the first of them as {id, name,
    kind, owner, since}), when it may start (None: nobody knows)."""

    code: str
    message: str
    short: list[str] = field(default_factory=list)
    holders: list[int] = field(default_factory=list)
    held_by: list[dict[str, Any]] = field(default_factory=list)
    expected_start: float | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """One container of one replica. ``ports``: label -> {container, host, url}; ``gpus``: {uuid, index, fraction,
    simulated, released_at}; ``exited_at``: when its program ended, if that was told before its output was complete."""

    role: str
    index: int
    attempt: int
    name: str
    node: str
    state: str
    address: str | None
    ports: dict[str, dict[str, Any]]
    gpus: list[dict[str, Any]]
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    signal: int | None
    cause: str | None
    message: str
    exited_at: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload. The members from ``help`` to ``why`` are empty in lists; those behind say whose child it is;
    ``exited_at`` is given in lists only, of one whose programs are over while output is copied."""

    id: int
    name: str
    kind: str
    state: str
    desired: str
    cause: str | None
    message: str
    exit_code: int | None
    dialect: str
    workspace: str
    owner: str
    version: str
    pool: str
    priority: int
    attempt: int
    retries: int
    cpu: float
    memory: int
    gpu: float
    created_at: float
    updated_at: float
    queued_at: float
    started_at: float | None
    ended_at: float | None
    deleted_at: float | None
    help: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    request: Any = None
    images: dict[str, str] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    why: Reason | None = None
    parent_kind: str | None = None
    parent_id: int | None = None
    parent_index: int | None = None
    exited_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Page:
    """One page of workloads; ``next`` is given as ``after`` to get the next one, None at the end."""

    workloads: list[Workload]
    next: str | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU; ``free`` is 1 when nobody holds any of it."""

    uuid: str
    index: str
    name: str
    memory: int
    simulated: bool
    free: float
    drained: bool
    fenced: bool
    reason: str
    leases: list[dict[str, Any]]
    usage: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool with its limits (None: none) and what is asked of it; ``labels`` are those of a resource plan."""

    name: str
    parent: str | None
    cpu: float | None
    memory: int | None
    gpu: float | None
    max_workloads: int | None
    used: dict[str, float]
    labels: list[tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object or a folder; ``link`` is the key of what a link leads to, in the same bucket."""

    uri: str
    name: str
    size: int
    modified: float
    is_folder: bool
    link: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that is not copied: a path or a URI, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Output:
    """A part of what a workload wrote. ``offset`` asks for what comes behind it; ``complete``: nothing will.

    ``end`` is the offset behind all that there was when it was asked for, ``start`` that of the first bytes that were
    still there: of what a service writes only the last part is kept. ``tail``, where last lines were wanted of which
    only the newest fit in, is the offset where all of them begin.
    """

    data: bytes
    offset: str
    complete: bool
    end: str
    start: str = "0"
    tail: str | None = None

    @property
    def gone(self) -> int:
        """Bytes of older output that are kept no more."""
        return sum(int(one) for one in self.start.split(","))

    def left(self, end: str) -> int:
        """Bytes between this part and an offset: all streams' that are not there yet."""
        have = [int(one) for one in self.offset.split(",")]
        want = [int(one) for one in end.split(",")]
        have += [0] * (len(want) - len(have))
        return sum(max(0, stop - at) for at, stop in zip(have, want, strict=False))


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Text that a replica wrote while it was followed; not necessarily whole lines."""

    text: str
    stream: str
    replica: str
    attempt: int


def make(kind: type[T], values: Mapping[str, Any]) -> T:
    """A value of one of these classes from JSON."""
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})


def workload(values: Mapping[str, Any]) -> Workload:
    """A workload with its nested values."""
    nested = dict(values)
    nested["replicas"] = [make(Replica, one) for one in values.get("replicas", ())]
    nested["events"] = [make(Event, one) for one in values.get("events", ())]
    nested["why"] = make(Reason, values["why"]) if values.get("why") else None
    return make(Workload, nested)


def lines_of(blocks: Iterator[bytes]) -> Iterator[str]:
    """Whole lines of what comes in blocks, without their ends."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line.decode()
    if rest:
        yield rest.decode()
