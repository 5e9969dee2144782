"""Searches from the command line: with options alone, from files, resumed, shown, exported, and by their names."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count
from rich.console import Console

from localml.cli import INTERRUPTED, study_file, study_show
from localml.cli.study_live import Screen
from localml.client.studies import Studies
from localml.testing import Localml

Cli = Callable[..., Any]
TRIAL = ("--", "sh", "-c", "echo step=1 loss={x}; echo {params} $LOCALML_TRIAL $LOCALML_STUDY")
GRID = ("--algorithm", "grid", "--param", "x=3,1,2", "--metric", "loss")


@pytest.fixture
def grid(cli: Cli) -> Any:
    """Runs the search of a small grid to its end."""

    def run(name: str, *more: str) -> Any:
        return cli("tune", *GRID, "--name", name, "--follow", *more, *TRIAL)

    return run


@pytest.fixture
def done(cli: Cli, localml: Localml) -> str:
    """The name of one that is complete; the same for all tests that only look."""
    if not localml.client.studies.list(contains="of-three").studies:
        assert cli("tune", *GRID, "--name", "of-three", "--follow", *TRIAL).code == 0
    return "of-three"


def test_a_search_from_options_alone_is_followed_to_its_best_trial(grid: Any) -> None:
    done = grid("options")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line for line in lines if line.startswith("trial ")] == [
        "trial 1 complete  loss=3 (best)  x=3",
        "trial 2 complete  loss=1 (best)  x=1",
        "trial 3 complete  loss=2  x=2",
    ]
    assert lines[3].startswith("options complete: 3 of 3 trials in ")
    assert lines[4].startswith("best: loss=1 by trial 2 (")
    assert lines[5:] == ["  x = 1", "  it ran: sh -c 'echo step=1 loss=1; echo --x 1 $LOCALML_TRIAL $LOCALML_STUDY'"]
    assert "options is begun" in done.err


def test_a_script_of_a_trial_is_not_shown(cli: Cli) -> None:
    script = ("--", "sh", "-c", "# long\necho loss=$1", "sh", "{x}")
    done = cli("tune", *GRID, "--name", "scripted", "--follow", *script)
    assert done.out.splitlines()[-1] == "  it ran: sh -c ... sh 1"


def test_the_largest_is_the_best_where_that_is_asked_for(grid: Any) -> None:
    assert "best: loss=3 by trial 1" in grid("largest", "--maximize").out


def test_what_came_of_it_in_json(grid: Any, cli: Cli) -> None:
    done = grid("as-json", "--json", "--early-stopping", "--take", "last", "--max-failures", "3")
    assert (done.code, done.err) == (0, "")
    assert (done.json["spec"]["early_stopping"], done.json["spec"]["max_failures"]) == ({}, 3)
    assert done.json["spec"]["objective"] == {"metric": "loss", "take": "last"}
    assert (done.json["state"], done.json["best"], done.json["best_trial"]["params"]) == ("complete", 2, {"x": 1})
    shown = cli("study", "as-json", "--json").json
    assert (shown["complete"], shown["curve"]) == (3, [[1, 3.0], [2, 1.0]])
    assert [one["number"] for one in cli("study", "trials", "as-json", "--json").json["trials"]] == [1, 2, 3]
    best = cli("study", "trials", "as-json", "--best", "-n", "2", "--json").json["trials"]
    assert [one["value"] for one in best] == [1.0, 2.0]
    listed = cli("studies", "--all", "--contains", "as-json", "--json").json["studies"]
    assert [(one["name"], one["told"] if "told" in one else one["complete"]) for one in listed] == [("as-json", 3)]


def test_a_study_is_shown_with_its_space_its_best_and_its_trials(done: str, cli: Cli) -> None:
    shown = cli("study", done).out
    for words in (
        "Search:   minimize loss by grid",
        "Param:    x: 3, 1, 2",
        "Trials:   3 of 3 trials, 1 at a time",
        "best: loss=1 by trial 2",
        "2*     complete",
    ):
        assert words in shown
    assert cli("show", f"study/{done}").out.splitlines()[0] == shown.splitlines()[0]
    assert "TRIAL" in cli("study", "trials", done).out
    assert "Created" in cli("events", done).out
    assert cli("why", done).out == f"{done} is complete\n"


def test_all_of_it_is_exported(done: str, cli: Cli, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("study", "export", done).out)))
    assert [(one["number"], one["state"], one["value"], one["params_x"]) for one in rows] == [
        ("1", "complete", "3.0", "3"),
        ("2", "complete", "1.0", "1"),
        ("3", "complete", "2.0", "2"),
    ]
    file = tmp_path / "trials.json"
    assert cli("study", "export", done, "--json", "-o", str(file)).code == 0
    assert [one["value"] for one in json.loads(file.read_text())["trials"]] == [3.0, 1.0, 2.0]
    assert cli("study", "export", "nobody", "-o", str(tmp_path / "none")).code == 1
    assert not (tmp_path / "none").exists()
    assert cli("study", "export", done, "--json", "--csv").json["error"]["field"] == "--csv"


def test_output_is_that_of_its_trials(done: str, cli: Cli) -> None:
    said = cli("logs", f"study/{done}").out.splitlines()
    assert len(said) == 6
    assert said[0].endswith("] step=1 loss=3")
    assert said[1].endswith("] --x 3 1 of-three")
    assert cli("logs", done, "--index", "2").out == "step=1 loss=1\n--x 1 2 of-three\n"
    assert cli("logs", done, "--index", "2", "--follow").out == "step=1 loss=1\n--x 1 2 of-three\n"
    assert len(cli("logs", done, "--follow").out.splitlines()) == 6
    assert len(cli("logs", done, "--json").json["text"].splitlines()) == 6
    trial = cli("study", "trials", done, "--json").json["trials"][0]["workload"]
    assert cli("logs", f"trial/{trial}").out == "step=1 loss=3\n--x 3 1 of-three\n"
    assert cli("logs", done, "--role", "main").err.startswith("error: --role: a study has no roles")


def test_a_search_goes_on_where_it_was(cli: Cli) -> None:
    more = ("--param", "x=0.0..1.0", "--metric", "loss", "-a", "random", "--trials", "2", "--seed", "3")
    assert cli("tune", *more, "--name", "longer", "-f", *TRIAL).code == 0
    refused = cli("tune", "--resume", "longer")
    assert (refused.code, "give more as --trials" in refused.err) == (1, True)
    resumed = cli("tune", "--resume", "longer", "--trials", "4", "--follow")
    assert resumed.code == 0, resumed.err
    told = [line.split()[1] for line in resumed.out.splitlines() if line.startswith("trial ")]
    assert told == ["3", "4"]  # the others were told of before
    assert [one["number"] for one in cli("study", "trials", "longer", "--json").json["trials"]] == [1, 2, 3, 4]
    again = cli("study", "restart", "longer")
    assert again.out == "longer starts over: run 2\n"
    assert cli("wait", "study/longer").out == "longer complete\n"
    runs = cli("study", "trials", "longer", "--run", "0", "--json").json["trials"]
    assert [one["run"] for one in runs] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert [one["params"] for one in runs[:4]] == [one["params"] for one in runs[4:]]  # the same seed


@pytest.mark.parametrize(
    "given", [("--param", "x=1,2"), ("-j", "4"), ("--metric", "acc"), ("sweep.toml",), ("--early-stopping",), TRIAL]
)
def test_what_a_resumed_search_would_not_do_is_refused(cli: Cli, given: tuple[str, ...]) -> None:
    refused = cli("tune", "--resume", "longer", "--trials", "9", *given)
    assert refused.code == 2
    assert "--resume goes on with what the study has: --trials goes with it, and" in " ".join(refused.err.split())


def test_a_trial_is_run_once_more_as_a_job(done: str, cli: Cli) -> None:
    best = cli("study", done, "--json").json["best_trial"]["workload"]
    again = cli("rerun", f"trial/{best}", "--follow")
    assert (again.code, again.out) == (0, "step=1 loss=1\n--x 1 2 of-three\n")
    assert cli("rerun", best).out == f"{best}-3\n"
    assert cli("rerun", best, "--replace").err.endswith(
        "is a trial of a study, which stays; it is run as another job\n"
    )


def test_stop_and_rm_take_studies(cli: Cli, localml: Localml) -> None:
    made = cli("tune", *GRID, "--name", "endless", "--", "sleep", "600")
    assert made.out == "endless\n"
    stopped = cli("stop", "endless", "--wait")
    assert (stopped.code, stopped.out) == (0, "endless stopped\n")
    assert cli("stop", "study/endless").out == "endless has ended already: stopped\n"
    assert cli("rm", "endless").out == "endless removed\n"
    assert cli("study", "endless").code == 1
    cli("tune", *GRID, "--name", "endless", "--", "sleep", "600")  # its name is free
    assert cli("study", "stop", "endless", "--force").out in ("endless asked to stop\n", "endless stopped\n")
    assert cli("rm", "endless", "--json").json["studies"][0]["name"] == "endless"
    assert localml.client.workloads(kind="trial", state=["running", "queued"], contains="endless").workloads == []


def test_a_search_that_fails_says_why_and_exits_so(cli: Cli) -> None:
    done = cli("tune", *GRID, "--name", "fails", "--max-failures", "2", "--follow", "--", "false")
    assert done.code == 1
    assert "trial 1 failed  x=3" in done.out
    assert "fails failed: " in done.err


SPEC = """
name = "{name}"
minimize = "loss"
parallel = 2
code = "project"
metrics = ["acc"]

[algorithm]
name = "random"
RandomSeed = 5

[params]
x = "0.0..1.0"
kind = ["a", "b"]
fixed = 7

[trial]
command = "python3 train.py --x {{x}} --kind {{kind}}"
cpus = 0.1
memory = "64M"
env = {{ FIXED = "{{fixed}}" }}
"""
TRAIN = """
import json, os, sys
config = json.load(open("config.json"))
assert sys.argv[1:] == ["--x", json.dumps(config["x"]), "--kind", config["kind"]], sys.argv
assert json.loads(os.environ["LOCALML_PARAMS"]) == config and os.environ["FIXED"] == "7"
print(f"epoch=1 loss={config['x']:.4f} acc={1 - config['x']:.4f}")
"""


def test_a_file_says_all_of_it_and_options_change_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text(TRAIN)
    file = tmp_path / "sweep.toml"
    file.write_text(SPEC.format(name="filed"))
    done = cli("tune", str(file), "--trials", "3", "-f", "--json")
    assert done.code == 0, (done.out, done.err)
    spec = done.json["spec"]
    assert (spec["parallel"], spec["max_trials"], spec["metrics"]) == (2, 3, {"acc": "latest"})
    assert spec["algorithm"]["name"] == "random"
    [role] = spec["trial"]["roles"]
    assert role["resources"] == {"cpu": 0.1, "memory": 64 << 20}
    trial = cli("study", "trials", "filed", "--json").json["trials"][0]
    assert trial["metrics"]["acc"]["latest"] == pytest.approx(1 - trial["value"], abs=1e-3)
    assert trial["params"]["fixed"] == 7
    changed = cli("tune", str(file), "--name", "changed", "-n", "1", "-p", "x=0.25", "-f", "--param", "kind=a")
    assert changed.code == 0, changed.err
    assert "loss=0.25" in changed.out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("minimise = 'loss'", "sweep.toml: minimise: there is no such member; did you mean minimize?"),
        ("[params]\nx = 'log:1'", "sweep.toml: params.x: 'log:1' is no range; write LOW..HIGH"),
        ("[params]\nx = {low = 1, hihg = 2}", "sweep.toml: params.x.hihg: there is no such member; did you mean high?"),
        ("[trial]\ncomand = 'x'", "sweep.toml: trial: comand: there is no such member; did you mean command?"),
        ("[trial]\nname = 'x'", "sweep.toml: trial.name: is the study's; say it above [trial]"),
        ("minimize = 'a'\nmaximize = 'b'", "sweep.toml: maximize: minimize says already what is searched for"),
        ("objective = {metrik = 'a'}", "sweep.toml: objective: metrik: there is no such member; did you mean metric?"),
        ("params = 3", "sweep.toml: params: must be a table"),
        ("early_stopping = 3", "sweep.toml: early_stopping: must be true, false, or a table"),
        ("[early_stopping]\nmin_trial = 3", "sweep.toml: early_stopping: min_trial: there is no such member; did you"),
        ("metrics = {a = 'most'}", "sweep.toml: metrics: a: must be one of minimize, maximize, latest, not 'most'"),
        ("[params]\nx = '1..2'\n[trial]\ncommand = 'x'", "sweep.toml: minimize: say which of the metrics"),
        ("minimize = 'loss'", "sweep.toml: params: say what is searched"),
        ("minimize = 'loss'\n[params]\nx = '1..2'", "sweep.toml: trial: say what a trial runs"),
        ("x = ", "sweep.toml: "),
    ],
)
def test_a_mistake_in_a_file_is_named_with_what_was_meant(cli: Cli, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    refused = cli("tune", str(file))
    assert refused.code == 1
    assert told in refused.err


_ODD = ["5", "[1]", "{a: [1]}", ".inf", "true"]
_ODDER = ["null", "x", "[]", "[[1]]", "{}", "{name: {a: 1}}", "1e999", "''", "-1", "[a, b]", "{a: {low: .nan}}"]


def test_whatever_a_file_holds_is_a_search_or_named(cli: Cli, tmp_path: Path, long_form: bool) -> None:
    """Each member with values of every kind: what is no search is refused by the file's reader or the server's."""
    file = tmp_path / "odd.yaml"
    usual = {"minimize": "loss", "params": "{x: [1]}", "trial": "{command: 'true'}", "trials": "1", "algorithm": "grid"}
    for name in sorted(study_file.MEMBERS):
        for value in _ODD + _ODDER * long_form:
            members = {**usual, name: value}
            members.pop({"maximize": "minimize", "objective": "minimize", "experiments": "params"}.get(name, ""), None)
            file.write_text("".join(f"{key}: {one}\n" for key, one in members.items()))
            done = cli("tune", str(file), "--json")
            assert "Traceback" not in done.err
            if done.code == 0:
                cli("rm", f"study/{done.json['id']}")
            else:
                assert (done.code, set(done.json)) == (1, {"error"}), (name, value, done)
                assert done.json["error"]["code"] in ("invalid", "not_found", "conflict"), (name, value, done)
                count("requests tried")


def test_experiments_are_a_grids(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text("minimize = 'loss'\nexperiments = [{ x = 2 }, { x = 1 }]\n[trial]\ncommand = 'echo loss={x}'\n")
    done = cli("tune", str(file), "--follow")
    assert done.code == 0, done.err
    assert "best: loss=1 by trial 2" in done.out


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ("parallel = 0", "parallel: should be greater than or equal to 1, not 0"),
        ("seed = -1", "seed: should be greater than or equal to 0"),
        ("max_time = 'soon'", "max_time: must be a time"),
        ("[trial]\ncommand = 'x'\ncpus = -1", "trial.cpus: should be greater than 0"),
        ("[params]\nx = '2..1'\n[trial]\ncommand = 'x'", "params.x: low (2) is above high (1)"),
        ("[params]\nx = '0..1:-1'\n[trial]\ncommand = 'x'", "params.x: "),
    ],
)
def test_what_the_server_refuses_is_called_as_in_the_file(cli: Cli, tmp_path: Path, members: str, told: str) -> None:
    file = tmp_path / "sweep.toml"
    rest = "" if "[params]" in members else "\n[params]\nx = '1..2'"
    rest += "" if "[trial]" in members else "\n[trial]\ncommand = 'x'"
    file.write_text(f"minimize = 'loss'\n{members}{rest}\n")
    assert cli("tune", str(file)).err.startswith(f"error: sweep.toml: {told}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--metric", "loss", "--", "true"), "error: --param: say what is searched, such as --param lr="),
        (("-p", "x=1..2", "--", "true"), "error: --metric: say which of the metrics"),
        (("-p", "x=1..2", "--metric", "loss"), "error: COMMAND: say what a trial runs"),
        (("-p", "x", "--metric", "loss", "--", "true"), "error: --param: must be NAME=VALUES"),
        (("-p", "x=2..1", "--metric", "loss", "--", "true"), "error: --param x: low (2) is above high (1)"),
        (
            ("-p", "x=1..2", "--metric", "l", "-n", "0", "--", "true"),
            "error: --trials: should be greater than or equal",
        ),
        (
            ("-p", "x=1..2", "--metric", "l", "-j", "0", "--", "true"),
            "error: --parallel: should be greater than or equal",
        ),
        (("-p", "x=1..2", "--metric", "l", "--cpus", "-1", "--", "true"), "error: --cpus: should be greater than 0"),
        (("-p", "x=1..2", "--metric", "l", "--max-time", "x", "--", "true"), "error: --max-time: must be a time"),
        (("-p", "x=1..2", "--metric", "l", "--option", "x", "--", "true"), "error: --option: must be NAME=VALUE"),
        (("-p", "x=1..2", "--metric", "l", "--minimize", "--maximize", "--", "true"), "error: --maximize: "),
        (
            ("-p", "x=1..2", "--metric", "l", "--take", "worst", "--", "true"),
            "error: --take: should be 'best' or 'last'",
        ),
        (("-p", "x=1..2", "--metric", "l", "--pool", "nowhere", "--", "true"), "error: --pool: there is no pool"),
        (
            ("-p", "x=1..2", "--metric", "l", "-a", "grd", "--", "true"),
            "error: --algorithm: there is no algorithm 'grd'; built in are random, tpe, bayesian, hyperband, grid",
        ),
        ((), "error: --param: say what is searched"),
        (("/no/such.toml",), "error: SPEC: /no/such.toml does not exist"),
    ],
)
def test_a_mistake_in_options_is_told_in_their_words(cli: Cli, arguments: tuple[str, ...], told: str) -> None:
    refused = cli("tune", *arguments)
    assert (refused.code, refused.err[: len(told)]) == (1, told)


def test_a_command_without_dashes_is_a_usage_error(cli: Cli) -> None:
    refused = cli("tune", "sweep.toml", "python", "train.py")
    assert refused.code == 2
    assert "what a trial runs stands behind --" in refused.err


def test_what_looks_like_a_mistake_in_a_command_is_noted(cli: Cli) -> None:
    first = ("tune", "-p", "rate=1,2", "-a", "grid", "--metric", "loss")
    noted = cli(*first, "--", "true", "{ratee}").err
    assert "{ratee} is no parameter, so it stays as it is; did you mean {rate}?" in noted
    assert "no command has {rate}: trials find their values in config.json and in $LOCALML_PARAMS" in noted
    assert cli(*first, "--", "echo", "{rate}", "{}", "${rat}").err == ""
    assert cli(*first, "--json", "--", "true").err == ""
    endless = cli("tune", "-p", "x=0.0..1.0", "--metric", "loss", "--name", "no-end", "--", "sleep", "{x}")
    assert endless.err == "note: it goes on until it is stopped; --trials or --max-time end it\n"
    cli("rm", "no-end")


def test_the_course_of_the_best_value_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [(1, 8.0), (3, 4.0), (8, 1.0)]
    assert study_show.sparkline(points[:1], 1, 8) == ""
    assert len(study_show.sparkline(points, 1, 8)) == 8
    assert len(study_show.sparkline(points, 1, 1000, width=40)) == 40
    monkeypatch.setattr(study_show, "_BLOCKS", "01234567")
    assert study_show.sparkline(points, 1, 8) in ("77333330", "%%======_", "%%=====_")


@pytest.mark.parametrize(
    ("width", "kept"),
    [
        (200, "TRIAL STATE acc loss learning_rate alpha RAN MESSAGE"),
        (79, "TRIAL STATE acc loss learning_rate alpha RAN MESSAGE"),
        (78, "TRIAL STATE acc loss learning_rate alpha RAN"),
        (56, "TRIAL STATE acc learning_rate alpha RAN"),
        (50, "TRIAL STATE acc learning_rate alpha"),
        (20, "TRIAL STATE acc"),
    ],
)
def test_a_picture_shows_whole_columns(width: int, kept: str) -> None:
    titles = ["TRIAL", "STATE", "acc", "loss", "learning_rate", "alpha", "RAN", "MESSAGE"]
    rows = [[1, study_show.state("pruned"), "0.9", "-", "0.1", "1.23804e-06", "9s", "stopped early: " + "x" * 80]]
    assert [titles[at] for at in study_show.fitted(titles, rows, width, 1)] == kept.split()


class Interrupted:
    """Somebody presses Ctrl-C once the first trial has ended."""

    def __init__(self, follow: Any) -> None:
        self._follow = follow

    def __call__(self, *args: Any) -> Any:
        for item in self._follow(*args):
            yield item
            if getattr(item, "number", 0) and item.ended:
                raise KeyboardInterrupt


def test_who_stops_looking_leaves_the_search_alone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Studies, "follow", lambda *args, usual=Studies.follow: Interrupted(usual)(*args))
        left = cli("tune", *GRID, "--name", "left", "--follow", *TRIAL)
    assert left.code == INTERRUPTED
    assert "left goes on; see it with: localml study follow left" in left.err
    again = cli("study", "follow", "left")
    assert (again.code, again.out.count("trial ")) == (0, 4)
    assert "left complete: 3 of 3 trials" in again.out


def test_a_terminal_shows_how_far_it_is_and_what_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    told = Screen.told

    def watched(self: Screen, item: Any) -> None:
        told(self, item)
        console = Console(width=100, file=io.StringIO(), color_system=None)
        console.print(self._picture())
        seen.append(console.file.getvalue())  # type: ignore[attr-defined]

    monkeypatch.setattr(Screen, "told", watched)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    done = cli("tune", *GRID, "--name", "looked-at", "-j", "2", "--follow", *TRIAL)
    assert done.code == 0, done.err
    last = seen[-1]
    for words in (
        "looked-at: minimize loss by grid, complete",
        "[" + "#" * 30 + "] 3 of 3 trials",
        "best loss=1 by trial 2: x=1",
    ):
        assert words in last
    assert any(" of 3 trials, " in one and " running" in one for one in seen)
    assert "TRIAL" in last
    assert "\x1b[3" not in done.out  # no colours
    assert done.out.endswith("  it ran: sh -c 'echo step=1 loss=1; echo --x 1 $LOCALML_TRIAL $LOCALML_STUDY'\n")


def test_a_trial_is_a_workload_that_says_whose_trial_it_is(done: str, cli: Cli, localml: Localml) -> None:
    number = localml.client.studies.get(done).id
    assert f"Trial:    2 of study {number}" in cli("show", f"{done}-2").out
    assert "succeeded" in cli("why", f"{done}-2").out
    assert f"{done}-2" in cli("ps", "-a", "--kind", "trial").out
