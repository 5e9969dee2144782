"""A name on the command line means one thing, whatever it is a name of, and every verb knows every noun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.models import serving_server, times

from localml.testing import Localml

Cli = Callable[..., Any]

VERBS = (("show",), ("why",), ("logs",), ("events",), ("ssh",), ("stop",), ("rm",))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    with serving_server(tmp_path_factory.mktemp("names")) as running:
        yield running


@pytest.fixture
def serve(command: Cli, served: Localml, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("LOCALML_DATA", str(served.platform.data))
    return command


@pytest.fixture(scope="module")
def twins(served: Localml, tmp_path_factory: pytest.TempPathFactory) -> Localml:
    """A job and an endpoint named ``twin``, and a model whose name the endpoint has."""
    client, file = served.client, tmp_path_factory.mktemp("model") / "twin.onnx"
    file.write_bytes(times(2.0))
    with file.open("rb") as model:
        client.put("s3://names/twin.onnx", model)
    client.register("twin", "s3://names/twin.onnx")
    made = client.serve("twin")
    client.run(["sh", "-c", "echo words of the job; sleep 600"], name="twin")
    assert client.wait_endpoint(made.id, 120).state == "ready"
    return served


@pytest.mark.parametrize("verb", VERBS, ids=[verb[0] for verb in VERBS])
def test_what_two_things_are_called_is_refused_with_both(verb: tuple[str, ...], serve: Cli, twins: Localml) -> None:
    refused = serve(*verb, "twin")
    assert (refused.code, refused.out) == (1, "")
    assert "job/twin" in refused.err
    assert "endpoint/twin" in refused.err
    assert twins.client.get("twin").desired == "run"
    assert twins.client.endpoint("twin").desired == "run"
    found = serve(*verb, "twin", "--json").json["error"]
    assert [one["ref"] for one in found["details"]["candidates"]] == ["job/twin", "endpoint/twin"]


def test_each_verb_acts_on_the_one_that_is_named(serve: Cli, twins: Localml) -> None:
    assert "sh -c" in serve("show", "job/twin").out
    shown = serve("show", "endpoint/twin")
    assert "/endpoints/twin" in shown.out
    assert "twin-v1-1" in shown.out
    assert "does not wait: it is running" in serve("why", "job/twin").out
    assert "ready" in serve("why", "endpoint/twin").out
    assert serve("events", "job/twin", "--json").json["events"][0]["reason"] == "Submitted"
    assert serve("events", "endpoint/twin", "--json").json["events"][0]["reason"] == "Created"
    assert serve("logs", "job/twin").out == "words of the job\n"
    assert "twin" in serve("show", "model/twin").out


def test_an_endpoint_s_output_is_that_of_its_replicas(serve: Cli, twins: Localml) -> None:
    replica = twins.client.endpoint("twin").variants[0]["replicas"][0]["workload_id"]
    own = twins.client.text(replica)
    assert own
    assert serve("logs", "endpoint/twin").out + serve("logs", "endpoint/twin").err != ""
    assert serve("logs", "replica/twin-v1-1", "--json").json["text"] == own


def test_following_an_endpoint_shows_all_replicas_and_ends_with_it(serve: Cli, twins: Localml) -> None:
    client = twins.client
    made = client.serve("twin", name="followed", scaling={"minimum": 2, "maximum": 2})
    assert client.wait_endpoint(made.id, 120).state == "ready"
    names = {at["workload"] for at in client.endpoint(made.id).variants[0]["replicas"]}
    assert len(names) == 2
    plain = serve("logs", "followed")
    told = serve("logs", "followed", "--json").json["text"]
    for name in names:
        assert f"[{name}] " in plain.out + plain.err
        assert f"[{name}] " in told
    environment = {**os.environ, "LOCALML_DATA": str(twins.platform.data)}
    command = [sys.executable, "-m", "localml.cli", "logs", "-f", "followed"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        seen = set()
        while seen != names:
            line = process.stdout.readline()
            assert line, seen
            seen.add(line.partition("]")[0].removeprefix("["))
        client.stop_endpoint(made.id)
        process.communicate(timeout=120)
    assert process.returncode == 0
    client.delete_endpoint(made.id)


def test_names_that_one_thing_has_need_no_kind(serve: Cli, twins: Localml) -> None:
    twins.client.run(["sleep", "600"], name="single")
    assert serve("show", "single", "--json").json["kind"] == "job"
    assert serve("show", "job/single", "--json").json["name"] == "single"
    assert serve("show", "twin-v1-1", "--json").json["kind"] == "endpoint"
    wrong = serve("show", "endpoint/single")
    assert (wrong.code, wrong.err) == (1, "error: endpoint 'single' does not exist; there is job/single\n")
    assert serve("predict", "single", "[1]").err == "error: endpoint 'single' does not exist; there is job/single\n"
    assert serve("show", "dog/single").err.startswith("error: NAME: 'dog/single' begins with no kind of thing")
    number = twins.client.get("single").id
    assert serve("show", str(number), "--json").json["name"] == "single"
    assert serve("stop", f"id/{number}", "--wait").out == "single stopped\n"
    assert serve("rm", "job/single").out == "single removed\n"


def test_a_number_that_is_a_name_too_is_refused(serve: Cli, twins: Localml) -> None:
    first = twins.client.run(["sleep", "600"], name="one")
    second = twins.client.run(["sleep", "600"], name=str(first.id))
    refused = serve("stop", str(first.id))
    assert (refused.code, "job/one" in refused.err, f"job/{first.id}" in refused.err) == (1, True, True)
    assert serve("stop", f"job/{first.id}", "--wait").out == f"{first.id} stopped\n"
    assert twins.client.get(first.id).desired == "run"
    assert serve("rm", f"id/{second.id}", f"id/{first.id}").code == 0


def test_an_endpoint_is_stopped_while_the_job_of_its_name_goes_on(serve: Cli, twins: Localml) -> None:
    assert serve("stop", "endpoint/twin", "--wait").out == "twin stopped\n"
    assert twins.client.get("twin").desired == "run"
    assert serve("start", "twin").out.startswith("twin is ready")


def test_what_a_list_of_names_has_wrong_keeps_none_of_the_others(serve: Cli, twins: Localml) -> None:
    for name in ("list-a", "list-b"):
        twins.client.run(["sleep", "600"], name=name)
    done = serve("rm", "list-a", "nope", "list-b")
    assert (done.code, done.out) == (1, "list-a removed\nlist-b removed\n")
    assert "nope" in done.err
    twins.client.run(["sleep", "600"], name="list-c")
    found = serve("stop", "nope", "list-c", "--json").json
    assert [one["name"] for one in found["workloads"]] == ["list-c"]
    assert [one["name"] for one in found["failed"]] == ["nope"]
    assert serve("rm", "list-c").code == 0


def test_completion_offers_the_names_of_all_nouns(serve: Cli, twins: Localml, monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_LOCALML_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        try:
            return str(serve().out).split()
        finally:
            monkeypatch.delenv("_LOCALML_COMPLETE")

    found = offered("localml show tw")
    assert found[0] == "twin"
    assert [one.startswith("twin-v1-") for one in found[1:]] == [True]
    assert offered("localml predict tw") == ["twin"]
    assert offered("localml show endpoint/t") == ["endpoint/twin"]


def test_ssh_enters_a_replica_of_an_endpoint(serve: Cli, twins: Localml) -> None:
    access = serve("ssh", "endpoint/twin", "--json")
    assert access.code == 0, access.err
    (door,) = access.json["doors"]
    assert door["role"] == "v1"
    if shutil.which("ssh"):
        place = f"v1/{door['index']}"
        assert serve("ssh", "endpoint/twin", place, "--", "echo", "inside").out == "inside\n"


def test_the_python_client_resolves_too(twins: Localml) -> None:
    assert twins.client.resolve("endpoint/twin").kind == "endpoint"
    assert twins.client.resolve("twin", ["job"]).ref == "job/twin"
