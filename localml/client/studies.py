"""Searches over parameters, from Python.

>>> study = client.studies.create(                                              # doctest: +SKIP
...     space={"lr": "log:1e-5..1e-1", "batch": [16, 32, 64]}, minimize="loss", trials=20,
...     command=["python", "train.py", "--lr", "{lr}", "--batch", "{batch}"], code=".")
>>> done = client.studies.wait(study.id)                                        # doctest: +SKIP
>>> print(done.best_trial.params, done.best_value)                              # doctest: +SKIP
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from localml.client.errors import ClientError
from localml.client.spaces import parameter
from localml.client.transport import FOLLOW_S, Transport
from localml.client.types import Event, lines_of, make
from localml.core.errors import LocalmlError

if TYPE_CHECKING:
    from collections.abc import Callable

Reference = int | str
"""A study's id or name."""
OVER = ("complete", "failed", "stopped")
_WAIT_S = 30.0
_BLOCK = 1 << 20
_PAGE = 1000
_REJOIN_S = 15.0
_PAUSE_S = 0.2
_AWAY = ("unreachable", "unavailable")


@dataclass(frozen=True, slots=True)
class Trial:
    """A set of values and what came of it; ``workload_id`` is the job that ran it. ``metrics``: name -> ``min``,
    ``max``, ``latest`` and ``steps``; a trial that runs has its metrics so far, and no ``value``."""

    number: int
    run: int
    state: str
    workload_id: int
    workload: str
    workload_state: str
    params: dict[str, Any]
    value: float | None
    metrics: dict[str, dict[str, Any]]
    message: str
    created_at: float
    started_at: float | None
    ended_at: float | None

    @property
    def ended(self) -> bool:
        """Whether its result is known."""
        return self.state != "running"


@dataclass(frozen=True, slots=True)
class Study:
    """A search. The counts from ``running`` to ``stopped`` are of its newest ``run``, whose trials are those from
    number ``first`` on; ``best`` is the number of the best of them. The members from ``spec`` on are empty in lists;
    ``curve`` has (number, value) of each trial that was better than all before it."""

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
    spec: dict[str, Any] = field(default_factory=dict)
    request: Any = None
    best_trial: Trial | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in OVER

    @property
    def told(self) -> int:
        """How many trials of its run have ended."""
        return self.complete + self.pruned + self.failed + self.stopped


@dataclass(frozen=True, slots=True)
class StudyPage:
    """One page of studies; ``next`` is given as ``after`` to get the next one, None at the end."""

    studies: list[Study]
    next: str | None


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Who can propose trials; ``params`` have ``name``, ``type``, ``default`` and ``description``."""

    name: str
    builtin: bool
    owner: str
    description: str
    params: list[dict[str, Any]]


class Studies:
    """Part of :class:`localml.client.Client`, as its ``studies``."""

    def __init__(self, http: Transport, send_code: Callable[..., str]) -> None:
        self._http = http
        self._send_code = send_code

    def create(
        self,
        command: Sequence[str] = (),
        *,
        space: Mapping[str, Any],
        minimize: str | None = None,
        maximize: str | None = None,
        algorithm: str | Mapping[str, Any] = "tpe",
        trials: int | None = None,
        parallel: int = 1,
        trial: Mapping[str, Any] | None = None,
        code: str | None = None,
        name: str | None = None,
        pool: str = "default",
        workspace: str | None = None,
        **members: Any,
    ) -> Study:
        """Begin a search; it is on disk when this returns.

        Args:
            command: what a trial runs, where ``{NAME}`` stands for a parameter's value.
            space: name -> ``log:1e-5..1e-1``, ``1..8``, a list of choices, or a parameter's members; see
                :mod:`localml.client.spaces`.
            minimize, maximize: the metric that the trials report and that is made small or large; give one.
            algorithm: a name, or ``{"name", "params"}``.
            trials: how many at most.
            trial: a ``WorkloadSpec`` as JSON values, for more than a command.
            code: a folder that each trial starts in, or what :meth:`~localml.client.jobs.Jobs.send_code` gave.
            members: further ones of a ``StudySpec``: ``max_time``, ``seed``, ``early_stopping`` ...

        Raises:
            ClientError: naming what is wrong.
        """
        if (minimize is None) == (maximize is None):
            raise ClientError("invalid", "objective: give one of minimize and maximize", field="objective")
        job: dict[str, Any] = dict(trial) if trial is not None else {"roles": [{"command": list(command)}]}
        if code is not None:
            job["code"] = self._send_code(code, workspace=workspace)
        goal = {"metric": minimize or maximize, "goal": "maximize" if minimize is None else "minimize"}
        chosen = {"name": algorithm} if isinstance(algorithm, str) else dict(algorithm)
        spec = {
            **members,
            "space": [_parameter(one, given) for one, given in space.items()],
            "objective": goal,
            "algorithm": chosen,
            "max_trials": trials,
            "parallel": parallel,
            "trial": job,
        }
        return self.submit(spec, name=name, pool=pool, workspace=workspace)

    def submit(
        self, spec: Mapping[str, Any], *, name: str | None = None, pool: str = "default", workspace: str | None = None
    ) -> Study:
        """The same from a ``StudySpec`` as JSON values."""
        body = {"name": name, "pool": pool, "workspace": workspace, "spec": dict(spec)}
        return study(self._http.json("POST", "/studies", body))

    def get(self, ref: Reference) -> Study:
        """Everything about a study but its trials."""
        return study(self._http.json("GET", _path(ref)))

    def list(self, **filters: Any) -> StudyPage:
        """One page, the newest first: ``state`` (one or several), ``dialect``, ``workspace``, ``owner``, ``contains``,
        ``limit``, ``after``."""
        found = self._http.json("GET", "/studies", **filters)
        return StudyPage([study(one) for one in found["studies"]], found["next"])

    def all(self, **filters: Any) -> Iterator[Study]:
        """All studies that fit, page by page."""
        page = self.list(**filters)
        yield from page.studies
        while page.next:
            page = self.list(**{**filters, "after": page.next})
            yield from page.studies

    def trials(self, ref: Reference, *, after: int = 0, **filters: Any) -> Iterator[Trial]:
        """Trials by number, page by page; ``state`` (one or several) and ``run`` (0: of all) restrict."""
        following: int | None = after
        while following is not None:
            found = self._http.json("GET", f"{_path(ref)}/trials", **{"limit": _PAGE, **filters, "after": following})
            yield from (make(Trial, one) for one in found["trials"])
            following = found["next"]

    def trial(self, ref: Reference, number: int) -> Trial:
        """One trial by its number."""
        return make(Trial, self._http.json("GET", f"{_path(ref)}/trials/{number}"))

    def best(self, ref: Reference) -> Trial | None:
        """The best trial so far; None while there is none."""
        return self.get(ref).best_trial

    def stop(self, ref: Reference, *, force: bool = False) -> Study:
        """End a search, and its trials with it; with ``force`` these get no time to end by themselves."""
        return study(self._http.json("POST", f"{_path(ref)}/stop", force=force))

    def restart(self, ref: Reference) -> Study:
        """Search once more from the beginning, when it is over."""
        return study(self._http.json("POST", f"{_path(ref)}/restart"))

    def resume(self, ref: Reference, *, trials: int | None = None) -> Study:
        """Go on with a search that is over. ``trials``: how many there are to be in all; as before by default."""
        return study(self._http.json("POST", f"{_path(ref)}/resume", {"max_trials": trials}))

    def delete(self, ref: Reference) -> Study:
        """Stop a study and hide it, with its trials."""
        return study(self._http.json("DELETE", _path(ref)))

    def events(self, ref: Reference, *, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        """What happened to it, oldest first."""
        found = self._http.json("GET", f"{_path(ref)}/events", after=after, limit=limit)["events"]
        return [make(Event, one) for one in found]

    def wait(self, ref: Reference, timeout: float | None = None) -> Study:
        """The study once it is over. The server answers when that happens; nobody polls. It may restart meanwhile.

        Raises:
            TimeoutError: it is not over within ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        left, broken_at = 0.0, None
        known: Study | None = None
        while True:
            try:
                known, broken_at = study(self._http.json("GET", f"{_path(ref)}/wait", timeout=left)), None
            except ClientError as error:
                broken_at = _rejoins(error, known is not None, broken_at)
            if known is not None and known.ended:
                return known
            if known is not None and deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"study '{known.name}' is {known.state} after {timeout:g} s")
            left = _WAIT_S if deadline is None else min(_WAIT_S, max(0.0, deadline - time.monotonic()))

    def follow(self, ref: Reference) -> Iterator[Study | Trial]:
        """What becomes of it, as it happens: each trial when it is proposed and when its result is known, and the study
        whenever it changed. It ends with the study that is over.

        When the connection breaks, as in a restart of the server, it is taken up again; a trial may come twice.
        """
        last: str | None = None
        broken_at: float | None = None
        while True:
            try:
                for kind, number, body in self._events(ref, last):
                    last, broken_at = number or last, None
                    yield make(Trial, body) if kind == "trial" else study(body)
                    if kind == "end":
                        return
            except ClientError as error:
                broken_at = _rejoins(error, last is not None, broken_at)
            time.sleep(_PAUSE_S)

    def _events(self, ref: Reference, last: str | None) -> Iterator[tuple[str, str, Any]]:
        """(event, id, data) of the server-sent events."""
        headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
        with self._http.stream("GET", f"{_path(ref)}/follow", headers=headers, timeout=FOLLOW_S) as answer:
            members: dict[str, str] = {}
            for line in lines_of(answer.stream(_BLOCK)):
                if line:
                    name, _, value = line.partition(": ")
                    members[name] = value
                    continue
                if "data" in members:
                    yield members.get("event", ""), members.get("id", ""), json.loads(members["data"])
                members = {}

    def export(self, ref: Reference, *, format: str = "csv", run: int | None = None) -> Iterator[bytes]:
        """All its trials as ``csv``, a line each, or as ``json``, block by block; of its newest run by default."""
        with self._http.stream("GET", f"{_path(ref)}/export", timeout=None, format=format, run=run) as answer:
            yield from answer.stream(_BLOCK)

    def algorithms(self) -> Sequence[Algorithm]:
        """Who can propose trials."""
        return [make(Algorithm, one) for one in self._http.json("GET", "/algorithms")["algorithms"]]


def study(values: Mapping[str, Any]) -> Study:
    """A study with its nested values."""
    nested = dict(values)
    nested["best_trial"] = make(Trial, values["best_trial"]) if values.get("best_trial") else None
    nested["events"] = [make(Event, one) for one in values.get("events", ())]
    nested["curve"] = [(number, value) for number, value in values.get("curve", ())]
    return make(Study, nested)


def _parameter(name: str, given: Any) -> dict[str, Any]:
    try:
        return parameter(name, given, f"space.{name}")
    except LocalmlError as error:
        raise ClientError(error.code.value, error.message, field=error.field) from None


def _path(ref: Reference) -> str:
    return f"/studies/{quote(str(ref), safe='')}"


def _rejoins(error: ClientError, known: bool, broken_at: float | None) -> float:
    """Since when the server does not answer, where it may come back; raises what is none of that."""
    now = time.monotonic()
    broken_at = broken_at or now
    if not known or error.code not in _AWAY or now - broken_at > _REJOIN_S:
        raise error
    time.sleep(_PAUSE_S)
    return broken_at
