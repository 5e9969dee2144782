"""The judge of one workload: every answer it can give is a legal move, and the same question twice changes nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.control.jobs.decide import (
    STEADY_S,
    AttemptView,
    Begin,
    Begun,
    Discard,
    EndAttempt,
    Ended,
    Exit,
    Move,
    Start,
    Stop,
    View,
    completion,
    decide,
)
from localml.core.work.causes import CAUSES, FREE_RETRIES, Cause, classify
from localml.core.work.specs import Completion, RetryPolicy, Role, WorkloadSpec
from localml.core.work.states import NOT_BEGUN, TERMINAL, TRANSITIONS, AttemptState, Desired, State, may_move


class FixedWorld:
    def __init__(
        self, ends: dict[str, Ended] | None = None, busy: set[int] | None = None, begun: dict[str, Begun] | None = None
    ) -> None:
        self._ends, self._busy, self._begun = ends or {}, busy or set(), begun or {}

    def begun(self, attempt: AttemptView) -> Begun | None:
        return self._begun.get(attempt.name)

    def ended(self, attempt: AttemptView) -> Ended | None:
        return self._ends.get(attempt.name)

    def busy(self, attempt: AttemptView) -> bool:
        return attempt.id in self._busy

    def hopeless(self, attempt: AttemptView) -> str:
        return ""


def attempt(number: int, state: AttemptState = AttemptState.RUNNING, role: str = "main", **rest: object) -> AttemptView:
    return AttemptView(number, f"a{number}", role, number, state, **rest)


SPEC = WorkloadSpec(roles=(Role(command=("x",)),))


def view(state: State, *attempts: AttemptView, desired: Desired = Desired.RUN, **rest: object) -> View:
    return View(1, state, desired, rest.pop("spec", SPEC), attempts=attempts, **rest)


def end(cause: Cause | None = Cause.COMPLETED, code: int | None = 0, drained: bool = True) -> Ended:
    return Ended(code, None, cause, "words", 5.0, drained)


def test_planned_replicas_are_started_once() -> None:
    planned = attempt(1, AttemptState.PLANNED)
    assert decide(view(State.PREPARING, planned), FixedWorld(), 0) == [Start((planned,))]
    assert decide(view(State.PREPARING, planned), FixedWorld(busy={1}), 0) == []


def test_it_runs_when_all_replicas_do() -> None:
    assert [type(one) for one in decide(view(State.PREPARING, attempt(1)), FixedWorld(), 7)] == [Move]
    assert decide(view(State.PREPARING, attempt(1), attempt(2, AttemptState.PLANNED)), FixedWorld(busy={2}), 7) == []


def test_a_pending_replica_keeps_all_waiting_and_no_time_counts_before_it_begins() -> None:
    spec = WorkloadSpec(roles=(Role(command=("x",), count=2),), time_limit=10)
    waiting = view(State.PREPARING, attempt(1, started_at=3.0), attempt(2, AttemptState.PENDING), spec=spec)
    assert decide(waiting, FixedWorld(), 1000) == []
    begin, moved = decide(waiting, FixedWorld(begun={"a2": Begun(900.0)}), 1000)
    assert begin == Begin(AttemptView(2, "a2", "main", 2, AttemptState.RUNNING, started_at=900.0), Begun(900.0))
    assert isinstance(moved, Move)
    assert (moved.to, moved.columns) == (State.RUNNING, {"started_at": 900.0})


def test_a_pending_replica_is_stopped_in_the_engine_and_may_end_without_having_begun() -> None:
    pending = attempt(1, AttemptState.PENDING)
    moved, stop = decide(view(State.PREPARING, pending, desired=Desired.STOP), FixedWorld(), 0)
    assert isinstance(moved, Move)
    assert stop == Stop(pending, SPEC.stop_grace)
    ended, over = decide(view(State.STOPPING, pending, outcome=State.STOPPED), FixedWorld({"a1": end()}), 0)
    assert isinstance(ended, EndAttempt)
    assert isinstance(over, Move)
    assert (over.to, "started_at" in over.columns) == (State.STOPPED, False)


def test_what_ended_before_it_was_known_to_run_has_a_start() -> None:
    now = view(State.PREPARING, attempt(1, started_at=3.0))
    moved = decide(now, FixedWorld({"a1": end()}), 9)[-1]
    assert isinstance(moved, Move)
    assert (moved.to, moved.columns["started_at"]) == (State.SUCCEEDED, 3.0)


def test_an_end_counts_only_when_its_output_is_complete() -> None:
    running = view(State.RUNNING, attempt(1))
    exited = decide(running, FixedWorld({"a1": end(None, drained=False)}), 0)
    assert exited == [Exit(attempt(1), 0, None, None, "words", 5.0)]
    left = view(State.RUNNING, attempt(1, exited_at=5.0))
    assert decide(left, FixedWorld({"a1": end(None, drained=False)}), 0) == []
    settled, moved = decide(running, FixedWorld({"a1": end()}), 0)
    assert isinstance(settled, EndAttempt)
    assert isinstance(moved, Move)
    assert moved.to is State.SUCCEEDED


def test_what_runs_once_more_after_its_exit_is_stopped_at_once() -> None:
    """Somebody started its container, and its GPU is another's by now."""
    left = view(State.RUNNING, attempt(1, exited_at=5.0))
    again = Ended(0, None, None, "words", 5.0, False, again=True)
    assert decide(left, FixedWorld({"a1": again}), 0) == [Stop(attempt(1, exited_at=5.0), 0)]
    assert decide(left, FixedWorld({"a1": again}, busy={1}), 0) == []


def test_a_stop_reaches_running_replicas_and_discards_planned_ones() -> None:
    now = view(State.PREPARING, attempt(1), attempt(2, AttemptState.PLANNED), desired=Desired.STOP)
    moved, stop, discard = decide(now, FixedWorld(), 0)
    assert isinstance(moved, Move)
    assert moved.to is State.STOPPING
    assert isinstance(stop, Stop)
    assert isinstance(discard, Discard)


def test_what_the_user_stopped_is_never_tried_again_nor_called_a_success() -> None:
    spec = WorkloadSpec(roles=SPEC.roles, retries=RetryPolicy(limit=5))
    now = view(State.RUNNING, attempt(1), desired=Desired.STOP, spec=spec, message="stopped by me")
    moved = decide(now, FixedWorld({"a1": end()}), 0)[-1]
    assert isinstance(moved, Move)
    assert (moved.to, moved.message) == (State.STOPPED, "stopped by me")


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_a_rule_and_it_is_kept(cause: Cause) -> None:
    spec = WorkloadSpec(roles=SPEC.roles, retries=RetryPolicy(limit=1))
    outcomes = []
    retries = 0
    for number in itertools.count(1):
        now = view(State.RUNNING, attempt(1), spec=spec, attempt=number, retries=retries)
        moved = decide(now, FixedWorld({"a1": end(cause, 0 if cause is Cause.COMPLETED else 1)}), 0)[-1]
        assert isinstance(moved, Move)
        outcomes.append(moved.to)
        if moved.to is not State.QUEUED:
            break
        retries = int(str(moved.columns["retries"]))
    if cause is Cause.COMPLETED:
        assert outcomes == [State.SUCCEEDED]
        return
    again = {"policy": 1, "always": FREE_RETRIES + 1, "never": 0}[CAUSES[cause].retry]
    assert outcomes == [State.QUEUED] * again + [State.FAILED]


@pytest.mark.parametrize(
    ("policy", "cause", "again"),
    [
        (RetryPolicy(limit=None), Cause.EXIT_CODE, True),
        (RetryPolicy(limit=None), Cause.OOM, True),
        (RetryPolicy(limit=None), Cause.TIME_LIMIT, False),
        (RetryPolicy(faultless=True), Cause.EXIT_CODE, False),
        (RetryPolicy(faultless=True), Cause.ENGINE_LOST, True),
        (RetryPolicy(faultless=True), Cause.IMAGE_MISSING, False),
        (RetryPolicy(limit=1000), Cause.ENGINE_LOST, False),
    ],
)
def test_what_is_tried_again_for_ever(policy: RetryPolicy, cause: Cause, again: bool) -> None:
    """After 2,000 tries, of which 1,000 counted."""
    spec = WorkloadSpec(roles=SPEC.roles, retries=policy)
    now = view(State.RUNNING, attempt(1), spec=spec, attempt=2001, retries=1000)
    moved = decide(now, FixedWorld({"a1": end(cause, 1)}), 0)[-1]
    assert isinstance(moved, Move)
    assert (moved.to is State.QUEUED) is again


@pytest.mark.parametrize(
    ("min_failed", "min_succeeded", "ends", "expected"),
    [
        (1, None, "F..", State.FAILED),
        (2, None, "F..", None),
        (2, None, "FF.", State.FAILED),
        (None, None, "FFS", State.SUCCEEDED),
        (None, None, "FFF", State.FAILED),
        (1, 1, "S..", State.SUCCEEDED),
        (1, 2, "S..", None),
        (1, None, "SS.", None),
        (1, None, "SSS", State.SUCCEEDED),
    ],
)
def test_completion_rules(min_failed: int | None, min_succeeded: int | None, ends: str, expected: State | None) -> None:
    rule = Completion(min_failed=min_failed, min_succeeded=min_succeeded)
    spec = WorkloadSpec(roles=(Role(command=("x",), count=3, completion=rule),))
    causes = {"F": Cause.EXIT_CODE, "S": Cause.COMPLETED}
    attempts = [
        attempt(n, AttemptState.ENDED, ended_at=float(n), cause=causes[one], exit_code=int(one == "F"))
        if one != "."
        else attempt(n)
        for n, one in enumerate(ends)
    ]
    found = completion(spec, attempts)
    assert (found.state if found else None) == expected


def test_infrastructure_failures_decide_whatever_the_rule_says() -> None:
    spec = WorkloadSpec(roles=(Role(command=("x",), count=2, completion=Completion(min_failed=2)),))
    found = completion(spec, [attempt(0, AttemptState.ENDED, cause=Cause.ENGINE_LOST), attempt(1)])
    assert found is not None
    assert found.cause is Cause.ENGINE_LOST


def test_the_table_has_no_way_out_of_a_final_state_and_every_state_is_reachable() -> None:
    assert all(not TRANSITIONS[state] for state in TERMINAL)
    reached = {State.QUEUED}
    for _ in State:
        reached |= {new for old in reached for new in TRANSITIONS[old]}
    assert reached == set(State)


attempt_views = st.builds(
    AttemptView,
    st.integers(0, 5),
    st.sampled_from(["a0", "a1", "a2"]),
    st.just("main"),
    st.integers(0, 3),
    st.sampled_from(AttemptState),
    st.sampled_from([None, 1.0, 2.0]),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([None, *Cause]),
    st.just(""),
    st.sampled_from(["", "XID 79"]),
    st.sampled_from([None, 1.0]),
    st.sampled_from([None, None, 1.0]),
)
begins = st.dictionaries(st.sampled_from(["a0", "a1", "a2"]), st.builds(Begun, st.floats(0, 2000)))
ends = st.dictionaries(
    st.sampled_from(["a0", "a1", "a2"]),
    st.builds(
        Ended,
        st.sampled_from([None, 0, 1]),
        st.none(),
        st.sampled_from([None, *Cause]),
        st.just("w"),
        st.just(1.0),
        st.booleans(),
    ),
)


@given(
    st.sampled_from(State),
    st.sampled_from(Desired),
    st.lists(attempt_views, max_size=3, unique_by=lambda one: one.id),
    ends,
    st.sampled_from([None, *TERMINAL]),
    st.integers(0, 3),
    st.sets(st.integers(0, 5)),
    begins,
    st.floats(0, 1000),
    st.sampled_from(["", "a defect"]),
)
def test_every_decision_is_legal(
    state: State,
    desired: Desired,
    attempts: list[AttemptView],
    known: dict[str, Ended],
    outcome: State | None,
    retries: int,
    busy: set[int],
    begun: dict[str, Begun],
    now: float,
    condemned: str,
) -> None:
    if state is State.QUEUED:
        attempts = []  # what waits has no containers
    spec = WorkloadSpec(
        roles=(Role(command=("x",), count=max(1, len(attempts))),), time_limit=10, retries=RetryPolicy(limit=2)
    )
    current = View(
        1, state, desired, spec, outcome, None, "", None, retries + 1, retries, 0.0, tuple(attempts), condemned
    )
    decisions = decide(current, FixedWorld(known, busy, begun), now)
    moves = [one for one in decisions if isinstance(one, Move)]
    assert len(moves) <= 1
    for move in moves:
        assert may_move(state, move.to)
        if move.to in TERMINAL or move.to is State.QUEUED:
            closed = {one.attempt.id for one in decisions if isinstance(one, EndAttempt)}
            assert all(one.state is AttemptState.ENDED or one.id in closed for one in attempts)
        if move.to is State.RUNNING:
            came = {one.attempt.id for one in decisions if isinstance(one, Begin)}
            assert all(one.state not in NOT_BEGUN or one.id in came for one in attempts)
        assert move.columns.get("started_at") is None or 0 <= move.columns["started_at"] <= now
        if condemned and desired is Desired.RUN and state is not State.STOPPING:
            assert move.to in (State.FAILED, State.STOPPING)
        if desired is Desired.STOP and state is not State.STOPPING:
            assert move.to in (State.STOPPED, State.STOPPING)
    if state in TERMINAL:
        assert decisions == []
    touched = [one.attempt.id for one in decisions if isinstance(one, Stop | Discard)]
    assert not set(touched) & busy
    left = {one.id for one in attempts if one.exited_at is not None}
    assert not left & {one.attempt.id for one in decisions if isinstance(one, Stop | Discard | Exit)}
    gone = {one.attempt.id for one in decisions if isinstance(one, Exit)}
    assert not gone & {one.attempt.id for one in decisions if isinstance(one, EndAttempt | Stop)}


@given(st.integers(0, 255), st.sampled_from([None, 9, 15]), st.booleans(), st.binary(max_size=50))
def test_every_end_has_a_cause_and_only_zero_is_a_success(
    code: int, signal: int | None, oom: bool, tail: bytes
) -> None:
    cause, words = classify(None if signal else code, signal, oom_killed=oom, log_tail=tail)
    assert words
    assert (cause is Cause.COMPLETED) == (code == 0 and signal is None and not oom)


@pytest.mark.parametrize(
    ("code", "tail", "expected"),
    [
        (1, b"RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB", Cause.CUDA_OOM),
        (1, b"OSError: [Errno 28] No space left on device: 'x'", Cause.DISK_FULL),
        (1, b"RuntimeError: CUDA error: uncorrectable ECC error encountered", Cause.GPU_LOST),
        (137, b"", Cause.SIGNAL),
        (3, b"ValueError", Cause.EXIT_CODE),
    ],
)
def test_what_the_log_says_names_the_cause(code: int, tail: bytes, expected: Cause) -> None:
    cause, words = classify(code, None, log_tail=tail)
    assert cause is expected
    if code == 137:
        assert "SIGKILL" in words


def test_enough_successes_of_any_roles_decide_the_workload() -> None:
    spec = WorkloadSpec(roles=(Role(name="a", count=2), Role(name="b", count=2)), min_succeeded=2)

    def over(number: int, role: str, cause: Cause = Cause.COMPLETED) -> AttemptView:
        return attempt(number, AttemptState.ENDED, role, cause=cause)

    assert completion(spec, [over(1, "a"), attempt(2, role="b")]) is None
    done = completion(spec, [over(1, "a"), over(2, "b"), attempt(3, role="b")])
    assert done is not None
    assert done.state is State.SUCCEEDED
    failed = completion(spec, [over(1, "a"), over(2, "b", Cause.EXIT_CODE)])
    assert failed is not None
    assert failed.state is State.FAILED


@pytest.mark.parametrize(("ran", "again"), [(1.0, False), (STEADY_S, True)])
def test_what_ran_for_long_is_tried_again_after_any_number_of_lost_engines(ran: float, again: bool) -> None:
    """A machine that is restarted now and then; not a job that takes its engine down each time."""
    lost = attempt(1, AttemptState.ENDED, cause=Cause.ENGINE_LOST, ended_at=5.0)
    now = view(State.RUNNING, lost, attempt=FREE_RETRIES + 1, retries=0, started_at=1000.0)
    (step,) = decide(now, FixedWorld(), 1000.0 + ran)
    assert isinstance(step, Move)
    assert (step.to is State.QUEUED) == again
    assert not again or (step.columns["retries"], step.columns["attempt"]) == (0, FREE_RETRIES + 2)
