"""Every command can be found, tried and completed; what is said of a mistake is said in the command's own words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from localml.cli import show
from localml.cli.app import app
from localml.cli.help import GROUPS
from localml.dialects import REGISTRY, served
from localml.testing import Localml

Cli = Callable[..., Any]
ROOT: Any = typer.main.get_command(app)
EXAMPLE = re.compile(r"^\s*Example: (.*\blocalml .+)$", re.MULTILINE)
NAMING = re.compile(
    r"names?|pools?|workspace|user|owner|tokens?|key|buckets?|gpu|gpu_type|models?|version|variant|reference|image|onto"
    r"|uri|source|target|logdir|folder|role|dialect|thing|runtimes?|endpoint|job|kind|state|stream|sort|engine|everyone"
    r"|shell|opens|metrics|columns|value|scope|gpus|source"
)
"""What an argument or option is called that takes the name of something, or one of some words."""
NEW = {
    ("run", "name"),
    ("tune", "name"),
    ("tune", "metric"),
    ("serve", "name"),
    ("register", "name"),
    ("notebook start", "token"),
    ("tensorboard start", "name"),
    ("tensorboard start", "token"),
    ("workspaces create", "name"),
    ("workspaces change", "name"),
    ("token create", "name"),
    ("users add", "name"),
    ("keys create", "name"),
    ("buckets create", "name"),
}
"""Those that are made up by whoever types them."""


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All that can be called, aliases apart."""
    for name, one in group.commands.items():
        if one.hidden:
            continue
        if hasattr(one, "commands"):
            if one.invoke_without_command:
                yield " ".join((*path, name)), one
            yield from commands(one, (*path, name))
        else:
            yield " ".join((*path, name)), one


ALL = dict(commands())


@pytest.mark.parametrize("name", list(ROOT.commands))
def test_each_command_is_in_a_group_of_the_help(name: str, command: Cli) -> None:
    one = ROOT.commands[name]
    if one.hidden:
        return
    assert getattr(one, "rich_help_panel", None) in GROUPS
    shown = command("--help").out
    assert re.search(rf"^  {name} ", shown, re.MULTILINE)


def test_the_help_has_groups_with_an_example_each(command: Cli) -> None:
    shown = command("--help").out
    for title, example in GROUPS.items():
        assert f"{title}:" in shown
        assert example in shown
        _parse(example)
    assert "Commands:" not in shown  # none is outside of a group
    assert "..." not in shown.replace("[ARGS]...", "")  # no sentence is cut
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("name", ALL)
def test_each_command_has_an_example_that_can_be_typed(name: str) -> None:
    found = EXAMPLE.search(ALL[name].help or "")
    assert found is not None
    assert f"localml {name}" in found[1]
    assert len(found[0].strip()) <= 76  # it is not broken in two
    _parse(found[1])


def _parse(line: str) -> None:
    """Read a command line as the command does, and do nothing."""
    inside = re.search(r"\$\((localml [^)]*)\)", line)
    words = shlex.split(inside[1] if inside else line)[1:]
    group, path = ROOT, []
    while hasattr(group, "commands") and words and words[0] in group.commands:
        path.append(words[0])
        group = group.commands[words.pop(0)]
    assert path, line
    group.make_context(" ".join(path), words)


@pytest.mark.parametrize("name", ALL)
def test_each_argument_that_names_something_is_completed(name: str) -> None:
    for one in ALL[name].params:
        choice = one.type.name in ("boolean", "int", "integer", "float", "choice")
        choice |= one.type.name == "path" and name != "restore"  # files of the shell's
        if choice or not NAMING.fullmatch(one.name or "") or (name, one.name) in NEW:
            continue
        assert getattr(one, "_custom_shell_complete", None) is not None, one.name


@pytest.mark.parametrize("name", ALL)
def test_amounts_and_times_are_called_so(name: str) -> None:
    """Whoever reads the help sees what may be typed, and in which unit the default is."""
    said = {"SIZE": {"memory", "shm", "keep", "keep_logs", "service_logs", "free_disk", "code_limit"},
            "TIME": {"timeout", "time_limit", "idle", "every", "expires"}}  # fmt: skip
    for metavar, names in said.items():
        for one in ALL[name].params:
            if one.name in names:
                assert one.metavar == metavar, one.name
                number = isinstance(one.default, float | int)
                assert not number or (not one.show_default and "[default: " in one.help), one.name


def test_nothing_is_advertised_that_is_not_served(command: Cli) -> None:
    absent = {one.name for one in REGISTRY} - served()
    assert absent
    for name in ("", *ALL):
        shown = command(*name.split(), "--help").out
        assert not [one for one in absent if re.search(rf"\b{one}\b", shown)], name


def _completed(cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    words = line.split(" ")
    with monkeypatch.context() as patched:
        patched.setenv("_LOCALML_COMPLETE", "complete_bash")
        patched.setenv("COMP_WORDS", line)
        patched.setenv("COMP_CWORD", str(len(words) - 1))
        return str(cli().out).split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("localml run --pool help/", "help/pool"),
        ("localml drain ", "0"),
        ("localml run --image localml/train-sk", "localml/train-sklearn"),
        ("localml images build train-sk", "train-sklearn"),
        ("localml ls fds://help-b", "fds://help-bucket/"),
        ("localml ls fds://help-bucket/", "fds://help-bucket/file"),
        ("localml ps --workspace def", "default"),
        ("localml ps --state que", "queued"),
        ("localml env clo", "cloudml"),
        ("localml logs help-job --role ma", "main"),
        ("localml token create --for workload:", "workload:"),
        ("localml token create --scope workload:cr", "workload:create"),
        ("localml metrics help-job lo", "loss"),
        ("localml compare help-job --sort lo", "loss"),
        ("localml compare help-job --columns name,lo", "name,loss"),
        ("localml ps --columns name,sta", "name,state"),
        ("localml compare help-job --value m", "min"),
        ("localml run --gpus a", "all"),
        ("localml tune --algorithm ba", "bayesian"),
        ("localml tune --take la", "last"),
        ("localml tune --resume help-s", "help-study"),
        ("localml study trials help-s", "help-study"),
        ("localml studies --state comp", "complete"),
        ("localml stop study/hel", "study/help-study"),
        ("localml up --gpus si", "simulated:"),
        ("localml config set engine pro", "process"),
        ("localml config set closed t", "true"),
        ("localml config set images.x/* train-s", "train-sklearn"),
        ("localml restore localml-", "localml-20200101-000000.db"),
    ],
)
def test_words_are_completed(cli: Cli, localml: Localml, monkeypatch: pytest.MonkeyPatch, line: str, word: str) -> None:
    localml.client.set_limits("help/pool", gpu=1)
    localml.client.put("fds://help-bucket/file", b"x")
    if not localml.client.workloads(name="help-job").workloads:
        localml.client.run(["echo", "loss=0.5"], name="help-job", wait=True)
    localml.client.metrics("help-job")
    if not localml.client.studies.list(contains="help-study").studies:
        localml.client.studies.create(["true"], name="help-study", space={"x": [1]}, minimize="loss", algorithm="grid")
    (localml.platform.data / "backups").mkdir(exist_ok=True)
    (localml.platform.data / "backups" / "localml-20200101-000000.db").touch()
    assert any(one.startswith(word) for one in _completed(cli, monkeypatch, line))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "--cpus", "nan", "--", "true"), "--cpus: must be a finite number, not nan"),
        (("run", "--retries", "5000", "--", "true"), "--retries: should be less than or equal to 1000, not 5000"),
        (("run", "--priority", "5000", "--", "true"), "--priority: "),
        (("run", "--name", "a b", "--", "true"), "--name: "),
        (("run", "--memory", "16", "--", "true"), "--memory: 16 is 16 bytes; did you mean 16G?"),
        (("run", "--shm", "64", "--", "true"), "--shm: 64 is 64 bytes; did you mean 64G?"),
        (("up", "--memory", "16"), "--memory: 16 is 16 bytes; did you mean 16G?"),
        (("up", "--keep-logs", "20"), "--keep-logs: 20 is 20 bytes; did you mean 20G?"),
        (("up", "--service-logs", "64"), "--service-logs: 64 is 64 bytes; did you mean 64G?"),
        (("up", "--free-disk", "5"), "--free-disk: 5 is 5 bytes; did you mean 5G?"),
        (("prune", "--keep", "10"), "--keep: 10 is 10 bytes; did you mean 10G?"),
        (("run", "--code", ".", "--code-limit", "500", "--", "true"), "--code-limit: 500 is 500 bytes; did you mean "),
        (("run", "--memory", "9X", "--", "true"), "--memory: must be a number with a unit"),
        (("notebook", "start", "--memory", "4"), "--memory: 4 is 4 bytes; did you mean 4G?"),
        (("pools", "set", "help/two", "--memory", "4"), "--memory: 4 is 4 bytes; did you mean 4G?"),
        (("run", "--pool", "nowhere", "--", "true"), "--pool: there is no pool 'nowhere'; there are: "),
        (("notebook", "start", "--pool", "nowhere"), "--pool: there is no pool 'nowhere'; there are: "),
        (("serve", "x", "--pool", "nowhere"), "--pool: there is no pool 'nowhere'; there are: "),
        (("ps", "--limit", "0"), "--limit: "),
    ],
)
def test_mistakes_are_told_in_the_command_s_words(cli: Cli, arguments: tuple[str, ...], told: str) -> None:
    refused = cli(*arguments)
    assert refused.code == 1
    assert refused.err.startswith(f"error: {told}")


def test_what_a_job_file_says_is_called_as_in_the_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("command: x\ntime_limit: soon\n")
    assert cli("run", "-f", str(file)).err.startswith("error: job.yaml: time_limit: must be a time")
    for line, told in (
        ("cpus: -1", "job.yaml: cpus: should be greater than 0, not -1"),
        ("memory: 16", "job.yaml: memory: 16 is 16 bytes; did you mean 16G?"),
        ("shm: '64'", "job.yaml: shm: 64 is 64 bytes; did you mean 64G?"),
        ("retries: 5000", "job.yaml: retries: should be less than or equal to 1000"),
        ("count: 0", "job.yaml: count: should be greater than or equal to 1"),
        ("gpus: some", "job.yaml: gpus: must be a number or 'all', not 'some'"),
        ("pool: nowhere", "job.yaml: pool: there is no pool 'nowhere'; there are: "),
    ):
        file.write_text(f"command: x\n{line}\n")
        assert cli("run", "-f", str(file)).err.startswith(f"error: {told}")
    file.write_text("roles: [{name: a, command: x}, {name: b, command: x, cpus: -1}]\n")
    assert cli("run", "-f", str(file)).err.startswith("error: job.yaml: roles.1.cpus: should be greater than 0")
    file.write_text("command: x\ntime_limit: soon\n")
    refused = cli("run", "-f", str(file), "--time-limit", "9h", "--cpus", "nan")
    assert refused.err.startswith("error: --cpus: must be a finite number")


def test_an_absolute_path_is_one_of_this_machine(cli: Cli, localml: Localml, tmp_path: Path) -> None:
    localml.client.put("fds://paths/file", b"of the bucket")
    refused = cli("run", "--mount", "/paths/x:/x", "--", "true")
    assert (refused.code, refused.err) == (1, "error: --mount: /paths/x does not exist on this machine\n")
    (tmp_path / "file").write_text("of the machine")
    done = cli("run", "-f", "-v", f"{tmp_path}:{tmp_path}/in", "--", "sh", "-c", f"cat {tmp_path}/file")
    assert (done.code, done.out) == (0, "of the machine"), done.err
    for arguments in (("ls", "/paths/"), ("tensorboard", "start", "/paths/logs")):
        refused = cli(*arguments)
        assert refused.code == 1
        assert f"{arguments[-1]} is a path of this machine; in the buckets it is fds:/{arguments[-1]}" in refused.err


def test_a_table_that_no_terminal_shows_has_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    words = "a sentence of some length, " * 12
    show.table("ID", "MESSAGE", rows=[("1", words), ("2", "-")], empty="")
    assert capsys.readouterr().out == f"ID  MESSAGE\n1   {words.rstrip()}\n2   -\n"


@pytest.mark.parametrize("width", ["20", "60"])
def test_tables_cut_no_ids(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    number, uuid, name = "123456", "GPU-5e8c1f4e-0a5d-4b7e-9c3f-1234567890ab", "quiet-otter-1a2b"
    words = "a message that is longer than any terminal of this width has room for"
    show.table("ID", "NAME", "UUID", "MESSAGE", rows=[(number, name, uuid, words)], empty="")
    shown = capsys.readouterr().out
    for whole in (number, name, uuid):
        assert whole in shown
    assert "…" not in shown
