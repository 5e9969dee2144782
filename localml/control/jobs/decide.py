"""What to do about one workload, given what is wanted, what is recorded and what the engine says. Pure.

The reconciler loads a :class:`View`, asks :func:`decide`, and carries the decisions out; nothing here touches a
database or an engine, so the whole of it is tested by table and by property.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Protocol

from localml.core.work.causes import CAUSES, FREE_RETRIES, Cause, RetryRule
from localml.core.work.specs import Role, WorkloadSpec
from localml.core.work.states import NOT_BEGUN, AttemptState, Desired, State

_DECIDES_ALONE = frozenset({Cause.ENGINE_LOST, Cause.GPU_LOST, Cause.IMAGE_MISSING, Cause.START_FAILED})
"""Ends that are not the program's own; one of them decides the workload whatever the role's rule says."""
STEADY_S = 600.0
"""A try that ran for so long was none of a row of failures: it is tried again however often that was needed before."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One container of the workload's current try, as recorded."""

    id: int
    name: str
    role: str
    index: int
    state: AttemptState
    ended_at: float | None = None
    exit_code: int | None = None
    cause: Cause | None = None
    message: str = ""
    lost_gpu: str = ""  # why one of its GPUs is unusable now; empty when all are well
    started_at: float | None = None
    exited_at: float | None = None  # its program has exited, and its end waits for the rest of its output
    signal: int | None = None

    @property
    def runs(self) -> bool:
        """Whether its program may still run, or begin: it has neither exited nor ended."""
        return self.state is not AttemptState.ENDED and self.exited_at is None


@dataclass(frozen=True, slots=True)
class View:
    """A workload as recorded, with the attempts of its current try."""

    id: int
    state: State
    desired: Desired
    spec: WorkloadSpec
    outcome: State | None = None
    cause: Cause | None = None
    message: str = ""
    exit_code: int | None = None
    attempt: int = 1
    retries: int = 0
    started_at: float | None = None
    attempts: tuple[AttemptView, ...] = ()
    condemned: str = ""  # why it cannot go on, by no fault of its own; empty when it can
    grace: float | None = None  # other than the spec's


@dataclass(frozen=True, slots=True)
class Begun:
    """What the engine says of a container that was pending and is no more: when its program began, and where it is."""

    at: float
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """What the engine says of a container that is over; ``drained`` once all its output is on disk here, and ``cause``
    None until then, unless it needs no look at the output. ``again`` when somebody has started it once more."""

    exit_code: int | None
    signal: int | None
    cause: Cause | None
    message: str
    at: float
    drained: bool
    _: KW_ONLY
    again: bool = False
    fresh: bool = False  # known for so short a time that the output may be complete in a moment


class World(Protocol):
    """What is known of the engine's side right now."""

    def begun(self, attempt: AttemptView) -> Begun | None:
        """The beginning of a container that was pending, or None while it is or nothing is known."""
        ...

    def ended(self, attempt: AttemptView) -> Ended | None:
        """The end of a container that was pending or running, or None while it is or nothing is known."""
        ...

    def busy(self, attempt: AttemptView) -> bool:
        """Whether a slow act on it is under way."""
        ...

    def hopeless(self, attempt: AttemptView) -> str:
        """Why a planned one is started no more, though the engine answers; empty as long as it is tried."""
        ...


@dataclass(frozen=True, slots=True)
class Begin:
    """Record that a pending container began."""

    attempt: AttemptView
    begun: Begun


@dataclass(frozen=True, slots=True)
class Exit:
    """Record that a program has exited, and give back all that it held; its end waits for the rest of its output.

    ``cause`` is one that cannot be told from the records later: what the kernel or a GPU did.
    """

    attempt: AttemptView
    exit_code: int | None
    signal: int | None
    cause: Cause | None
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class EndAttempt:
    """Record the end of a container and give its GPUs back."""

    attempt: AttemptView
    exit_code: int | None
    signal: int | None
    cause: Cause
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class Move:
    """Move the workload to ``to``; the other members are columns and the event that go with it."""

    to: State
    reason: str
    message: str
    warning: bool = False
    columns: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """Start (or find) the containers of these planned attempts."""

    attempts: tuple[AttemptView, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a running container to end, and end it after ``grace`` seconds."""

    attempt: AttemptView
    grace: float


@dataclass(frozen=True, slots=True)
class Discard:
    """Make sure that nothing exists of an attempt that was only planned, then record its end: that of a failed start
    if ``failed`` says why."""

    attempt: AttemptView
    failed: str = ""


Decision = Begin | Exit | EndAttempt | Move | Start | Stop | Discard


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How the current try ends."""

    state: State
    cause: Cause
    message: str
    exit_code: int | None = None


def decide(view: View, world: World, now: float) -> list[Decision]:
    """The next steps for one workload. Queued ones are admission's business, except that a stop ends them here."""
    if view.state is State.QUEUED:
        if view.desired is Desired.STOP:
            return [_final(view, _stopped(view), now)]
        return [_final(view, _condemned(view), now)] if view.condemned else []
    if view.state not in (State.PREPARING, State.RUNNING, State.STOPPING):
        return []
    decisions: list[Decision] = []
    attempts = [_settle(attempt, world, decisions) for attempt in view.attempts]
    if view.state is State.STOPPING:
        return decisions + _wind_down(view, attempts, world, now)
    outcome = _outcome(view, attempts, now)
    if outcome is not None:
        return decisions + _end(view, attempts, outcome, world, now)
    planned = tuple(one for one in attempts if one.state is AttemptState.PLANNED and not world.busy(one))
    hopeless = [Discard(one, why) for one in planned if (why := world.hopeless(one))]
    if hopeless:
        decisions += hopeless
    elif planned:
        decisions.append(Start(planned))
    elif view.state is State.PREPARING and all(one.state not in NOT_BEGUN for one in attempts):
        decisions.append(running(view.started_at, [one.started_at for one in attempts], now))
    return decisions


def _settle(attempt: AttemptView, world: World, decisions: list[Decision]) -> AttemptView:
    """Record the attempt's beginning and end if the engine reports them, and return it as it stands then."""
    if attempt.state is AttemptState.PENDING and (begun := world.begun(attempt)) is not None:
        attempt = replace(attempt, state=AttemptState.RUNNING, started_at=begun.at)
        decisions.append(Begin(attempt, begun))
    if attempt.state not in (AttemptState.PENDING, AttemptState.RUNNING):
        return attempt
    end = world.ended(attempt)
    if end is None:
        return attempt
    cause, message = end.cause, end.message
    if attempt.lost_gpu and not (end.exit_code == 0 or cause is Cause.COMPLETED):
        cause, message = Cause.GPU_LOST, attempt.lost_gpu
    if attempt.cause is not None:  # told when the program exited
        cause, message = attempt.cause, attempt.message
    if end.again and not world.busy(attempt):  # what it held may be somebody else's by now
        decisions.append(Stop(attempt, 0))
    if not end.drained:
        return _exited(attempt, replace(end, cause=cause, message=message), decisions)
    cause = cause or Cause.ENGINE_LOST
    decisions.append(EndAttempt(attempt, end.exit_code, end.signal, cause, message, end.at))
    return replace(
        attempt, state=AttemptState.ENDED, ended_at=end.at, exit_code=end.exit_code, cause=cause, message=message
    )


def _exited(attempt: AttemptView, end: Ended, decisions: list[Decision]) -> AttemptView:
    """Record a program's exit, once, and return the attempt as it stands then."""
    if attempt.exited_at is None and not end.fresh:
        decisions.append(Exit(attempt, end.exit_code, end.signal, end.cause, end.message, end.at))
        attempt = replace(attempt, exited_at=end.at)
    return attempt


def running(started_at: float | None, begun: Sequence[float | None], now: float) -> Move:
    """All replicas have begun, at these times."""
    columns: dict[str, object] = {} if started_at is not None else {"started_at": _last(begun, now)}
    words = "the replica runs" if len(begun) == 1 else f"all {len(begun)} replicas run"
    return Move(State.RUNNING, "Running", words, columns=columns)


def _last(begun: Iterable[float | None], now: float) -> float:
    """When the last of the replicas began: what the time limit counts from."""
    return min(now, max((one for one in begun if one is not None), default=now))


def _outcome(view: View, attempts: Sequence[AttemptView], now: float) -> _Outcome | None:
    """Whether the current try is decided, and how; the first reason that holds wins."""
    if view.desired is Desired.STOP:
        return _stopped(view)
    if view.condemned:
        return _condemned(view)
    lost = next((one for one in attempts if one.lost_gpu and one.runs), None)
    if lost is not None:
        return _Outcome(State.FAILED, Cause.GPU_LOST, f"{lost.role}-{lost.index}: {lost.lost_gpu}")
    decided = completion(view.spec, attempts)
    if decided is not None:
        return decided
    limit = view.spec.time_limit
    late = limit is not None and view.started_at is not None and now >= view.started_at + limit
    if late and any(one.runs for one in attempts):  # what has exited was in time
        end = State.STOPPED if view.spec.until_stopped else State.FAILED
        return _Outcome(end, Cause.TIME_LIMIT, f"ran longer than its time limit of {limit:g} s")
    return None


def _stopped(view: View) -> _Outcome:
    return _Outcome(State.STOPPED, Cause.STOPPED, view.message or "stopped on request")


def _condemned(view: View) -> _Outcome:
    return _Outcome(State.FAILED, Cause.DEFECT, view.condemned)


def completion(spec: WorkloadSpec, attempts: Sequence[AttemptView]) -> _Outcome | None:
    """Apply the roles' completion rules to the ends recorded so far."""
    ended = sorted(
        (one for one in attempts if one.state is AttemptState.ENDED), key=lambda one: (one.ended_at or 0.0, one.id)
    )
    for one in ended:
        if one.cause in _DECIDES_ALONE:
            return _failed(one)
        if spec.until_stopped and one.cause is Cause.COMPLETED:
            words = f"{one.role}-{one.index}: {one.message}, but it is to run until it is stopped"
            return _Outcome(State.FAILED, Cause.EXIT_CODE, words, one.exit_code)
    by_role = {role.name: [one for one in ended if one.role == role.name] for role in spec.roles}
    finished = sum(1 for one in ended if one.cause is Cause.COMPLETED)
    for role in spec.roles:
        failures = [one for one in by_role[role.name] if one.cause is not Cause.COMPLETED]
        if role.completion.min_failed is not None and len(failures) >= role.completion.min_failed:
            return _failed(failures[0])
        successes = len(by_role[role.name]) - len(failures)
        if role.completion.min_succeeded is not None and successes >= role.completion.min_succeeded:
            return _Outcome(State.SUCCEEDED, Cause.COMPLETED, f"{successes} of role '{role.name}' succeeded", 0)
    if spec.min_succeeded is not None and finished >= spec.min_succeeded:
        return _Outcome(State.SUCCEEDED, Cause.COMPLETED, f"{finished} replicas succeeded", 0)
    workers = [role for role in spec.roles if not role.service]
    if any(len(by_role[role.name]) < role.count for role in workers):
        return None
    return _all_over(workers, by_role)


def _all_over(workers: Sequence[Role], by_role: Mapping[str, list[AttemptView]]) -> _Outcome:
    """All replicas that count have ended without reaching a threshold: a role with no success at all has failed."""
    for role in workers:
        failures = [one for one in by_role[role.name] if one.cause is not Cause.COMPLETED]
        if len(failures) == role.count:
            return _failed(failures[0])
    alone = len(workers) == 1 and workers[0].count == 1
    words = "exit code 0" if alone else "all replicas have ended successfully"
    return _Outcome(State.SUCCEEDED, Cause.COMPLETED, words, 0)


def _failed(attempt: AttemptView) -> _Outcome:
    cause = attempt.cause or Cause.ENGINE_LOST
    return _Outcome(State.FAILED, cause, f"{attempt.role}-{attempt.index}: {attempt.message}", attempt.exit_code)


def _end(view: View, attempts: Sequence[AttemptView], outcome: _Outcome, world: World, now: float) -> list[Decision]:
    if all(one.state is AttemptState.ENDED for one in attempts):
        return [_final(view, outcome, now, attempts)]
    columns = {
        "outcome": outcome.state,
        "cause": outcome.cause,
        "message": outcome.message,
        "exit_code": outcome.exit_code,
    }
    verb = "Stopping" if outcome.state is State.STOPPED else "Ending"
    move = Move(State.STOPPING, verb, outcome.message, outcome.state is State.FAILED, columns)
    return [move, *_stops(view, attempts, world)]


def _stops(view: View, attempts: Sequence[AttemptView], world: World) -> list[Decision]:
    found: list[Decision] = []
    for one in attempts:
        if not one.runs or world.busy(one):
            continue
        if one.state is AttemptState.PLANNED:
            found.append(Discard(one))
        elif world.ended(one) is None:
            found.append(Stop(one, view.spec.stop_grace if view.grace is None else view.grace))
    return found


def _wind_down(view: View, attempts: Sequence[AttemptView], world: World, now: float) -> list[Decision]:
    if any(one.state is not AttemptState.ENDED for one in attempts):
        return _stops(view, attempts, world)
    outcome = _Outcome(view.outcome or State.STOPPED, view.cause or Cause.STOPPED, view.message, view.exit_code)
    return [_final(view, outcome, now, attempts)]


def _final(view: View, outcome: _Outcome, now: float, attempts: Sequence[AttemptView] = ()) -> Move:
    """The move that ends the try: to a final state, or back to the queue for another one."""
    columns: dict[str, object] = {
        "outcome": None,
        "cause": outcome.cause,
        "message": outcome.message,
        "exit_code": outcome.exit_code,
    }
    if view.started_at is None and any(one.started_at is not None for one in attempts):
        # it was over before it was known to run
        columns["started_at"] = _last((one.started_at for one in attempts), now)
    if outcome.state is State.FAILED and view.desired is Desired.RUN and view.state is not State.QUEUED:
        again = _retry(view, outcome.cause, now)
        if again is not None:
            delay = again.pop("delay")
            text = f"{outcome.message}; try {view.attempt + 1} in {delay:g} s"
            return Move(State.QUEUED, "Retrying", text, True, columns | again)
    words = {State.SUCCEEDED: "Succeeded", State.FAILED: "Failed", State.STOPPED: "Stopped"}
    helped = f"{outcome.message}. {CAUSES[outcome.cause].help}" if outcome.state is State.FAILED else outcome.message
    return Move(outcome.state, words[outcome.state], helped, outcome.state is State.FAILED, columns)


def _retry(view: View, cause: Cause, now: float) -> dict[str, object] | None:
    """The columns of another try, or None when the cause or the policy allows none."""
    rule = CAUSES[cause].retry
    free = view.attempt - 1 - view.retries
    policy = view.spec.retries
    if view.started_at is not None and now - view.started_at >= STEADY_S:
        free = 0
    if rule is RetryRule.ALWAYS and (policy.faultless or free < FREE_RETRIES):
        retries, number = view.retries, free + 1
    elif rule is not RetryRule.NEVER and (policy.limit is None or view.retries < policy.limit):
        retries = number = view.retries + 1
    else:
        return None
    delay = policy.delay(number)
    return {
        "delay": delay,
        "attempt": view.attempt + 1,
        "retries": retries,
        "not_before": now + delay,
        "queued_at": now,
        "started_at": None,
    }
