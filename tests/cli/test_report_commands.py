"""Metrics, parameters and comparisons of jobs that know nothing of localml."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from cli.conftest import Cli

from localml.client import ClientError
from localml.testing import Localml

TRAIN = """
import sys
lr = float(sys.argv[sys.argv.index('--lr') + 1])
for epoch in (1, 2, 3):
    print(f'epoch={epoch} loss={1 / epoch / lr:.4f} acc={lr * epoch:.4f}')
print('{"final": {"f1": %s}}' % lr, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def jobs(localml: Localml) -> Iterator[list[str]]:
    names = []
    for lr in ("0.1", "0.3", "0.2"):
        env = {"BATCH": "32", "SEED": lr[-1]}
        done = localml.client.run([sys.executable, "-c", TRAIN, "--lr", lr], name=f"train-{lr[-1]}", env=env, wait=True)
        assert done.state == "succeeded", done
        names.append(done.name)
    yield names
    for name in names:
        localml.client.delete(name)


def test_what_a_job_printed_is_its_metrics_as_soon_as_it_is_over(cli: Cli, jobs: list[str]) -> None:
    found = cli("metrics", jobs[0], "--json").json
    assert found["complete"] is True
    assert found["parameters"] == {"lr": "0.1", "BATCH": "32", "SEED": "1"}
    by_name = {one["name"]: one for one in found["metrics"]}
    assert set(by_name) == {"epoch", "loss", "acc", "final/f1"}
    loss = by_name["loss"]
    assert (loss["last"], loss["min"], loss["max"], loss["count"], loss["step"]) == (3.3333, 3.3333, 10, 3, 3)
    assert (loss["replica"], by_name["final/f1"]["last"]) == ("main-0", 0.1)


def test_they_are_shown_as_a_table_and_as_points(cli: Cli, jobs: list[str]) -> None:
    shown = cli("metrics", jobs[1])
    assert shown.code == 0
    assert "lr = 0.3" in shown.out
    rows = [line.split() for line in shown.out.splitlines()]
    assert ["acc", "0.9", "3", "0.3", "0.9", "3", "main-0"] in rows
    points = cli("metrics", jobs[1], "acc", "--json").json["metrics"]["acc"]["main-0"]
    assert [(step, value) for _, step, value in points] == [(1, 0.3), (2, 0.6), (3, 0.9)]
    assert len(cli("metrics", jobs[1], "acc", "-n", "2").out.splitlines()) == 3
    assert "no points" in cli("metrics", jobs[1], "nothing").out


def test_jobs_are_compared_side_by_side_the_best_first(cli: Cli, jobs: list[str]) -> None:
    lines = [line.split() for line in cli("compare", *jobs, "--sort", "acc").out.splitlines()]
    assert lines[0] == ["NAME", "STATE", "RAN", "lr", "SEED", "epoch", "acc", "final/f1", "loss"]  # BATCH is the same
    assert [line[0] for line in lines[1:]] == ["train-3", "train-2", "train-1"]
    lines = [line.split() for line in cli("compare", *jobs, "--sort", "loss", "--ascending").out.splitlines()]
    assert [line[0] for line in lines[1:]] == ["train-3", "train-2", "train-1"]
    by_lr = cli("compare", *jobs, "--sort", "lr", "--columns", "name,BATCH,loss", "--value", "max").out
    assert [line.split() for line in by_lr.splitlines()[1:]] == [
        ["train-3", "32", "3.3333"],
        ["train-2", "32", "5"],
        ["train-1", "32", "10"],
    ]
    found = cli("compare", *jobs, "--sort", "name", "--ascending", "--json").json["workloads"]
    assert [one["metrics"]["acc"]["last"] for one in found] == [0.3, 0.6, 0.9]


@pytest.mark.parametrize("order", [("--sort", "nothing"), ("--value", "mean")])
def test_what_they_do_not_have_is_refused_with_what_there_is(cli: Cli, jobs: list[str], order: tuple[str, str]) -> None:
    refused = cli("compare", *jobs, *order)
    assert refused.code == 1
    assert order[0] in refused.err
    assert ("loss" in refused.err) == (order[0] == "--sort")


def test_a_job_that_is_not_there_is_named(cli: Cli, jobs: list[str]) -> None:
    assert "'nobody'" in cli("compare", jobs[0], "nobody").err
    assert "'nobody'" in cli("metrics", "nobody").err


def test_lists_have_the_columns_that_were_asked_for(cli: Cli, jobs: list[str]) -> None:
    arguments = ("ps", "-a", "--contains", "train-", "--sort", "name", "--ascending", "--columns")
    lines = [line.split() for line in cli(*arguments, "name,state,lr,acc").out.splitlines()]
    assert lines == [
        ["NAME", "STATE", "lr", "acc"],
        ["train-1", "succeeded", "0.1", "0.3"],
        ["train-2", "succeeded", "0.2", "0.6"],
        ["train-3", "succeeded", "0.3", "0.9"],
    ]
    missing = cli(*arguments, "name,auc")
    assert ("auc" in missing.err, missing.out.split()[-1]) == (True, "-")
    assert cli(*arguments, "name,acc", "--json").json["workloads"][0] == {"name": "train-1", "acc": "0.3"}


def test_metrics_come_while_a_job_runs(localml: Localml) -> None:
    script = "import sys, time\nprint('loss=0.5', flush=True)\ntime.sleep(600)"
    made = localml.client.run([sys.executable, "-c", script], name="runs-on")
    try:
        for piece in localml.client.follow(made.id):
            if "loss" in piece.text:
                break
        assert [(one.name, one.last) for one in localml.client.metrics(made.id).metrics] == [("loss", 0.5)]
    finally:
        localml.client.delete(made.id)


def test_files_of_tensorboard_and_of_parameters_in_the_output_folder_count(localml: Localml) -> None:
    script = """
import json, os, struct
folder = os.path.join(os.environ['LOCALML_BUCKETS'], 'reports', 'one')
os.makedirs(os.path.join(folder, 'val'), exist_ok=True)
def field(number, kind, data): return bytes([number << 3 | kind]) + (bytes([len(data)]) if kind == 2 else b'') + data
value = field(1, 2, b'acc') + field(2, 5, struct.pack('<f', 0.75))
event = field(1, 1, struct.pack('<d', 1700000000.0)) + field(2, 0, b'\\x07') + field(5, 2, field(1, 2, value))
with open(os.path.join(folder, 'val', 'events.out.tfevents.1'), 'wb') as file:
    file.write(struct.pack('<Q', len(event)) + b'0000' + event + b'0000')
with open(os.path.join(folder, 'params.json'), 'w') as file:
    json.dump({'depth': 3}, file)
"""
    env = {"LOCALML_OUTPUT_URI": "fds://reports/one"}
    done = localml.client.run([sys.executable, "-c", script], name="writes", env=env, wait=True)
    assert done.state == "succeeded", localml.client.text(done.id)
    found = localml.client.metrics(done.id)
    assert [(one.name, one.last, one.step) for one in found.metrics] == [("val/acc", 0.75, 7)]
    assert found.parameters == {"depth": "3"}
    localml.client.delete(done.id)


def test_they_are_anothers_as_the_job_is(localml: Localml, jobs: list[str]) -> None:
    client = localml.client
    client.people.create_user("mallory", "password-1")
    from localml.client import Client

    with Client(localml.url, client.create_token("mallory")) as other:
        for ask in (
            lambda: other.metrics(jobs[0]),
            lambda: other.points(jobs[0], "acc"),
            lambda: other.compare(jobs[0]),
        ):
            with pytest.raises(ClientError) as refused:
                ask()
            assert refused.value.code == "not_found"
    client.people.remove_user("mallory")
