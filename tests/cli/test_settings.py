"""The file of settings: what counts before what, what is refused, and that a change leaves all else as it was."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.config import IN_FILE, load
from localml.config_file import changed, remember, remembered
from localml.core.errors import LocalmlError

Cli = Callable[..., Any]
FILE = """\
# what this machine is for
port = 8123   # the lab's proxy knows it
keep-logs = "20G"
hosts = [
  "nas.example",  # in the office
  "10.0.0.7",
]

[images]
# OpenPAI's
"*/pai.run.*" = "train-sklearn"
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("LOCALML_DATA", str(folder))
    return folder


def write(data: Path, text: str = FILE) -> None:
    (data / "localml.toml").write_text(text)


def test_flag_before_environment_before_file_before_last_start_before_default(data: Path) -> None:
    assert load({}, data=data).port == 7070
    remember(data, {"port": 8001, "gpus": "simulated:4"})
    found = load({}, data=data)
    assert (found.port, found.gpus, found.gateway_port) == (8001, "simulated:4", 7071)
    write(data)
    assert load({}, data=data).port == 8123
    assert load({"LOCALML_PORT": "8200"}, data=data).port == 8200
    assert load({"LOCALML_PORT": "8200"}, data=data, port=8300).port == 8300
    assert load({"LOCALML_DATA": str(data)}).port == 8123
    assert load({}, data=data).gpus == "simulated:4"


def test_all_kinds_of_values(data: Path) -> None:
    write(data, FILE.replace("[images]", "auth = false\ncpus = 2\nkeep_logs_days = inf\nclosed = true\n\n[images]"))
    found = load({}, data=data)
    assert (found.auth, found.cpus, found.keep_logs_days, found.closed) == (False, 2.0, float("inf"), True)
    assert (found.keep_logs, found.hosts) == (20 << 30, ("nas.example", "10.0.0.7"))
    assert found.images == {"*/pai.run.*": "train-sklearn"}
    assert load({"LOCALML_IMAGES": "a=b"}, data=data).images == {"a": "b"}


@pytest.mark.parametrize("name", IN_FILE)
def test_every_setting_can_be_written_as_it_is_shown(data: Path, name: str) -> None:
    value = getattr(load({}, data=data), name)
    if value is None:
        value = 4 << 30
    shown = "true" if value is True else "false" if value is False else value
    write(data, changed("", name, shown))
    assert getattr(load({}, data=data), name) == value


def test_another_file(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("threads = 5\n")
    assert load({"LOCALML_CONFIG": str(other)}, data=data).threads == 5
    with pytest.raises(LocalmlError, match=r"LOCALML_CONFIG: .*/none\.toml does not exist"):
        load({"LOCALML_CONFIG": str(tmp_path / "none.toml")}, data=data)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 80", "config: 'prot' is no setting; did you mean 'port'? (in "),
        ("gatewayport = 80", "did you mean 'gateway_port'?"),
        ("xyzzy = 1", "config: 'xyzzy' is no setting; settings are host, port, "),
        ('data = "/x"', "config: 'data' is no setting"),
        ('port = "many"', "port: 'many' is not valid: "),
        ("port = 70000", "port: must be between 0 and 65535, not 70000"),
        ("port = [1]", "port: must be no list"),
        ('memory = "9E"', "memory: '9E' is not valid: must be a number with a unit"),
        ("auth = 7", "auth: '7' is not valid: must be one of 1, true"),
        ("hosts = [1]", "hosts: must be a list of texts"),
        ("[images]\na = 1", 'images: must be a table of texts: "PATTERN" = "RUNTIME"'),
        ("[port]\na = 1", "port: must be no table"),
        ("port = ", "is no TOML: Invalid value"),
        ("engine = 'dokcer'", "engine: must be one of auto, docker, process, fake, not 'dokcer'"),
    ],
)
def test_what_is_wrong_is_named(data: Path, command: Cli, text: str, told: str) -> None:
    write(data, text)
    failed = command("up", "--detach")
    assert (failed.code, told in failed.err) == (1, True), failed.err


def test_config_commands(data: Path, command: Cli) -> None:
    path = command("config", "path").out.strip()
    assert path == str(data / "localml.toml")
    write(data)
    assert command("config", "get", "port").out == "8123\n"
    assert command("config", "get", "keep-logs").out == "20G\n"
    assert command("config", "set", "port", "9000").code == 0
    assert command("config", "set", "gpus", "simulated:2").code == 0
    assert command("config", "set", "service-logs", "1G").code == 0
    assert command("config", "set", "hosts", "nas.example").code == 0
    assert command("config", "set", "images.*/worker:*", "train-pytorch").code == 0
    assert command("config", "unset", "keep_logs").code == 0
    assert (
        Path(path).read_text()
        == """\
# what this machine is for
port = 9000  # the lab's proxy knows it
hosts = ["nas.example"]
gpus = "simulated:2"
service_logs = "1G"

[images]
# OpenPAI's
"*/pai.run.*" = "train-sklearn"
"*/worker:*" = "train-pytorch"
"""
    )
    assert command("config", "get", "images.*/worker:*").out == "train-pytorch\n"
    listed = {one["name"]: one for one in command("config", "list", "--json").json["settings"]}
    assert list(listed) == IN_FILE
    assert listed["port"] == {"name": "port", "value": 9000, "source": "file"}
    assert listed["host"]["source"] == "default"
    assert re.search(r"^service_logs +1G +file$", command("config", "list").out, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("prot", "80", "'prot' is no setting; did you mean 'port'?"),
        ("port", "70000", "port: must be between 0 and 65535, not 70000"),
        ("port", "http", "port: 'http' is not valid: must be a whole number"),
        ("cpus", "many", "cpus: 'many' is not valid: must be a number"),
        ("keep_logs", "20", "keep_logs: '20' is not valid: 20 is 20 bytes; did you mean 20G?"),
        ("images.a/*", "nope", "images: 'a/*' = 'nope': must be one of host, base, "),
        ("images", "a=b", "localml config set images.PATTERN RUNTIME"),
        ("images.a/*", "nope", "'a/*' = 'nope': must be one of host, base, train-sklearn"),
        ("keep_logs", "9E", "must be a number with a unit"),
    ],
)
def test_nothing_wrong_is_written(data: Path, command: Cli, name: str, value: str, told: str) -> None:
    write(data)
    failed = command("config", "set", name, value)
    assert (failed.code, told in failed.err) == (1, True), failed.err
    assert (data / "localml.toml").read_text() == FILE


def test_a_file_begins_with_the_first_setting(command: Cli, data: Path) -> None:
    assert command("config", "set", "images.a/*", "host").code == 0
    assert (data / "localml.toml").read_text() == '[images]\n"a/*" = "host"\n'
    assert command("config", "set", "engine", "process").code == 0
    assert (data / "localml.toml").read_text() == 'engine = "process"\n\n[images]\n"a/*" = "host"\n'


def test_a_pattern_may_be_in_quotes_as_in_the_file(command: Cli, data: Path) -> None:
    for name in ('images."a/b:1*"', "images.'a/b:1*'", "images.a/b:1*"):
        assert command("config", "set", name, "host").code == 0
        assert load({}, data=data).images == {"a/b:1*": "host"}
        assert command("config", "get", name).out == "host\n"
        assert command("config", "unset", name).code == 0
        assert load({}, data=data).images == {}


TEXTS = st.sampled_from(
    [
        "",
        FILE,
        "port=1",
        "'port' = 1 # a # b\n",
        'gpus = "a # b" # c\n\n\n',
        "hosts = ['a', # x\n'b']\nport = 2\n[images]\n",
        "[images]\na = 'b'\n# end",
        "# only words",
        'gpus = """\nport = 3\n"""\n',
    ]
)


@given(
    TEXTS,
    st.sampled_from(["port", "gpus", "hosts", "images.*/x.y", "images.a"]),
    st.none()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(st.text("ab#\"'"), max_size=2),
)
def test_a_change_changes_one_thing_and_keeps_all_words(text: str, name: str, value: Any) -> None:
    table, key = ("images", name[7:]) if name.startswith("images.") else ("", name)
    wanted = tomllib.loads(text)
    inside = wanted.setdefault(table, {}) if table else wanted
    inside.pop(key, None)
    if value is not None:
        inside[key] = value
    if '"""' in text and name == "port":
        with pytest.raises(LocalmlError, match=r"only you can change|is no TOML"):
            changed(text, name, value)
        return
    after = changed(text, name, value)
    assert {k: v for k, v in tomllib.loads(after).items() if v != {}} == {k: v for k, v in wanted.items() if v != {}}
    for words in ("# what this machine is for", "# OpenPAI's", "# only words", "# end"):
        assert (words in text) == (words in after)


UP = ("up", "--detach", "--json", "--engine", "process")


@pytest.fixture
def down(data: Path, command: Cli) -> Iterator[None]:
    yield
    command("down")


@pytest.mark.usefixtures("down")
def test_ports_and_gpus_stay_the_same_at_the_next_start(data: Path, command: Cli) -> None:
    first = command(*UP, "--port", "0", "--gateway-port", "0", "--gpus", "simulated:3")
    assert first.code == 0, first.err
    assert first.json["last_start"] == {}
    assert command("down").code == 0
    port = int(first.json["url"].rpartition(":")[2])
    assert remembered(data) == {"port": port, "gpus": "simulated:3"}
    again = command(*UP, "--gateway-port", "0")
    assert again.code == 0, again.err
    assert (again.json["url"], len(again.json["gpus"])) == (first.json["url"], 3)
    assert again.json["last_start"] == {"port": port, "gpus": "simulated:3"}
    assert command("down").code == 0
    shown = command("up", "--detach", "--engine", "process", "--gateway-port", "0", "--gpus", "none")
    assert f"as before    port {port}; options of 'localml up' change it" in shown.out
    assert command("down").code == 0
    assert remembered(data) == {"port": port, "gpus": "none"}


@pytest.mark.usefixtures("down")
def test_a_server_obeys_the_file_and_says_that_a_change_waits(data: Path, command: Cli) -> None:
    write(data, 'port = 0\ngateway_port = 0\ngpus = "simulated:2"\n\n[images]\n"a/*" = "host"\n')
    started = command(*UP)
    assert (started.code, len(started.json["gpus"])) == (0, 2), started.err
    told = command("config", "set", "gpus", "none")
    assert "it counts from its next start on" in told.err
    assert remembered(data) == {}


@pytest.mark.usefixtures("down")
def test_a_file_that_is_named_from_here_is_found_by_the_server(
    data: Path, command: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "own.toml").write_text('port = 0\ngateway_port = 0\ngpus = "simulated:5"\n')
    monkeypatch.chdir(data)
    monkeypatch.setenv("LOCALML_CONFIG", "own.toml")
    started = command(*UP)
    assert (started.code, len(started.json["gpus"])) == (0, 5), started.err
