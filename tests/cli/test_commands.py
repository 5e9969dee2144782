"""The commands against a live server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import wait_until

from localml.cli.details import _print_replicas, explain
from localml.client import Client, Reason, Replica
from localml.core.quantities import format_memory
from localml.dialects import REGISTRY
from localml.testing import Localml

Cli = Callable[..., Any]


def test_run_prints_the_name_and_ps_shows_it(cli: Cli) -> None:
    made = cli("run", "--name", "hello", "--", "sleep", "600")
    assert (made.code, made.out) == (0, "hello\n")
    listed = cli("ps")
    assert "hello" in listed.out
    assert cli("rm", "hello").out == "hello removed\n"
    assert "hello" not in cli("ps", "-a").out


def test_run_and_follow_exits_like_the_job(cli: Cli) -> None:
    done = cli("run", "-f", "--env", "WORD=hi", "--gpus", "1", "--", "sh", "-c", "echo $WORD; echo oh >&2; exit 7")
    assert (done.code, done.out) == (7, "hi\n")
    assert "oh\n" in done.err
    assert "exit code 7" in done.err


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--time-limit", "inf", "spec.time_limit: must be a finite number, not inf"),
        ("--cpus", "nan", "spec.roles.0.resources.cpu: must be a finite number, not nan"),
        ("--shm", "9E", "shm: must be a number with a unit (K, M, G or T), such as 512M, not '9E'"),
        ("--retries", "5000", "spec.retries.limit: should be less than or equal to 1000, not 5000"),
    ],
)
def test_what_cannot_be_asked_for_is_named(cli: Cli, option: str, value: str, told: str) -> None:
    refused = cli("run", option, value, "--", "true")
    assert (refused.code, refused.err) == (1, f"error: {told}\n")


def test_follow_marks_lines_of_several_replicas(cli: Cli, localml: Localml) -> None:
    made = localml.client.submit({"roles": [{"command": ["sh", "-c", "echo a; printf b"], "count": 2}]})
    assert sorted(cli("logs", "-f", made.name).out.splitlines()) == [
        "[main-0] a",
        "[main-0] b",
        "[main-1] a",
        "[main-1] b",
    ]


def test_logs(cli: Cli) -> None:
    cli("run", "-f", "--name", "talker", "--", "sh", "-c", "echo 1; echo 2; echo x >&2")
    assert cli("logs", "--stream", "stdout", "talker").out == "1\n2\n"
    assert cli("logs", "--stream", "stdout", "-n", "1", "talker").out == "2\n"
    assert cli("logs", "--stream", "stdout", "--lines", "1", "talker").out == "2\n"
    assert cli("logs", "--stream", "stderr", "talker", "--json").json == {"name": "talker", "text": "x\n"}
    lines = cli("logs", "-f", "talker", "--stream", "stdout", "--json").out.splitlines()
    assert "".join(json.loads(line)["text"] for line in lines) == "1\n2\n"
    wrong = cli("logs", "--role", "boss", "talker")
    assert (wrong.code, "boss" in wrong.err) == (1, True)


def test_a_long_log_goes_into_a_file_as_it_is_with_a_bar_at_the_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar is the terminal's alone: two megabytes arrive byte for byte."""
    cli("run", "-f", "--name", "long", "--", "sh", "-c", "head -c 2000000 /dev/zero; printf '\\377\\n'")
    assert cli("logs", "long").err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    found = cli("logs", "long")
    assert "2.0 MB" in found.err
    assert found.out.encode(errors="surrogateescape") == bytes(2_000_000) + b"\xff\n"
    cli("run", "-f", "--name", "short", "--", "echo", "hello")
    found = cli("logs", "short")
    assert (found.out, found.err) == ("hello\n", "")


def test_show_and_why_explain_a_failure(cli: Cli) -> None:
    cli("run", "-f", "--name", "broken", "--", "sh", "-c", "exit 3")
    shown = cli("show", "broken").out
    for words in ("broken (id ", "failed", "sh -c 'exit 3'", "main-0", "Submitted"):
        assert words in shown
    assert "exit code 3" in cli("why", "broken").out
    assert cli("why", "broken", "--json").json["cause"] == "exit_code"
    assert cli("events", "broken", "--json").json["events"][-1]["reason"] == "Failed"


def test_a_replica_whose_output_is_still_copied_is_shown_as_exited(capsys: pytest.CaptureFixture[str]) -> None:
    known = ("main", 0, 1, "n", "local", "running", None, {}, [], 100.0, None, 3, None, None, "")
    _print_replicas([Replica(*known, exited_at=102.0)])
    assert capsys.readouterr().out.splitlines()[1].split() == ["main-0", "1", "exited", "-", "-", "-", "2s"]


def test_ps_says_that_a_program_has_ended_whose_output_is_still_copied(
    cli: Cli, localml: Localml, monkeypatch: pytest.MonkeyPatch
) -> None:
    localml.client.run(["sleep", "600"], name="over")
    page = localml.client.workloads(contains="over")
    assert [one.exited_at for one in page.workloads] == [None]
    exited = [replace(one, started_at=100.0, exited_at=103.0) for one in page.workloads]
    with monkeypatch.context() as patched:
        patched.setattr(Client, "workloads", lambda *_, **__: replace(page, workloads=exited))
        assert "3s   the program ended; its output is being copied" in cli("ps").out
    cli("rm", "over")


def test_why_of_one_that_is_stuck_says_what_to_do(cli: Cli, localml: Localml) -> None:
    one = localml.client.run(["sleep", "600"], name="hangs")
    told = list(explain(replace(one, why=Reason("stuck", "stuck: main-0: it was to be started 3m ago"))))
    assert told[1:] == ["it is tried again until it succeeds; 'localml doctor' checks the engine and the disk"]
    cli("rm", "hangs")


def test_why_of_one_that_waits(cli: Cli) -> None:
    cli("run", "--name", "big", "--gpus", "2", "--", "sleep", "600")
    cli("run", "--name", "small", "--gpus", "1", "--", "true")
    assert "GPU" in cli("why", "small").out
    assert "simulated" in cli("gpus").out
    assert cli("stop", "--wait", "big").out == "big stopped\n"
    cli("rm", "big", "small")


def test_mounts_show_folders_to_the_job(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("mounted")
    target = tmp_path / "seen"
    done = cli("run", "-f", "-v", f"{tmp_path}:{tmp_path}", "--", "sh", "-c", f"cat {tmp_path}/word")
    assert (done.code, done.out) == (0, "mounted"), done.err
    assert not target.exists()
    assert cli("run", "-v", "nonsense", "--", "true").code == 1


def test_drain_and_back(cli: Cli) -> None:
    assert "localml undrain 0" in cli("drain", "0", "--reason", "noise").out
    assert "drained: noise" in cli("gpus").out
    assert cli("drain", "0", "--off").code == 0
    assert "noise" not in cli("gpus").out


def test_pools(cli: Cli) -> None:
    assert cli("pools", "set", "cli/team", "--gpu", "1", "--memory", "2G").code == 0
    assert "cli/team" in cli("pools").out
    found = {one["name"]: one for one in cli("pools", "--json").json["pools"]}
    assert (found["cli/team"]["gpu"], found["cli/team"]["memory"]) == (1, 2 << 30)
    refused = cli("pools", "rm", "cli")
    assert (refused.code, refused.err) == (1, "error: pool: 'cli' is in use: 1 pool\n")
    assert cli("pools", "rm", "cli/team", "cli").out == "cli/team removed\ncli removed\n"
    assert "cli" not in cli("pools").out


def test_copy_a_folder_in_and_out(cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "deep" / "b.bin").write_bytes(os.urandom(200_000))
    assert cli("cp", str(source), "fds://copied/folder", "--json").json["files"] == 2
    assert cli("cp", "fds://copied/folder", str(tmp_path / "back")).code == 0
    assert (tmp_path / "back" / "deep" / "b.bin").read_bytes() == (source / "deep" / "b.bin").read_bytes()
    assert cli("cp", "s3://copied/folder/a.txt", str(tmp_path)).code == 0
    assert (tmp_path / "a.txt").read_text() == "a"
    assert "fds://copied/folder/deep/" in cli("ls", "fds://copied/folder").out
    both = cli("cp", "fds://a/b", "fds://c/d")
    assert (both.code, "exactly one side" in both.err) == (1, True)
    assert list(tmp_path.glob("**/*.part")) == []


@pytest.mark.parametrize("dialect", [one.name for one in REGISTRY])
def test_env_can_be_evaluated_by_a_shell(cli: Cli, localml: Localml, dialect: str) -> None:

    found = cli("env", dialect, "--format", "json").json
    script = cli("env", dialect).out + "env"
    seen = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    for name, value in found["variables"].items():
        assert not value or f"{name}={value}" in seen  # a password that somebody chose is not known
    plain = cli("env", dialect, "--format", "dotenv")
    assert "export" not in plain.out
    assert ("does not serve" in plain.err) is not found["served"]


def test_logs_of_a_pruned_job_say_that_its_output_is_kept_no_more(cli: Cli) -> None:
    cli("run", "-f", "--name", "old", "--", "echo", "words")
    wait_until(lambda: cli("prune", "--logs-days", "0").code == 0 and not cli("logs", "old").out)
    for follow in ((), ("-f",)):
        told = cli("logs", *follow, "old")
        assert (told.code, told.out) == (0, "")
        assert told.err.endswith("B of its output went, and is kept no more\n")
    assert "OutputPruned" in cli("show", "old").out
    cli("run", "-f", "--name", "silent", "--", "true")
    assert cli("logs", "silent").err == ""
    cli("rm", "old", "silent")


def test_prune_and_backup(cli: Cli) -> None:
    cli("run", "-f", "--name", "wordy", "--", "echo", "words")
    assert cli("prune", "--logs-days", "30", "--dry-run").out.startswith("would free")
    assert Path(cli("backup").out.strip()).is_file()


def test_status_has_stable_members(cli: Cli, localml: Localml) -> None:
    found = cli("status", "--json").json
    assert (found["url"], found["pid"], found["engine"]) == (localml.url, os.getpid(), "process")
    assert {"gateway_url", "data", "install", "version", "uptime", "counts", "gpus", "drained"} <= set(found)
    disk = found["disk"]
    assert 0 < disk["floor"] < disk["total"] > disk["free"]
    assert disk["rules"]["logs_older_than"] == 30 * 86400
    assert (
        f" free of {format_memory(disk['total'])}; below {format_memory(disk['floor'])} old output goes\n"
        f"  kept       output of what ended for 30 days, {format_memory(disk['rules']['keep_log_bytes'])} in all;"
        " the last 64M of each stream of a service\n" in cli("status").out
    )
    assert "2 x Simulated GPU (simulated)" in cli("status").out


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("show", "no-such"), 1, "not_found"),
        (("run", "--gpus", "99", "--", "true"), 1, "capacity"),
        (("run", "--env", "NOVALUE", "--", "true"), 1, "invalid"),
        (("ps", "--sort", "colour"), 1, "invalid"),
        (("ps", "--no-such-option"), 2, "usage"),
    ],
)
def test_failures_in_words_and_as_json(cli: Cli, arguments: tuple[str, ...], code: int, error: str) -> None:
    command, *rest = arguments
    words = cli(command, *rest)
    assert (words.code, words.out) == (code, "")
    assert words.err
    found = cli(command, "--json", *rest)
    assert (found.code, found.json["error"]["code"]) == (code, error)


def test_without_a_server_it_says_how_to_start_one(cli: Cli, tmp_path: Path) -> None:
    found = cli("ps", "--data", str(tmp_path))
    assert (found.code, f"localml up --detach --data {tmp_path}" in found.err) == (2, True)
    assert cli("status", "--json", "--data", str(tmp_path)).json["error"]["code"] == "no_server"
    assert cli("down", "--data", str(tmp_path)).code == 0


def test_images_need_no_server(cli: Cli, tmp_path: Path) -> None:
    listed = cli("images", "list", "--engine", "process", "--json", "--data", str(tmp_path)).json["images"]
    assert {"base", "train-sklearn"} <= {one["name"] for one in listed}


def test_images_of_older_versions_are_shown_and_removed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALML_CACHE", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")  # the machine's own images are not for tests
    assert cli("images", "prune").out == "Older versions left nothing.\n"
    old = tmp_path / "environments" / "base-py311-0123456789ab"
    old.mkdir(parents=True)
    (old / "file").write_bytes(bytes(2048))
    shown = cli("images", "prune", "--dry-run").out.splitlines()
    assert shown == [f"environment {old.name} (2K): would be removed", "This would free at most 2K."]
    assert old.exists()
    found = cli("images", "prune", "--json").json
    assert found["leftovers"] == [{"kind": "environment", "name": old.name, "size": 2048, "kept": ""}]
    assert not old.exists()


def test_names_are_completed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("run", "--name", "completed-by-tab", "--", "true")
    monkeypatch.setenv("_LOCALML_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "localml show completed-b")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert "completed-by-tab" in cli().out
    monkeypatch.delenv("_LOCALML_COMPLETE")
    for shell in ("bash", "zsh", "fish"):
        assert "_LOCALML_COMPLETE" in cli("completion", shell).out


def test_doctor_checks_everything_and_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    found = cli("doctor", "--json", "--data", str(tmp_path)).json
    names = {one["name"] for one in found["checks"]}
    assert {"python", "docker", "memory", "data", "disk", "ports", "cgroups", "clock"} <= names
    for one in found["checks"]:
        assert one["level"] in ("ok", "warn", "fail")
        assert one["message"]
    retention = next(one["message"] for one in found["checks"] if one["name"] == "retention")
    assert "keeps output of what ended 30 days" in retention
    assert found["ok"] is not any(one["level"] == "fail" for one in found["checks"])


def test_version(cli: Cli) -> None:
    assert cli("--version").out == cli("version").out
    assert cli("version", "--json").json["version"]
