"""Studies go as jobs do: some time after they were deleted, or ended, their trials before them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import ME
from helpers.studies import StudyRig

from localml.core.errors import LocalmlError
from localml.core.prune import DAY, PruneRules, prune
from localml.core.studies.tables import StudyState


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[StudyRig]:
    found = StudyRig(tmp_path)
    yield found
    found.driver.close()
    found.close()


def pruned(rig: StudyRig, rules: PruneRules, *, dry_run: bool = False) -> tuple[list[int], int]:
    done = prune(rig.db, rig.data, rules, now=rig.clock.now(), dry_run=dry_run)
    return done.studies, len(done.workloads)


def test_a_deleted_study_goes_with_its_trials_after_a_while(rig: StudyRig) -> None:
    rig.minds.keeps_state = True
    gone, stays = rig.study("gone", max_trials=3), rig.study("stays", max_trials=2)
    rig.run(gone)
    rig.run(stays)
    rig.studies.delete(gone, ME)
    rig.settle(10)  # nothing of its trials is left in the engine
    assert pruned(rig, PruneRules()) == ([], 0)
    rig.clock.advance(31 * DAY)
    assert pruned(rig, PruneRules(), dry_run=True) == ([gone], 3)
    assert rig.row(gone).deleted_at is not None
    assert pruned(rig, PruneRules()) == ([gone], 3)
    with pytest.raises(LocalmlError, match="does not exist"):
        rig.row(gone)
    assert (rig.trials(gone), rig.studies.events(gone)) == ([], [])
    assert len(rig.trials(stays)) == 2


def test_studies_that_ended_go_where_jobs_do_and_no_trial_before_its_study(rig: StudyRig) -> None:
    old = rig.study("old", max_trials=2)
    rig.run(old)
    rig.settle(10)
    rig.clock.advance(50 * DAY)
    runs = rig.study("runs", seconds=None, max_trials=1)
    rig.steps(3)
    rules = PruneRules(jobs_older_than=40 * DAY)
    assert pruned(rig, rules) == ([old], 2)
    rig.clock.advance(50 * DAY)
    assert pruned(rig, rules) == ([], 0)
    assert rig.row(runs).state is StudyState.RUNNING


def test_a_trial_that_was_pruned_is_still_known_to_its_study(rig: StudyRig) -> None:
    """Somebody deleted its workload, which goes; what the algorithm was asked and told stays."""
    number = rig.study(max_trials=3)
    rig.run(number)
    first = rig.trials(number)[0]
    rig.workloads.delete(first.workload_id, ME)
    rig.settle(10)
    rig.clock.advance(31 * DAY)
    assert pruned(rig, PruneRules()) == ([], 1)
    rig.restart()
    rig.studies.resume(number, ME, max_trials=5)
    assert rig.run(number).complete == 5
    rig.need_replayed(number)
