"""Searches from Python, against a live server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localml.client import ClientError, Study, Trial
from localml.testing import Localml

ECHO = ["sh", "-c", "echo loss={x}"]


@pytest.fixture(scope="module")
def done(localml: Localml) -> Study:
    """One that is complete."""
    made = localml.client.studies.create(
        ECHO, space={"x": [3, 1, 2]}, minimize="loss", algorithm="grid", name="from-python", parallel=2
    )
    assert (made.state, made.planned, made.ended) == ("waiting", 3, False)
    return localml.client.studies.wait(made.id, 60)


def test_a_search_from_python_ends_with_its_best(localml: Localml, done: Study) -> None:
    assert (done.state, done.complete, done.told, done.best_value) == ("complete", 3, 3, 1.0)
    assert done.best_trial is not None
    assert (done.best_trial.params, done.best_trial.ended) == ({"x": 1}, True)
    assert localml.client.studies.best("from-python") == done.best_trial
    assert localml.client.text(done.best_trial.workload_id) == "loss=1\n"
    assert localml.client.studies.trial(done.id, 1).params == {"x": 3}


def test_all_that_happened_is_followed(localml: Localml, done: Study) -> None:
    *trials, last = localml.client.studies.follow(done.id)
    assert isinstance(last, Study)
    assert last.state == "complete"
    assert [one.number for one in trials if isinstance(one, Trial)] == [1, 2, 3]
    assert localml.client.studies.events(done.id)[0].reason == "Created"


def test_trials_and_studies_are_listed_over_pages(localml: Localml, done: Study) -> None:
    found = list(localml.client.studies.trials(done.id, limit=1))
    assert [one.value for one in found] == [3.0, 1.0, 2.0]
    assert [one.number for one in localml.client.studies.trials(done.id, after=2)] == [3]
    assert list(localml.client.studies.trials(done.id, state="failed")) == []
    assert done.id in [one.id for one in localml.client.studies.all(limit=1)]
    assert json.loads(b"".join(localml.client.studies.export(done.id, format="json")))["study"]["best"] == 2
    assert "tpe" in [one.name for one in localml.client.studies.algorithms()]


def test_one_goes_on_starts_over_and_goes(localml: Localml) -> None:
    studies = localml.client.studies
    made = studies.create(ECHO, space={"x": "0.0..1.0"}, maximize="loss", algorithm="random", trials=1, seed=1)
    assert studies.wait(made.id, 60).told == 1
    with pytest.raises(ClientError, match="give more"):
        studies.resume(made.id)
    studies.resume(made.id, trials=2)
    assert [one.number for one in studies.trials(studies.wait(made.id, 60).id)] == [1, 2]
    assert studies.restart(made.id).run == 2
    assert studies.stop(made.id, force=True).desired == "stop"
    assert studies.wait(made.id, 60).ended
    assert studies.delete(made.id).deleted_at is not None
    with pytest.raises(ClientError, match="does not exist"):
        studies.get(made.id)


def test_a_folder_of_code_goes_with_each_trial(localml: Localml, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import json; print('loss =', json.load(open('config.json'))['x'])\n")
    made = localml.client.studies.create(
        ["python3", "train.py"], space={"x": [0.5]}, minimize="loss", algorithm="grid", code=str(tmp_path)
    )
    assert localml.client.studies.wait(made.id, 60).best_value == 0.5


def test_who_waits_too_long_hears_of_it(localml: Localml) -> None:
    made = localml.client.studies.create(["sleep", "60"], space={"x": [1]}, minimize="loss", algorithm="grid")
    with pytest.raises(TimeoutError, match=rf"study '{made.name}' is \w+ after 0.1 s"):
        localml.client.studies.wait(made.id, 0.1)
    localml.client.studies.delete(made.id)


def test_what_is_wrong_is_a_client_s_error(localml: Localml) -> None:
    studies = localml.client.studies
    with pytest.raises(ClientError, match="'log:1' is no range"):
        studies.create(ECHO, space={"x": "log:1"}, minimize="loss")
    with pytest.raises(ClientError, match="give one of minimize and maximize"):
        studies.create(ECHO, space={"x": [1]})
    with pytest.raises(ClientError, match="max_time: must be a finite number"):
        studies.create(ECHO, space={"x": [1]}, minimize="loss", max_time=float("inf"))
    with pytest.raises(ClientError, match="parallel"):
        studies.create(ECHO, space={"x": [1]}, minimize="loss", parallel=0)
