"""What of a command, its variables and its files are parameters."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.core.limits import MOST_PARAMETERS
from localml.core.metrics.parameters import MOST_NAME, MOST_VALUE, of_command, of_file, of_spec
from localml.core.work.specs import Role, WorkloadSpec

COMMANDS: list[tuple[str, dict[str, str]]] = [
    ("python train.py --lr 0.1 --epochs=3 --amp", {"lr": "0.1", "epochs": "3", "amp": "true"}),
    ("python train.py --amp --shift -1 --name small", {"amp": "true", "shift": "-1", "name": "small"}),
    ("python -m pkg.train model.depth=3 +data=cifar", {"model.depth": "3", "data": "cifar"}),
    ("python train.py -lr 0.1 -v", {"lr": "0.1"}),
    ("true", {}),
]


@pytest.mark.parametrize(("line", "found"), COMMANDS)
def test_a_command_says_its_parameters(line: str, found: dict[str, str]) -> None:
    assert of_command(line.split()) == found


def test_so_does_one_within_a_shells(tmp_path: object) -> None:
    assert of_command(["sh", "-c", "cd x && python train.py --lr 0.1 --note 'two words'"]) == {
        "lr": "0.1",
        "note": "two words",
    }


def test_variables_are_parameters_but_for_plumbing_and_secrets() -> None:
    given_variables = {"LR": "0.1", "LOCALML_OUTPUT_URI": "fds://b/o", "PAI_JOB_NAME": "x", "WANDB_API_KEY": "k"}
    more = {"AWS_SECRET_ACCESS_KEY": "s", "HF_TOKEN": "t", "DB_PASSWORD": "p", "PATH": "/bin", "MONKEY": "1"}
    spec = WorkloadSpec(roles=(Role(command=("run",), env=given_variables | more),))
    assert of_spec(spec) == {"LR": "0.1", "MONKEY": "1"}


SECRETS = ["hf-token", "token", "api_key", "openai-api-key", "password", "client.secret", "authToken"]


@pytest.mark.parametrize("name", SECRETS)
def test_what_is_named_as_a_secret_is_left_out_wherever_it_is_said(name: str) -> None:
    command = ("python", "t.py", f"--{name}", "abc", "--lr", "0.1")
    assert of_spec(WorkloadSpec(roles=(Role(command=command, env={name.upper(): "abc"}),))) == {"lr": "0.1"}
    assert of_file("params.json", json.dumps({name: "abc", "model": {name: "abc"}, "lr": 0.1}).encode()) == {
        "lr": "0.1"
    }


@pytest.mark.parametrize("name", ["max_tokens", "max-new-tokens", "tokenizer", "num_tokens", "keypoints", "monkey"])
def test_what_only_sounds_like_one_is_a_parameter(name: str) -> None:
    command = ("python", "t.py", f"--{name}", "3")
    spec = WorkloadSpec(roles=(Role(command=command, env={name.upper(): "4"}),))
    assert of_spec(spec) == {name: "3", name.upper(): "4"}
    assert of_file("params.json", json.dumps({name: 3}).encode()) == {name: "3"}


def test_a_trainer_package_says_its_arguments() -> None:
    launch = json.dumps({"module_name": "t.task", "job_args": "--lr 0.1 --name 'a b'"})
    spec = WorkloadSpec(roles=(Role(command=("run",), env={"LOCALML_LAUNCH": launch}),))
    assert of_spec(spec) == {"lr": "0.1", "name": "a b"}


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        (
            "params.json",
            b'{"lr": 0.1, "ok": true, "none": null, "list": [1, 2]}',
            {"lr": "0.1", "ok": "true", "none": "null", "list": "[1, 2]"},
        ),
        ("params.toml", b"lr = 0.1\n[model]\ndepth = 3\n", {"lr": "0.1", "model.depth": "3"}),
        ("hparams.yaml", b"lr: 0.1\nname: small\n", {"lr": "0.1", "name": "small"}),
        ("params.json", b"[1]", {}),
        ("params.json", b"{", {}),
        ("params.json", b"[" * 100_000, {}),
        ("params.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", {}),
        ("params.yaml", b"!!python/object/apply:os.system [true]", {}),
        ("params.yaml", b"\xff\xfe", {}),
        ("params.toml", b"= = =", {}),
    ],
)
def test_a_file_says_its_values_and_nothing_happens_by_one_that_cannot_be_read(
    name: str, data: bytes, found: dict[str, str]
) -> None:
    assert of_file(name, data) == found


@given(st.binary(max_size=300), st.sampled_from(["params.json", "params.toml", "params.yaml"]))
def test_no_file_is_too_strange(data: bytes, name: str) -> None:
    of_file(name, data)


@given(st.lists(st.text(max_size=30), max_size=20))
def test_no_command_is_too_strange(words: list[str]) -> None:
    of_command(words)


def test_they_are_bounded() -> None:
    found = of_file("params.json", json.dumps({f"p{n}": "x" * 1000 for n in range(2000)} | {"n" * 1000: 1}).encode())
    assert len(found) == MOST_PARAMETERS
    assert max(map(len, found)) <= MOST_NAME
    assert max(map(len, found.values())) <= MOST_VALUE
