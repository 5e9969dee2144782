"""``localml workspaces`` and ``localml token`` against a live server."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click import Command, Context

from localml.cli.completion import (
    complete_buckets,
    complete_keys,
    complete_tokens,
    complete_users,
    complete_workspaces,
)
from localml.core.errors import LocalmlError
from localml.testing import Localml, start

Cli = Callable[..., Any]


@pytest.fixture
def team(cli: Cli, localml: Localml) -> Iterator[str]:
    """A workspace, and a user who is none of its members."""
    if "ann" not in {one["name"] for one in localml.client.users()}:
        localml.client.create_user("ann", "secret")
    made = cli("workspaces", "create", "cli-team", "--description", "Of the tests", "--json").json
    yield str(made["id"])
    for one in localml.client.all(workspace=made["id"], deleted=True):
        localml.client.delete(one.id)
        localml.client.wait(one.id)
    assert cli("workspaces", "delete", made["id"]).out.endswith(" is deleted\n")


def test_a_workspace_is_shared_and_closed_again(cli: Cli, team: str) -> None:
    listed = {one["name"]: one for one in cli("workspaces", "list", "--json").json["workspaces"]}
    assert (listed["cli-team"]["role"], listed["admin"]["personal"]) == ("owner", True)
    assert "cli-team" in cli("workspaces").out
    assert cli("workspaces", "add-member", "cli-team", "ann").out == "ann is member of cli-team\n"
    assert cli("workspaces", "add-member", team, "ann", "--role", "viewer").out == "ann is viewer of cli-team\n"
    shown = cli("workspaces", "show", "cli-team").out
    assert "Of the tests" in shown
    assert [line.split()[:2] for line in shown.splitlines()[3:]] == [["admin", "owner"], ["ann", "viewer"]]
    assert cli("workspaces", "remove-member", "cli-team", "ann").out == "ann is no member of cli-team any more\n"
    assert [one["user"] for one in cli("workspaces", "show", team, "--json").json["members"]] == ["admin"]


def test_a_workspace_is_changed(cli: Cli, team: str) -> None:
    changed = cli("workspaces", "change", "cli-team", "--name", "cli gang", "--everyone", "viewer", "--json").json
    assert (changed["name"], changed["everyone"], changed["description"]) == ("cli gang", "viewer", "Of the tests")
    assert "every user is viewer" in cli("workspaces", "show", "cli gang").out
    assert cli("workspaces", "change", team, "--everyone", "none", "--json").json["everyone"] is None


def test_what_commands_name_is_completed(cli: Cli, team: str) -> None:
    assert cli("buckets", "create", "completed").code == 0
    assert cli("token", "create", "--name", "complete-me").code == 0
    ctx = Context(Command("any"))
    assert complete_workspaces(ctx, "cli-t") == [("cli-team", "Of the tests")]
    assert complete_buckets(ctx, "compl") == [("completed", "admin's")]
    assert complete_tokens(ctx, "complete-") == [("complete-me", "")]


def test_a_bucket_is_made_shared_moved_and_deleted(cli: Cli, team: str) -> None:
    made = cli("buckets", "create", "cli-data", "--workspace", "cli-team", "--json").json
    assert (made["workspace"], made["owner"], made["everyone"]) == (team, "admin", None)
    assert cli("buckets", "create", "cli-data").err == "error: name: a bucket 'cli-data' exists\n"
    [row] = [line.split() for line in cli("buckets").out.splitlines() if "cli-data" in line]
    assert row[:4] == ["cli-data", "cli-team", "admin", "-"]
    assert cli("buckets", "change", "cli-data", "--everyone", "viewer").out == "bucket cli-data is changed\n"
    assert "every user is viewer" in cli("buckets", "show", "cli-data").out
    moved = cli("buckets", "change", "cli-data", "--everyone", "none", "-w", "admin", "--json").json
    assert (moved["everyone"], moved["workspace"] == team) == (None, False)
    assert "cli-data" in [one["name"] for one in cli("buckets", "list", "--json").json["buckets"]]
    assert cli("buckets", "delete", "cli-data").out == "bucket cli-data is deleted\n"
    assert cli("buckets", "show", "cli-data").code == 1


def test_jobs_run_and_are_listed_in_a_workspace(cli: Cli, team: str) -> None:
    made = cli("run", "--workspace", "cli-team", "--name", "cli-shared", "--follow", "--json", "--", "true").json
    assert made["workspace"] == team
    cli("run", "--name", "cli-own", "--follow", "--", "true")
    found = cli("ps", "-a", "--workspace", "cli-team", "--json").json["workloads"]
    assert [one["name"] for one in found] == ["cli-shared"]
    for command in ("endpoints", "models"):
        assert cli(command, "--workspace", "cli-team", "--json").json == {command: []}
        assert cli(command, "--workspace", "cli-nothing").code == 1
    refused = cli("run", "--workspace", "cli-nothing", "--", "true")
    assert (refused.code, refused.err) == (1, "error: workspace 'cli-nothing' does not exist\n")


def test_what_runs_keeps_a_workspace(cli: Cli, team: str) -> None:
    cli("run", "--workspace", team, "--name", "cli-runs", "--", "sleep", "60")
    refused = cli("workspaces", "delete", "cli-team")
    assert (refused.code, refused.err) == (1, "error: workspace cli-team holds 1 workload\n")


def test_a_token_from_create_to_revoke(cli: Cli, localml: Localml, monkeypatch: pytest.MonkeyPatch) -> None:
    token = cli("token", "create", "--name", "ci", "--scope", "read,workload:stop", "--expires", "8h").out.strip()
    [made] = [one for one in cli("token", "list", "--json").json["tokens"] if one["name"] == "ci"]
    assert made["scope"]["rights"] == ["*:read", "workload:stop"]
    assert made["expires_at"] - made["created_at"] == 8 * 3600
    assert token not in cli("token", "list").out
    assert "*:read, workload:stop" in cli("token", "list").out

    with monkeypatch.context() as environment:
        environment.setenv("LOCALML_URL", localml.url)
        environment.setenv("LOCALML_TOKEN", token)
        environment.delenv("LOCALML_DATA")
        assert cli("ps").code == 0
        refused = cli("run", "--", "true")
        assert (refused.code, "its scope leaves that out" in refused.err) == (1, True)
    assert cli("token", "revoke", "ci").out == "token ci is revoked\n"
    assert cli("token", "revoke", "ci").code == 1


def test_a_token_for_one_workload_alone(cli: Cli) -> None:
    cli("run", "--name", "cli-one", "--follow", "--", "true")
    number = cli("show", "cli-one", "--json").json["id"]
    made = cli("token", "create", "--scope", "workload", "--for", "workload:cli-one", "--json").json
    assert made["scope"] == {"rights": ["workload:*"], "workspace": None, "thing": f"workload:{number}"}
    assert cli("token", "revoke", made["id"], "--json").json["id"] == made["id"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("token", "create", "--expires", "soon"), "--expires: must be a time"),
        (("token", "create", "--scope", "fly"), "scope: 'fly' is none of NOUN, ACTION and NOUN:ACTION"),
        (("token", "create", "--for", "workload"), "thing: 'workload' is no noun and id"),
        (("token", "create", "--workspace", "cli-nothing"), "workspace 'cli-nothing' does not exist"),
        (("workspaces", "create", "a/b"), "NAME: 'a/b' must be"),
        (("workspaces", "create", "x", "--everyone", "king"), "everyone"),
        (("workspaces", "delete", "admin"), "workspace admin is admin's own"),
    ],
)
def test_what_is_refused_says_why(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    refused = cli(*arguments)
    assert (refused.code, words in refused.err) == (1, True), refused.err


def test_a_user_from_add_to_remove(cli: Cli, localml: Localml, monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    typed("secret\n")
    token = cli("users", "add", "kim").out.rpartition(" ")[2].strip()
    assert "kim" in cli("users").out
    assert {"admin", "kim"} <= {one["name"] for one in cli("users", "list", "--json").json["users"]}
    assert [label for label, _ in complete_users(Context(Command("users")), "ki")] == ["kim"]
    with monkeypatch.context() as environment:
        environment.setenv("LOCALML_URL", localml.url)
        environment.setenv("LOCALML_TOKEN", token)
        environment.delenv("LOCALML_DATA")
        assert cli("keys", "--json").json["keys"][0]["made_by"] == "kim"
        typed("changed\n")
        said = cli("users", "password", "kim").out
        assert said.startswith("the password of kim is changed: 1 tokens and 1 keys are good for nothing now\n")
        assert cli("keys").code == 1
        environment.setenv("LOCALML_TOKEN", said.rpartition(" ")[2].strip())
        assert cli("keys").out == "No keys.\n"
    typed("")
    assert cli("users", "password", "kim").code == 1
    assert cli("users", "revoke", "kim", "--json").json == {"tokens": 1, "keys": 0, "token": None}
    assert cli("users", "remove", "kim").out == "user kim is removed\n"
    assert cli("users", "remove", "kim").code == 1


def test_a_key_from_create_to_revoke(cli: Cli) -> None:
    access, secret = cli("keys", "create", "--name", "laptop").out.split()
    assert len(secret) == 40
    [made] = [one for one in cli("keys", "list", "--json").json["keys"] if one["id"] == access]
    assert (made["name"], made["made_by"], made["used_at"]) == ("laptop", "admin", None)
    assert [access, "laptop"] in [line.split()[:2] for line in cli("keys").out.splitlines()]
    assert secret not in cli("keys").out
    assert (access, "laptop") in complete_keys(Context(Command("keys")), "AK")
    assert cli("keys", "revoke", "laptop").out == "key laptop is revoked\n"
    assert cli("keys", "revoke", access).code == 1


def test_the_administrators_own_password_is_changed_and_the_command_line_goes_on(
    command: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(tmp_path)  # one of its own, for it ends what the other tests get in with
    try:
        monkeypatch.setenv("LOCALML_DATA", str(running.platform.data))
        monkeypatch.setattr("sys.stdin", io.StringIO("chosen\n"))
        assert command("users", "password", "admin").code == 0
        assert command("token", "list").code == 0
        assert command("env", "openpai", "--format", "json").json["password"] == ""
        shown = command("env", "openpai")
        assert ("PAI_PASSWORD" in shown.out, "PAI_TOKEN=" in shown.out) == (False, True)
        assert "PAI_PASSWORD is left out" in shown.err
    finally:
        running.close()


def test_the_address_for_mlbenchs_client_is_each_users_own(
    cli: Cli, localml: Localml, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = localml.platform.identity
    token = identity.create_token(identity.create_user("eve", "the first password"))
    monkeypatch.setenv("LOCALML_URL", localml.url)
    monkeypatch.setenv("LOCALML_TOKEN", token)
    line = cli("env", "mlbench").out
    assert cli("env", "mlbench").out == line  # and no further token
    url = line.strip().removeprefix("export MLBENCH_DASHBOARD_URL=")
    assert url.startswith("http://eve:")
    assert url.endswith("@" + localml.url.removeprefix("http://"))
    listed = [one["name"] for one in cli("token", "list", "--json").json["tokens"]]
    assert listed.count("mlbench") == 1
    assert cli("env", "cloudml").code == 1  # what the administrator's file holds is for administrators
    secret = url.partition("@")[0].rpartition(":")[2]
    assert identity.by_basic("eve", secret).scope.restricts
    identity.set_password("eve", "another password")
    with pytest.raises(LocalmlError):
        identity.by_token(secret)
    identity.remove_user("eve")
