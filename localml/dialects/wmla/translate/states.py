"""Where tasks are, in the words that the vendor's clients know; the same for tasks, experiments and applications."""

from __future__ import annotations

from collections.abc import Collection

from localml.core.work.states import State
from localml.core.work.survey import Stages
from localml.core.work.tables import Workload

NEW, SUBMITTED, UNKNOWN = "NEW", "SUBMITTED", "UNKNOWN"
PENDING, PENDING_CRD = "PENDING_JOB_SCHEDULER", "PENDING_CRD_SCHEDULER"
LAUNCHING, RUNNING, RECOVERING = "LAUNCHING", "RUNNING", "RECOVERING"
FINISHED, KILLED, ERROR = "FINISHED", "KILLED", "ERROR"

ACTIVE_WORDS = (NEW, SUBMITTED, PENDING, PENDING_CRD, LAUNCHING, RUNNING, RECOVERING, UNKNOWN)
"""Those that clients wait on."""
FINAL_WORDS = (FINISHED, KILLED, ERROR)
"""Those that end their waiting."""

STATE_WORDS: dict[State, str] = {
    State.QUEUED: PENDING,
    State.PREPARING: LAUNCHING,
    State.RUNNING: RUNNING,
    State.STOPPING: RUNNING,
    State.SUCCEEDED: FINISHED,
    State.FAILED: ERROR,
    State.STOPPED: KILLED,
}
"""Every state in the vendor's words; a task that ends still has processes, so it runs."""


def state_word(row: Workload) -> str:
    """The state of a task; one that is tried again is ``RECOVERING`` until it runs."""
    if row.attempt > 1 and row.state in (State.QUEUED, State.PREPARING):
        return RECOVERING
    return STATE_WORDS[row.state]


def stages_called(words: Collection[str]) -> Stages:
    """Where tasks are that may be called by one of these words, in any case; one that is none stands for nothing."""
    named = {word.upper() for word in words}
    states = frozenset(state for state, word in STATE_WORDS.items() if word in named)
    return Stages(states, again=RECOVERING in named)
