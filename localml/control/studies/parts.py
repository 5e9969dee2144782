"""Everything that searches, put together: studies, installed algorithms, their processes and the loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from localml.config import Config
from localml.control.studies.driver import StudyDriver
from localml.control.studies.results import Results
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.logs.files import LogStore
from localml.core.metrics.folders import Objects
from localml.core.metrics.reading import Metrics
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.series.samples import Samples
from localml.core.studies.specs import ResultFile, StudySpec
from localml.core.studies.studies import Studies, StudySubmission
from localml.core.studies.template import result_uri, sample_values, trial_spec
from localml.core.subjects import Subject
from localml.core.work.states import Kind
from localml.core.work.workloads import Submission, Workloads
from localml.hpo.installed import open_algorithms, plugin_of
from localml.store.database import Database


class Searching:
    """The parts of an installation that concern studies.

    Attributes:
        studies, algorithms: the services.
        driver: the loop.

    Args:
        owner: the user of a number, also one that was removed.
        changed: told of every study that changed.
    """

    def __init__(
        self,
        config: Config,
        db: Database,
        clock: Clock,
        workloads: Workloads,
        logs: LogStore,
        metrics: Metrics,
        samples: Samples,
        objects: Objects,
        *,
        owner: Callable[[int], Caller],
        changed: Callable[[Subject], None],
    ) -> None:
        self._workloads = workloads
        self._objects = objects
        self._owner = owner
        self.algorithms, self._suggesters = open_algorithms(config, db, clock, owner)
        self.studies = Studies(db, clock, check=self._check, changed=changed)
        self.driver = StudyDriver(
            db,
            clock,
            self.studies,
            workloads,
            Results(db, logs, metrics, samples, objects),
            self._suggesters,
            owner=owner,
            gone=self.gone,
            plugin=partial(plugin_of, self.algorithms),
            changed=changed,
        )

    def close(self) -> None:
        """End the loop and all suggesters."""
        self.driver.close()
        self._suggesters.close()

    def gone(self, owner_id: int, workspace: str) -> str:
        """Why nothing may begin in the name of a study's owner; empty where it may."""
        owner = self._owner(owner_id)
        of = Thing(ThingKind.STUDY, owner=owner_id, workspace=workspace)
        return "" if may(owner, Action.ENTER, of) else f"{owner.name}, whose it is, may not be inside any more"

    def _check(self, new: StudySubmission) -> StudySpec:
        """Refuse a study whose trials could never run here."""
        spec, values = new.spec, sample_values(new.spec)
        trial = trial_spec(spec, new.name or "study", 1, values)
        name, workspace = new.name or "study", new.workspace
        try:
            self._workloads.check(
                Submission(name, trial, new.caller, new.dialect, Kind.TRIAL, workspace=workspace, pool=new.pool)
            )
        except LocalmlError as error:
            if error.field is not None and not error.field.startswith("trial"):
                error.field = f"trial.{error.field}"
            raise
        if spec.result is not None:
            self._check_result(spec.result.uri, new)
        return spec

    def _check_result(self, uri: str, new: StudySubmission) -> None:
        """Refuse files that can never be read, or that all trials would share."""
        if "{trial}" not in uri and new.spec.max_trials != 1:
            raise invalid("result.uri", "needs {trial}, the trial's number, so that each trial has a file of its own")
        try:
            self._objects.read(new.caller.id, result_uri(ResultFile(uri=uri), 1, 1), 0, 1)
        except LocalmlError as error:
            if error.code in (Code.INVALID, Code.FORBIDDEN):
                raise invalid("result.uri", error.message.removeprefix("uri: ")) from error
        except OSError:  # it may be there later
            pass
