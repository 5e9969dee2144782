"""Models that jobs write: when a job has succeeded and its output folder holds a model, that becomes a new version.

The folder is what the job itself was told: ``LOCALML_OUTPUT_URI`` in its environment, or ``output_uri`` of its launcher
(``LOCALML_LAUNCH``). An ONNX file is looked for there and in its folder ``model/``, a Python kernel only in the latter,
since a job's own code may well lie in its output. The model is named ``LOCALML_MODEL_NAME``, or as the job. Jobs are
looked at once, in the order in which they ended.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Iterator
from functools import partial

from sqlmodel import Session, col, select

from localml.control.worker import Worker
from localml.core.clock import Clock
from localml.core.errors import LocalmlError
from localml.core.events.records import record_event
from localml.core.people.allow import may_add_version
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.registry.files import KERNEL_FILE, MODEL_FILE, WMLA_FILE
from localml.core.registry.registry import NewVersion, Registry
from localml.core.registry.tables import ModelVersion
from localml.core.rows import Meta
from localml.core.subjects import Subject
from localml.core.work.outputs import OUTPUT, output_uris
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import Kind, State
from localml.core.work.tables import Workload, WorkloadDetail

log = logging.getLogger("localml.control")

NAME = "LOCALML_MODEL_NAME"
REST_S = 1.0
_MODEL_FOLDER = "model"
_CURSOR = "outputs-seen"
_BATCH = 200
_FULL = (errno.ENOSPC, errno.EDQUOT)
_KINDS = (Kind.JOB, Kind.TRIAL)


class OutputWatcher:
    """Registers what jobs leave.

    Args:
        caller: a user by number.
        names: of the files in a folder of objects; none where there is no such folder that the user may read.
    """

    def __init__(
        self,
        db: Store,
        registry: Registry,
        clock: Clock,
        caller: Callable[[int], Caller],
        names: Callable[[Caller, str], list[str]],
    ) -> None:
        self._db = db
        self._clock = clock
        self._registry = registry
        self._caller = caller
        self._names = names
        # a burst of jobs is looked at together
        self._worker = Worker("outputs", self.look, what="registering the models of jobs", rest=REST_S)

    def start(self) -> None:
        """Run on a thread of its own; looks at once at what ended meanwhile."""
        self._worker.start()

    def close(self) -> None:
        """Look no more."""
        self._worker.close()

    def nudge(self) -> None:
        """A workload changed."""
        self._worker.nudge()

    def look(self) -> None:
        """Look at all jobs that have ended since the last look."""
        while True:
            with self._db.read() as session:
                jobs, seen = _next_jobs(session, _cursor(session))
            if not jobs:
                return
            for row, text in jobs:
                self._one(row, text)
            self._remember(seen)

    def _remember(self, seen: str) -> None:
        def act(session: Session) -> None:
            session.merge(Meta(key=_CURSOR, value=seen))

        self._db.write(act)

    def _one(self, row: Workload, text: str) -> None:
        if OUTPUT not in text and "output_uri" not in text:
            return
        caller = self._caller(row.owner_id)
        for source, name in self._candidates(WorkloadSpec.model_validate_json(text), row, caller):
            if self._known(row, source):
                continue
            new = NewVersion(
                name=name,
                source=source,
                caller=caller,
                workspace=row.workspace,
                workload_id=row.id,
                allowed=partial(may_add_version, caller),
            )
            try:
                made = self._registry.register(new)
            except LocalmlError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
                    raise  # the same for all of them; looked at again when something changes
                self._tell(row, source, str(error))
            except Exception as error:  # one job's files must not keep the others' from being registered
                log.exception("the model of workload %s was not registered", row.id)
                self._tell(row, source, f"{type(error).__name__}: {error}")
            else:
                log.info("registered %s, written by workload %s", made.label, row.id)

    def _tell(self, row: Workload, source: str, why: str) -> None:
        words = f"the model in {source} was not registered: {why}"
        log.warning("workload %s: %s", row.id, words)
        now = self._clock.now()
        self._db.write(
            lambda session: record_event(
                session, Subject.workload(row.id or 0), "ModelNotRegistered", words, now=now, warning=True
            )
        )

    def _candidates(self, spec: WorkloadSpec, row: Workload, caller: Caller) -> Iterator[tuple[str, str]]:
        """(URI of a folder with a model, the model's name), at most one for each folder that the job was told."""
        told = {uri: role.env.get(NAME) or row.name for role in spec.roles for uri in output_uris(role.env)}
        for uri, name in told.items():
            folder = self._model_folder(uri.rstrip("/"), caller)
            if folder is not None:
                yield folder, name

    def _model_folder(self, base: str, caller: Caller) -> str | None:
        """The folder with the model; if all that there is leaves it open which file is the model, registering tells."""
        unclear = None
        for folder in (f"{base}/", f"{base}/{_MODEL_FOLDER}/"):
            names = self._files(folder, caller)
            models = [name for name in names if name.endswith(".onnx")]
            kernel = folder != f"{base}/" and (KERNEL_FILE in names or WMLA_FILE in names)
            if MODEL_FILE in models or len(models) == 1 or kernel:
                return folder
            if models:
                unclear = unclear or folder
        return unclear

    def _files(self, folder: str, caller: Caller) -> list[str]:
        try:
            return self._names(caller, folder)
        except LocalmlError:
            return []

    def _known(self, row: Workload, source: str) -> bool:
        """Registered already, before a crash that lost the place in the list."""
        with self._db.read() as session:
            query = select(ModelVersion.id).where(ModelVersion.workload_id == row.id, ModelVersion.source == source)
            return session.exec(query).first() is not None


def _cursor(session: Session) -> tuple[float, int]:
    found = session.get(Meta, _CURSOR)
    if found is None:
        return 0.0, 0
    at, number = json.loads(found.value)
    return float(at), int(number)


def _next_jobs(session: Session, after: tuple[float, int]) -> tuple[list[tuple[Workload, str]], str]:
    """(job, its spec) of the next jobs that succeeded, and the cursor behind them."""
    at, number = after
    query = (
        select(Workload, WorkloadDetail.spec)
        .where(Workload.id == WorkloadDetail.workload_id, Workload.state == State.SUCCEEDED)
        .where(col(Workload.kind).in_(_KINDS), col(Workload.ended_at) >= at)
        .where((col(Workload.ended_at) > at) | (col(Workload.id) > number))
        .order_by(col(Workload.ended_at), col(Workload.id))
        .limit(_BATCH)
    )
    jobs = list(session.exec(query))
    if jobs:
        at, number = jobs[-1][0].ended_at or at, jobs[-1][0].id or 0
    return jobs, json.dumps([at, number])
