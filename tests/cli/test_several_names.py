"""Commands that take several names try all of them, tell each failure, and exit with 1 if there was one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.rig import wait_until

from localml.client import Client
from localml.testing import Localml

Cli = Callable[..., Any]


def gone(client: Client, name: str) -> bool:
    return name not in {one.name for one in client.workloads(limit=1000).workloads}


def test_rm_goes_on_after_a_name_that_there_is_not(cli: Cli, localml: Localml) -> None:
    for name in ("several-a", "several-b"):
        localml.client.run(["true"], name=name, wait=True)
    found = cli("rm", "several-a", "several-nope", "several-b", "several-neither")
    assert (found.code, found.out) == (1, "several-a removed\nseveral-b removed\n")
    assert [line for line in found.err.splitlines() if line.startswith("error: ")] == [
        "error: nothing is named 'several-nope'",
        "error: nothing is named 'several-neither'",
    ]
    assert gone(localml.client, "several-a")
    assert gone(localml.client, "several-b")


def test_stop_says_of_what_was_over_how_it_ended(cli: Cli, localml: Localml) -> None:
    localml.client.run(["true"], name="several-over", wait=True)
    for more in ((), ("--wait",)):
        found = cli("stop", "several-over", *more)
        assert (found.code, found.out) == (0, "several-over has ended already: succeeded\n")


def test_stop_says_in_json_what_failed(cli: Cli, localml: Localml) -> None:
    localml.client.run(["sleep", "600"], name="several-c")
    wait_until(lambda: localml.client.get("several-c").state == "running")
    found = cli("stop", "several-nope", "several-c", "--wait", "--json")
    assert found.code == 1
    assert [one["name"] for one in found.json["workloads"]] == ["several-c"]
    assert found.json["failed"] == [
        {
            "name": "several-nope",
            "code": "not_found",
            "message": "nothing is named 'several-nope'",
            "field": None,
        }
    ]
    assert localml.client.get("several-c").state == "stopped"
    localml.client.delete("several-c")


def test_pools_and_runtimes_too(cli: Cli, localml: Localml) -> None:
    for pool in ("several/a", "several/b"):
        localml.client.set_limits(pool, gpu=1)
    found = cli("pools", "rm", "several/a", "several/nope", "several/b")
    assert (found.code, found.out) == (1, "several/a removed\nseveral/b removed\n")
    assert "several/nope" in found.err
    assert not {one.name for one in localml.client.pools()} & {"several/a", "several/b"}
    found = cli("images", "build", "no-such", "neither", "--engine", "process", "--json")
    assert found.code == 1
    assert [one["name"] for one in found.json["failed"]] == ["no-such", "neither"]


def test_a_single_name_fails_as_ever(cli: Cli, localml: Localml) -> None:
    found = cli("rm", "several-nope", "several-nope", "--json")
    assert (found.code, found.json["error"]["code"]) == (1, "not_found")


def test_where_no_server_runs_that_is_said_once(command: Cli, tmp_path: Path) -> None:
    found = command("rm", "a", "b", "--data", str(tmp_path))
    assert (found.code, found.err.count("error: ")) == (2, 1)


def test_wait_waits_for_the_others_and_says_at_once_what_there_is_not(cli: Cli, localml: Localml) -> None:
    for name, code in (("several-d", 0), ("several-e", 7)):
        localml.client.run(["sh", "-c", f"exit {code}"], name=name)
    found = cli("wait", "several-d", "several-nope", "several-e", "several-d")
    assert (found.code, found.out.splitlines()[0]) == (1, "several-d succeeded"), "1: as the first that failed"
    assert found.out.splitlines()[1].startswith("several-e failed: ")
    assert found.err == "error: nothing is named 'several-nope'\n"
    assert cli("wait", "several-e", "several-nope").code == 7
    told = cli("wait", "several-d", "several-nope", "several-e", "--json").json
    assert [one["state"] for one in told["workloads"]] == ["succeeded", "failed"]
    assert [(one["name"], one["code"]) for one in told["failed"]] == [("several-nope", "not_found")]
    for name in ("several-d", "several-e"):
        localml.client.delete(name)


def test_wait_tells_what_did_not_end_in_time_and_how_the_others_ended(cli: Cli, localml: Localml) -> None:
    localml.client.run(["true"], name="several-f", wait=True)
    for name in ("several-g", "several-h"):
        localml.client.run(["sleep", "600"], name=name)
    names = ("several-g", "several-f", "several-h")
    found = cli("wait", "--timeout", "0.1", *names)
    assert (found.code, found.out) == (1, "several-f succeeded\n")
    assert [line.split()[1] for line in found.err.splitlines()] == ["several-g", "several-h"]
    told = cli("wait", "--timeout", "0.1", *names, "--json").json
    assert [one["name"] for one in told["workloads"]] == ["several-f"]
    assert [(one["name"], one["code"]) for one in told["failed"]] == [
        ("several-g", "timeout"),
        ("several-h", "timeout"),
    ]
    only = cli("wait", "--timeout", "0.1", "several-f", "several-nope", "several-g", "--json").json
    assert {one["name"] for one in only["failed"]} == {"several-nope", "several-g"}
    assert cli("wait", "--timeout", "0.1", "several-g", "--json").json["error"]["code"] == "timeout"
    for name in names:
        localml.client.delete(name)
