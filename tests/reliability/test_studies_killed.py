"""A search whose server is killed at random is the same search: no trial is lost, run twice or proposed otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.killed_studies import Search


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("algorithm", ["tpe", pytest.param("bayesian", marks=pytest.mark.long)])
def test_one_trial_at_a_time_is_the_same_as_undisturbed(tmp_path: Path, algorithm: str, long_form: bool) -> None:
    trials, kills = (16, 3) if not long_form else (200, 20) if algorithm == "tpe" else (50, 10)
    calm = Search(tmp_path / "calm", algorithm, trials, 1)
    calm.run()
    killed = Search(tmp_path / "killed", algorithm, trials, 1)
    killed.run(kills, seed=trials)
    killed.need_each_trial_ran_once()
    assert killed.trials() == calm.trials()
    assert killed.study() == calm.study()
    assert killed.study()["complete"] == trials


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_in_parallel_the_recorded_order_gives_the_same_proposals(tmp_path: Path, long_form: bool) -> None:
    trials, kills = (200, 20) if long_form else (16, 3)
    killed = Search(tmp_path / "killed", "tpe", trials, 4)
    killed.run(kills, seed=7)
    killed.need_each_trial_ran_once()
    study = killed.study()
    assert (study["state"], study["complete"], study["running"]) == ("complete", trials, 0)
    killed.need_replayed()
