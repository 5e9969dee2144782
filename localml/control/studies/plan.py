"""What is to be done about one study, from what is recorded and known. Pure: no clock, no database, no threads.

A study's suggester is asked and told in one order, which the records keep. So while it is being asked, or has proposed
what is not recorded yet, results wait; a study that ends needs it no more, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from localml.core.studies.specs import Goal, StudySpec
from localml.core.studies.tables import StudyState, TrialState
from localml.core.studies.trials import Outcome, StudyRow, TrialRow
from localml.core.work.causes import Cause
from localml.core.work.states import TERMINAL, Desired, State


class TalkState(Enum):
    """Where the talk with a study's suggester is."""

    FREE = "free"
    BUSY = "busy"  # it is being asked, or what it proposed is being recorded
    WAITS = "waits"  # it has nothing to propose before it is told more


@dataclass(frozen=True, slots=True)
class Report:
    """What a trial reported. ``trouble`` says why there is no value, where there is none; ``said`` is the last line of
    a program that failed."""

    value: float | None = None
    metrics: dict[str, Any] | None = None
    trouble: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """All that the plan of a study depends on.

    Attributes:
        trials: those that are not told, by number.
        reports: of those of them that are over, what was read so far.
        bad: trials that are to be stopped early, as they do worse than others: number -> why.
        exhausted: whether the suggester has said that it will propose nothing more.
        failure: why there can be no more proposals; empty where there can.
    """

    row: StudyRow
    spec: StudySpec
    trials: tuple[TrialRow, ...] = ()
    reports: dict[int, Report] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    talk: TalkState = TalkState.FREE
    exhausted: bool = False
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Tell:
    """Record what came of a trial. ``improves``: it is better than all before it."""

    number: int
    outcome: Outcome
    improves: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Have a trial end; ``early``: because it does worse than others."""

    trial: TrialRow
    words: str
    early: bool = False
    now: bool = False  # without time to end by itself


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        reads: trials whose results are to be read.
        tells, stops: to be recorded, with ``columns`` of the study, all in one write.
        events: (reason, words, warning) that go with it.
        asks: whether the suggester is to be asked for the next trial.
        over: whether nothing follows any more.
    """

    reads: tuple[TrialRow, ...] = ()
    tells: tuple[Tell, ...] = ()
    stops: tuple[Stop, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    events: tuple[tuple[str, str, bool], ...] = ()
    asks: bool = False
    over: bool = False

    @property
    def writes(self) -> bool:
        """Whether there is something to be recorded."""
        return bool(self.tells or self.stops or self.columns)


def plan(view: View, now: float) -> Plan:
    """The next steps of a study that is not over."""
    row = view.row
    over = [one for one in view.trials if one.state is None or one.state in TERMINAL]
    reads = tuple(one for one in over if one.state is not None and one.number not in view.reports)
    tells = []
    after = row if row.exhausted or not view.exhausted else replace(row, exhausted=True)
    for one in _tells(view, over):
        before, after = after, told(after, one.outcome, one.number, view.spec)
        tells.append(replace(one, improves=after.best == one.number != before.best))
    after, words = _ending(view, after, tells, now)
    if after.state is StudyState.STOPPING and not after.running:
        after = replace(after, state=after.outcome or StudyState.STOPPED)
    columns: dict[str, Any] = {}
    if after is not row:
        columns = {name: new for name in _COLUMNS if (new := getattr(after, name)) != getattr(row, name)}
    final = after.state not in (StudyState.WAITING, StudyState.RUNNING, StudyState.STOPPING)
    if final:
        columns["ended_at"] = now
    stops = () if final else tuple(_stops(view, after, {one.number for one in tells}))
    return Plan(
        reads=reads,
        tells=tuple(tells),
        stops=stops,
        columns=columns,
        events=tuple(_events(row, after, words, final=final)),
        asks=_may_ask(view, after),
        over=final,
    )


# -- results -------------------------------------------------------------------------------------------


def judge(trial: TrialRow, report: Report) -> Outcome:
    """What came of a trial whose workload is over."""
    metrics = report.metrics
    if trial.state is State.SUCCEEDED:
        if report.value is None:
            return Outcome(TrialState.FAILED, None, metrics, report.trouble or "it reported nothing")
        return Outcome(TrialState.COMPLETE, report.value, metrics)
    if trial.state is State.FAILED:
        words = f"{trial.message}: {report.said}" if report.said else trial.message
        return Outcome(TrialState.FAILED, None, metrics, words or "it failed")
    if trial.pruning and trial.cause is Cause.STOPPED:
        return Outcome(TrialState.PRUNED, report.value, metrics, trial.message)
    words = trial.message if trial.state is not None else "its workload is there no more"
    return Outcome(TrialState.STOPPED, None, metrics, words)


def _tells(view: View, over: Sequence[TrialRow]) -> Iterator[Tell]:
    if view.talk is TalkState.BUSY and view.row.state is not StudyState.STOPPING and not view.failure:
        return
    for one in over:
        if one.state is None:
            yield Tell(one.number, judge(one, Report()))
        elif one.number in view.reports:
            yield Tell(one.number, judge(one, view.reports[one.number]))


_COLUMNS = (
    *("state", "outcome", "message", "running", "complete", "pruned", "failed", "stopped", "failing"),
    *("best", "best_value", "sequence", "exhausted"),
)
"""Of a study: those that a plan changes."""
_COUNTED = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAILED: "failed",
    TrialState.STOPPED: "stopped",
}


def told(row: StudyRow, outcome: Outcome, number: int, spec: StudySpec) -> StudyRow:
    """A study's columns once one of its trials is told."""
    counted = _COUNTED[outcome.state]
    failing = row.failing
    if outcome.state is TrialState.FAILED:
        failing += 1
    elif outcome.state is not TrialState.STOPPED:  # that somebody stopped one says nothing of the others
        failing = 0
    best, best_value = row.best, row.best_value
    value = outcome.value if outcome.state is TrialState.COMPLETE else None
    if value is not None and (best_value is None or is_better(value, best_value, spec.objective.goal)):
        best, best_value = number, value
    columns: dict[str, Any] = {counted: getattr(row, counted) + 1, "running": row.running - 1}
    columns |= {"failing": failing, "best": best, "best_value": best_value, "sequence": row.sequence + 1}
    return replace(row, **columns)


def is_better(value: float, other: float, goal: Goal) -> bool:
    """Whether a value of the objective is better than another one."""
    return value * goal.sign < other * goal.sign


# -- the end -------------------------------------------------------------------------------------------


def _ending(view: View, row: StudyRow, tells: Sequence[Tell], now: float) -> tuple[StudyRow, str]:
    """The study once it is known whether it is to end, and why."""
    if row.state is StudyState.STOPPING:
        return row, row.message
    found = _why(view, row, tells, now)
    if found is None:
        return row, ""
    outcome, words = found
    return replace(row, state=StudyState.STOPPING, outcome=outcome, message=words), words


def _why(view: View, row: StudyRow, tells: Sequence[Tell], now: float) -> tuple[StudyState, str] | None:
    spec = view.spec
    if view.failure:
        return StudyState.FAILED, view.failure
    if spec.max_failures is not None and row.failing >= spec.max_failures:
        return StudyState.FAILED, f"{row.failing} trials in a row failed{_last_failure(tells)}"
    if row.deadline is not None and now >= row.deadline:
        return _whether_any(row, tells, f"its time of {spec.max_time:g} s is over")
    if row.running or view.talk is TalkState.BUSY:
        return None
    if row.exhausted or (view.talk is TalkState.WAITS and not tells):
        return _whether_any(row, tells, "")
    if spec.max_trials is not None and row.had >= spec.max_trials:
        return _whether_any(row, tells, "")
    return None


def _whether_any(row: StudyRow, tells: Sequence[Tell], words: str) -> tuple[StudyState, str]:
    """Complete, unless no trial gave anything."""
    if row.complete or row.pruned or not row.failed:
        return StudyState.COMPLETE, words
    return StudyState.FAILED, f"none of its {row.had} trials gave a result{_last_failure(tells)}"


def _last_failure(tells: Sequence[Tell]) -> str:
    failed = [one.outcome.message for one in tells if one.outcome.state is TrialState.FAILED]
    return f"; the last one: {failed[-1]}" if failed else ""


def _stops(view: View, row: StudyRow, told_now: set[int]) -> Iterator[Stop]:
    for one in view.trials:
        if one.state is None or one.state in TERMINAL or one.number in told_now:
            continue
        if row.state is StudyState.STOPPING:
            if one.desired is Desired.RUN or (row.forced and one.grace != 0):
                yield Stop(one, _stop_words(row), now=row.forced)
        elif one.number in view.bad and one.desired is Desired.RUN:
            yield Stop(one, view.bad[one.number], early=True)


def _stop_words(row: StudyRow) -> str:
    ended = {StudyState.FAILED: "failed", StudyState.COMPLETE: "is complete"}.get(
        row.outcome or StudyState.STOPPED, "was stopped"
    )
    return f"its study {ended}" + (f": {row.message}" if row.message else "")


def _may_ask(view: View, row: StudyRow) -> bool:
    most = view.spec.max_trials
    return (
        view.talk is TalkState.FREE
        and row.state in (StudyState.WAITING, StudyState.RUNNING)
        and row.desired is Desired.RUN
        and not row.exhausted
        and row.running < view.spec.parallel
        and (most is None or row.had < most)
    )


def _events(row: StudyRow, after: StudyRow, words: str, *, final: bool) -> Iterator[tuple[str, str, bool]]:
    failed = StudyState.FAILED in (after.state, after.outcome)
    if after.best != row.best:
        yield "Improved", f"trial {after.best} is the best: {after.best_value:g}", False
    if final:
        yield "Ended", f"{after.state}: {words}" if words else str(after.state), failed
    elif after.state is not row.state and after.state is StudyState.STOPPING:
        yield "Ending", f"{after.outcome}: {words}" if words else str(after.outcome), failed
