"""The one state machine of a workload: an enum, a table of the moves that exist, and what they mean.

Only :func:`localml.core.work.lifecycle.advance` changes a state, and it asks this table.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a workload is.

    ``queued`` waits for resources; ``preparing`` holds its resources while images are fetched and replicas
    started; ``running`` has all its replicas started; ``stopping`` has an outcome already and waits for its last
    replicas to end; the other three are final.
    """

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.STOPPED})
ACTIVE = frozenset(State) - TERMINAL
HOLDING = frozenset({State.PREPARING, State.RUNNING, State.STOPPING})
"""States in which a workload may hold GPUs and containers."""

_ENDS = frozenset({State.SUCCEEDED, State.FAILED, State.STOPPED})

# A move back to queued is a retry: the try is over, the workload waits again for a place.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.PREPARING, State.STOPPED, State.FAILED}),
    State.PREPARING: frozenset({State.RUNNING, State.STOPPING, State.QUEUED}) | _ENDS,
    State.RUNNING: frozenset({State.STOPPING, State.QUEUED}) | _ENDS,
    State.STOPPING: frozenset({State.QUEUED}) | _ENDS,
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.STOPPED: frozenset(),
}


class Desired(StrEnum):
    """What the user wants; kept apart from what is."""

    RUN = "run"
    STOP = "stop"


class Kind(StrEnum):
    """What sort of thing a workload is."""

    JOB = "job"
    NOTEBOOK = "notebook"
    TENSORBOARD = "tensorboard"
    ENDPOINT = "endpoint"
    TRIAL = "trial"


class AttemptState(StrEnum):
    """Where one container of a replica is: intent written, taken by the engine that has not begun it yet, known to run,
    known to have ended."""

    PLANNED = "planned"
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


NOT_BEGUN = frozenset({AttemptState.PLANNED, AttemptState.PENDING})
"""Where no program has run yet."""


def may_move(old: State, new: State) -> bool:
    """Whether the table has this move."""
    return new in TRANSITIONS[old]
