"""What a replica's folder says of it, and the end of one whose supervisor could not write it down."""

from __future__ import annotations

import logging
import time

from localml.engines.base import STREAMS, Observed, Phase
from localml.engines.process import cgroups
from localml.engines.process import io as process_io
from localml.engines.process.cgroups import Cgroups
from localml.engines.process.folder import EndRecord, PlanRecord, ReplicaDir, RunningRecord
from localml.engines.process.supervisor import start_ticks

log = logging.getLogger("localml.engines")

_TOLD = "its supervisor was told to end (SIGTERM): the machine, or the service that it belongs to, was shut down"


def observed(
    name: str,
    folder: ReplicaDir,
    plan: PlanRecord,
    phase: Phase,
    running: RunningRecord | None,
    end: EndRecord | None = None,
) -> Observed:
    """The records of a replica as what an engine answers."""
    started = running.started_at if running else None
    if started is None and phase is Phase.RUNNING:
        started = plan.created_at
    return Observed(
        name=name,
        phase=phase,
        exit_code=end.exit_code if end else None,
        signal=end.signal if end else None,
        oom_killed=end.oom_killed if end else False,
        started_at=started,
        finished_at=end.finished_at if end else None,
        address="127.0.0.1",
        error=end.error if end else "",
        interrupted=(end.error or _TOLD) if end and end.interrupted else "",
        labels=plan.labels,
        handle={"directory": str(folder.path)},
    )


def supervisor_of(folder: ReplicaDir) -> int | None:
    """Process number of the living supervisor; None if there is none.

    Raises:
        OSError: the folder cannot be read.
    """
    if (pid := folder.holder()) is not None or folder.has_lock():
        return pid
    running = folder.running()  # somebody deleted the lock: it holds one that has no name
    return running.supervisor if running is not None and _lives(running) else None


def _lives(running: RunningRecord) -> bool:
    try:
        same = start_ticks(running.supervisor) == running.start_ticks
    except (OSError, IndexError):
        return False
    return same and running.boot_id == process_io.boot_id()


def settled(name: str, folder: ReplicaDir, running: RunningRecord | None, groups: Cgroups) -> EndRecord | None:
    """Record the end of a replica whose supervisor died before it could; None if there is one after all.

    Args:
        groups: where the replica's control groups are; what is left in them is killed.
    """
    with folder.owned() as owned:
        if not owned or folder.end() is not None:
            return folder.end()
        end = _end(name, folder, running, groups)
        try:
            folder.write_end(end)
        except OSError as error:  # nobody else is left to tell it, and the disk may never take it
            log.warning("%s: its end cannot be written down: %s", name, error.strerror)
        return end


def _end(name: str, folder: ReplicaDir, running: RunningRecord | None, groups: Cgroups) -> EndRecord:
    if running is None:
        error = f"the supervisor failed: {folder.notes().strip()[-500:] or 'it was killed'}"
        return EndRecord(125, None, False, time.time(), error=error)
    if running.boot_id != process_io.boot_id():
        return EndRecord(None, 9, False, time.time(), error="the machine was restarted", interrupted=True)
    outputs = [folder.path / stream for stream in STREAMS]
    left = process_io.kill_session(running.supervisor, running.start_ticks, outputs, running.outputs)
    for parent in set(groups.parents.values()):
        cgroups.kill_group(parent / name)
    error = "the supervisor was killed"
    if left:
        error += f"; processes that hang in the kernel are left: {', '.join(map(str, sorted(left)))}"
    return EndRecord(None, 9, False, time.time(), error=error, interrupted=True)
