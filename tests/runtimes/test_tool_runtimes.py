"""The programs of the runtimes notebook and tensorboard, as far as they run without Jupyter and TensorBoard."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from localml.core.catalog import runtimes_dir

TOKEN = 'a;b"c=d, é'.encode("ascii", "replace").decode()  # what a cookie cannot hold


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    def load(runtime: str, module: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(runtimes_dir() / runtime))
        return importlib.import_module(module)

    return load


@pytest.fixture
def notebook(program: Callable[[str, str], ModuleType]) -> ModuleType:
    return program("notebook", "localml_notebook.__main__")


@pytest.fixture
def gate(program: Callable[[str, str], ModuleType]) -> ModuleType:
    return program("tensorboard", "localml_tensorboard.gate")


def test_the_work_folder_is_the_mounted_one_or_where_it_really_is(notebook: ModuleType, tmp_path: Path) -> None:
    mounted = str(tmp_path / "mounted")
    assert notebook.work_folder({"LOCALML_WORK": mounted}) == Path(mounted)
    mounts = json.dumps({"/workspace": str(tmp_path / "real")})
    found = notebook.work_folder({"LOCALML_WORK": "/workspace", "LOCALML_MOUNTS": mounts})
    assert found == tmp_path / "real"
    assert found.is_dir()


def test_jupyter_is_told_where_to_listen_and_never_the_token(tmp_path: Path) -> None:
    (tmp_path / "jupyterlab.py").write_text(
        "import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))\n"
    )
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join((str(runtimes_dir() / "notebook"), str(tmp_path))),
        "LOCALML_WORK": str(tmp_path / "work"),
        "LOCALML_PORT_HTTP": "40001",
        "LOCALML_LISTEN": "127.0.0.1",
        "JUPYTER_TOKEN": "open-sesame",
    }
    command = [sys.executable, "-m", "localml_notebook"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    arguments, seen, folder = json.loads(done.stdout)
    assert {"--ServerApp.port=40001", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"} <= set(arguments)
    assert "open-sesame" not in " ".join(arguments)
    untracked = "--MappingKernelManager.untracked_message_types="
    assert {f"{untracked}{name}" for name in ("usage_request", "usage_reply", "status", "kernel_info_request")} <= set(
        arguments
    )
    assert seen["JUPYTER_TOKEN"] == "open-sesame"
    assert folder == str(tmp_path / "work")
    # what a user sets up or installs stays with the files
    for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR", "PIP_TARGET"):
        assert seen[name].startswith(folder)
    assert seen["PYTHONPATH"].split(os.pathsep)[0] == seen["PIP_TARGET"]


Said = tuple[str, dict[str, str], bytes]


def ask(gate: ModuleType, query: str = "", token: str = TOKEN, path: str = "/", **headers: str) -> Said:
    said: list[Any] = []

    def inner(environ: dict[str, str], start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"board"]

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, **headers}
    app = gate.Gate(inner, token, 6006)
    body = b"".join(app(environ, lambda status, found: said.extend([status, dict(found)])))
    return said[0], said[1], body


def test_nobody_gets_in_without_the_token(gate: ModuleType) -> None:
    for headers in (
        {},
        {"HTTP_AUTHORIZATION": "Bearer wrong"},
        {"HTTP_AUTHORIZATION": "Basic " + TOKEN},
        {"HTTP_COOKIE": "localml-tensorboard-6006=wrong"},
        {"HTTP_COOKIE": "localml-tensorboard-6006="},
        {"HTTP_COOKIE": "\x00;;;="},
    ):
        assert ask(gate, **headers)[0] == "401 Unauthorized"
    assert ask(gate, "token=wrong&token=")[0] == "401 Unauthorized"


def test_the_token_opens_as_header_and_as_address_which_leaves_a_cookie(gate: ModuleType) -> None:
    from urllib.parse import quote

    for scheme in ("Bearer", "token"):
        assert ask(gate, HTTP_AUTHORIZATION=f"{scheme} {TOKEN}")[2] == b"board"
    status, headers, _ = ask(gate, f"tab=scalars&token={quote(TOKEN)}", path="/data/runs")
    assert (status, headers["Location"]) == ("302 Found", "/data/runs?tab=scalars")
    cookie, *rules = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(rules)
    assert TOKEN not in cookie
    assert ask(gate, HTTP_COOKIE=cookie)[2] == b"board"


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "/a\r\nSet-Cookie: b"])
def test_the_redirect_never_leads_elsewhere(gate: ModuleType, path: str) -> None:
    from urllib.parse import quote

    _, headers, _ = ask(gate, f"token={quote(TOKEN)}", path=path)
    assert headers["Location"].startswith("/")
    assert not headers["Location"].startswith(("//", "/\\"))
    assert "\r" not in headers["Location"]
    assert "\n" not in headers["Location"]


def test_a_board_without_a_token_lets_everybody_in(gate: ModuleType) -> None:
    assert ask(gate, token="")[2] == b"board"


def test_a_board_shows_nothing_outside_the_buckets(program: Callable[[str, str], ModuleType], tmp_path: Path) -> None:
    main = program("tensorboard", "localml_tensorboard.__main__")
    buckets = tmp_path / "buckets"
    buckets.mkdir()
    (buckets / "out").symlink_to("/etc")
    given = {"LOCALML_BUCKETS": str(buckets)}
    assert main.log_folder({**given, "LOCALML_LOGDIR": "a/b"}) == buckets.resolve() / "a" / "b"
    assert main.log_folder({**given, "LOCALML_LOGDIR": "/a"}) == buckets.resolve() / "a"
    for outside in ("../..", "out/ssl"):
        with pytest.raises(ValueError, match="not inside"):
            main.log_folder({**given, "LOCALML_LOGDIR": outside})
