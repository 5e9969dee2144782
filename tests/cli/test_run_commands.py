"""Jobs from the command line: with code, from files, again, in another one's place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count

from localml.testing import Localml

Cli = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("import os, sys; print(os.listdir('.'), os.environ.get('WORD'), sys.argv[1:])\n")
    (folder / ".localmlignore").write_text("*.bin\n.localmlignore\n")
    (folder / "weights.bin").write_bytes(bytes(3 << 20))
    return folder


def test_run_sends_the_folder_and_says_how_large_it_is(cli: Cli, project: Path) -> None:
    done = cli("run", "-f", "--code", str(project), "--", "python3", "train.py", "1")
    assert (done.code, done.out) == (0, "['train.py'] None ['1']\n")
    assert "code: 1 file(s), 77B, is sent" in done.err
    again = cli("run", "-f", "--code", str(project), "--", "python3", "train.py")
    assert "77B, is there already" in again.err
    quiet = cli("run", "--code", str(project), "--json", "--", "true")
    assert (quiet.err, quiet.json["kind"]) == ("", "job")


def test_too_large_a_folder_is_refused_with_a_hint(cli: Cli, project: Path) -> None:
    (project / ".localmlignore").write_text("")
    refused = cli("run", "--code", str(project), "--code-limit", "1M", "--", "true")
    assert refused.code == 1
    for words in ("weights.bin 3M", ".localmlignore", "--code-limit"):
        assert words in refused.err
    assert cli("run", "--code", str(project), "--code-limit", "4M", "--", "true").code == 0
    assert cli("run", "--code", str(project / "nope"), "--", "true").code == 1


TOML = """
name = "filed-{n}"
command = "python3 train.py 'a b'"
code = "project"
time_limit = "8h"
retries = 2
cpus = 0.5
memory = "256M"
env = {{ WORD = 7 }}
"""
YAML = """
name: filed-{n}
command: [python3, train.py, a b]
code: ./project
time_limit: 8h
retries: {{limit: 2}}
resources: {{cpu: 0.5, memory: 256M}}
env: {{WORD: 7}}
"""


@pytest.mark.parametrize(("suffix", "text"), [("toml", TOML), ("yaml", YAML), ("yml", YAML)])
def test_a_job_file_says_what_options_say(cli: Cli, project: Path, suffix: str, text: str) -> None:
    file = project.parent / f"job.{suffix}"
    file.write_text(text.format(n=suffix))
    made = cli("run", "-f", str(file), "--env", "MORE=1")
    assert (made.code, made.out) == (0, f"filed-{suffix}\n"), made.err
    assert cli("logs", "-f", f"filed-{suffix}").out == "['train.py'] 7 ['a b']\n"
    spec = cli("show", f"filed-{suffix}", "--json").json["spec"]
    assert (spec["time_limit"], spec["retries"]) == (28800, {"limit": 2})
    assert spec["roles"][0]["resources"] == {"cpu": 0.5, "memory": 256 << 20}
    assert spec["roles"][0]["env"] == {"WORD": "7", "MORE": "1"}
    changed = cli("run", "--follow", "--file", str(file), "--name", f"other-{suffix}", "--", "echo", "other")
    assert (changed.code, changed.out) == (0, "other\n")


def test_show_as_file_gives_back_the_same_job(cli: Cli, localml: Localml, project: Path, tmp_path: Path) -> None:
    one = localml.client.run(
        ["python3", "train.py"], name="trip", code=project, cpus=0.5, memory="1000M", shm=70000, gpus=0.5,
        env={"A": "1 'x'\nü"}, retries=3, time_limit="90m", priority=5, image="localml/base:latest", workdir=".",
    )  # fmt: skip
    roles = [
        {"name": "ps", "service": True, "command": ["sleep", "600"]},
        {"name": "worker", "command": ["true"], "count": 2},
    ]
    two = localml.client.submit({"roles": roles, "stop_grace": 5}, name="gang")
    for made in (one, two):
        file = tmp_path / "back.yaml"
        file.write_text(cli("show", made.name, "--as-file").out)
        again = cli("run", "-f", str(file), "--name", f"{made.name}-again", "--json").json
        assert localml.client.get(again["id"]).spec == localml.client.get(made.id).spec
        as_json = tmp_path / "back.json"
        as_json.write_text(json.dumps(cli("show", made.name, "--as-file", "--json").json))
        third = cli("run", "-f", str(as_json), "--replace", "--json").json
        assert localml.client.get(third["id"]).spec == localml.client.get(made.id).spec
        cli("rm", str(again["id"]), str(third["id"]))


def test_show_as_file_is_written_as_people_do_in_either_language(cli: Cli, tmp_path: Path) -> None:
    cli("run", "--name", "said", "--time-limit", "36h", "--gpus", "2", "-m", "1G", "-e", "A=1 'x'", "--", "true", "a b")
    shown = cli("show", "said", "--as-file").out
    for line in ("time_limit: 1d12h", "gpus: 2", "memory: 1G"):
        assert line in shown.splitlines()
    (tmp_path / "job.toml").write_text(shown)
    refused = cli("run", "-f", str(tmp_path / "job.toml"))
    assert refused.code == 1
    assert "this is no TOML, it reads as YAML: name it job.yaml" in refused.err


@pytest.mark.parametrize("seconds", [0.25, 1, 90, 3600, 28800, 129600, 100000, 86399, 0.1234])
def test_times_are_shown_exactly(cli: Cli, tmp_path: Path, seconds: float) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"command: 'true'\nname: exact\ntime_limit: {seconds}\n")
    made = cli("run", "-f", str(file), "--replace", "--json").json
    file.write_text(cli("show", str(made["id"]), "--as-file").out)
    again = cli("run", "-f", str(file), "--replace", "--json").json
    assert cli("show", str(again["id"]), "--json").json["spec"]["time_limit"] == seconds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("comand: x", "error: job.yaml: comand: there is no such member; did you mean command?\n"),
        ("name: x", "error: COMMAND: say what to run: localml run -- python train.py, or a job file: -f job.yaml\n"),
        ("[1, 2]", "error: job.yaml: must be members, such as command: python train.py\n"),
        ("command: x\nenv: [A=1]", "job.yaml: env: must be members"),
        ("command: x\nname: 2026-01-01", "job.yaml: name: must be a text, a number, a list or members, not 2026-01-01"),
        ('command: "it\'s"', "job.yaml: command: cannot be parted into words: No closing quotation"),
        ("a: &a [*a]", "levels of lists and members in each other"),
        ("roles: [{comand: x}]", "error: job.yaml: roles.0: comand: there is no such member; did you mean command?\n"),
        ("command: x\ntime_limit: soon", "time_limit: must be a time such as 90s, 30m, 8h or 1d12h, not 'soon'\n"),
        ("a: [", "error: --file: "),
    ],
)
def test_what_is_wrong_in_a_file_is_named(cli: Cli, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    refused = cli("run", "-f", str(file))
    assert (refused.code, told in refused.err) == (1, True), refused.err
    assert "Traceback" not in refused.err


_ODD = ["5", "[1]", "{a: [1]}", ".inf", "true"]
_ODDER = ["null", "x", "[]", "[[1]]", "[null]", "{}", "{a: 1}", "{name: {a: 1}}", "1e999", "''", "-1", "[a, b]"]


def test_whatever_a_file_holds_is_a_job_or_named(cli: Cli, tmp_path: Path, long_form: bool) -> None:
    """Each member with values of every kind: what is no job is refused by the file's reader or the server's."""
    from localml.cli.job_file import known_members

    file = tmp_path / "odd.yaml"
    spec, role = known_members()
    for name in sorted({*spec, *role, "name", "pool", "workspace", "code"}):
        for value in _ODD + _ODDER * long_form:
            file.write_text(f"command: 'true'\n{name}: {value}\n" if name != "command" else f"command: {value}\n")
            done = cli("run", "-f", str(file), "--json")
            assert "Traceback" not in done.err
            if done.code == 0:
                cli("rm", str(done.json["id"]))
            else:
                assert (done.code, set(done.json)) == (1, {"error"}), (name, value, done)
                count("requests tried")


def test_f_before_a_command_still_follows_it(cli: Cli, tmp_path: Path) -> None:
    """A file's name is only meant where ``run``'s own options stand."""
    done = cli("run", "-f", "--env", "A=b.toml", "echo", "-f", "x.yaml")
    assert (done.code, done.out) == (0, "-f x.yaml\n")
    assert cli("run", "-f", str(tmp_path / "no.yaml")).code == 1


def test_rerun_runs_it_as_it_was_with_its_code(cli: Cli, project: Path) -> None:
    cli("run", "-f", "--name", "first", "--env", "WORD=one", "--code", str(project), "--", "python3", "train.py", "1")
    (project / "train.py").write_text("print('new')\n")
    assert cli("rerun", "first").out == "first-2\n"
    assert cli("logs", "-f", "first-2").out == "['train.py'] one ['1']\n"
    changed = cli("rerun", "-f", "first-2", "--env", "WORD=two")
    assert (changed.code, changed.out) == (0, "['train.py'] two ['1']\n")
    assert "first-3" in cli("ps", "-a").out
    fresh = cli("rerun", "-f", "first", "--code", str(project), "--name", "fresh")
    assert fresh.out == "new\n"
    assert cli("rerun", "--replace", "first").out == "first\n"
    assert cli("rerun", "nobody").code == 1


def test_replace_takes_over_the_name(cli: Cli, localml: Localml) -> None:
    cli("run", "--name", "taken", "--", "sleep", "600")
    old = cli("show", "taken", "--json").json["id"]
    refused = cli("run", "--name", "taken", "--", "true")
    assert refused.err == "error: --name: 'taken' is already used by a job; --replace stops and removes it\n"
    refused = cli("run", "--name", "taken", "--replace", "--gpus", "99", "--", "true")
    assert (refused.code, localml.client.get(old).deleted_at) == (1, None)  # what is refused replaces nothing
    assert cli("run", "-f", "--name", "taken", "--replace", "--", "echo", "new").out == "new\n"
    assert localml.client.wait(old, 30).state == "stopped"
    assert localml.client.get(old).deleted_at is not None
    assert cli("run", "--replace", "--", "true").code == 1  # without a name nothing is meant
    assert cli("run", "-f", "--name", "not-there-yet", "--replace", "--", "true").code == 0


def test_all_gpus_are_those_that_are_given_work(cli: Cli) -> None:
    made = cli("run", "--gpus", "all", "--json", "--", "true")
    assert made.json["gpu"] == 2
    cli("drain", "0")
    assert cli("run", "-g", "all", "--json", "--", "true").json["gpu"] == 1
    cli("drain", "0", "--off")
    assert "gpus: must be a number or 'all', not 'most'" in cli("run", "-g", "most", "--", "true").err


def test_times_are_said_alike_by_all_commands(cli: Cli) -> None:
    made = cli("run", "--time-limit", "1d12h", "--json", "--", "true").json
    assert cli("show", made["name"], "--json").json["spec"]["time_limit"] == 129600
    assert "must be a time such as 90s" in cli("scale", "x", "--idle", "soon").err
    assert "must be a time such as 90s" in cli("down", "--timeout", "x").err
    assert "freed" in cli("prune", "--logs-days", "12h").out
    assert "must be a time such as 90s" in cli("prune", "--logs-days", "soon").err


def test_a_notebook_starts_with_ones_code_in_its_folder(cli: Cli, localml: Localml, project: Path) -> None:
    admin = localml.platform.identity.user("admin").id
    started = cli("notebook", "start", "--code", str(project), "--image", "own", "--detach")
    assert (started.code, started.out) == (0, "project\n"), started.err
    assert "code: 1 file(s)" in started.err
    folder = localml.platform.mounts.folder(admin, "project")
    assert (folder / "train.py").exists()
    cli("stop", "--wait", "project")
    (folder / "train.py").write_text("changed in the notebook")
    refused = cli("notebook", "start", "project", "--code", str(project), "--detach")
    assert (refused.code, "train.py" in refused.err, "--replace-code" in refused.err) == (1, True, True)
    assert (folder / "train.py").read_text() == "changed in the notebook"
    again = cli("notebook", "start", "project", "--code", str(project), "--replace-code", "--detach")
    assert again.code == 0, again.err
    assert "import os" in (folder / "train.py").read_text()
    cli("rm", "project")
