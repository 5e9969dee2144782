"""Proxies: where they are found, what gets them, and who does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import Rig, job

from localml.cli.app import run as command
from localml.client import Client
from localml.client.errors import ClientError
from localml.config import load
from localml.engines.base import EngineError, ReplicaPlan
from localml.engines.proxies import VARIABLES, inherited, proxies
from localml.engines.runtimes.wheels import lines_of

HTTP = {"http_proxy": "http://p:1", "HTTP_PROXY": "http://p:1"}


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for Docker's client configuration, and no variables."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    for name in (*VARIABLES, "docker_host"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


def _configure(folder: Path, found: Any) -> None:
    (folder / "config.json").write_text(json.dumps(found))


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
def test_variables_count_in_either_spelling_and_are_given_in_both(name: str) -> None:
    assert proxies({name: "http://p:1"}) == HTTP


def test_dockers_client_configuration_counts_after_the_environment(docker_config: Path) -> None:
    default = {"httpProxy": "http://c:1", "httpsProxy": "http://c:2", "noProxy": "inside"}
    _configure(docker_config, {"proxies": {"default": default, "tcp://there:1": {"httpProxy": "http://there:9"}}})
    found = proxies({"HTTP_PROXY": "http://p:1"})
    assert found.items() >= HTTP.items()
    assert (found["https_proxy"], found["NO_PROXY"]) == ("http://c:2", "inside")
    assert proxies({"DOCKER_HOST": "tcp://there:1"})["http_proxy"] == "http://there:9"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"proxies": {}}', '{"proxies": {"default": []}}', '{"auths": {}}'])
def test_a_configuration_without_proxies_gives_none(docker_config: Path, text: str) -> None:
    (docker_config / "config.json").write_text(text)
    assert proxies({}) == {}


def test_a_job_keeps_what_it_sets_itself() -> None:
    assert inherited(HTTP, {"HTTP_PROXY": "http://own"}) == {}
    assert inherited({}, {}) == {}
    found = inherited({**HTTP, "no_proxy": "inside", "NO_PROXY": "inside"}, {}, ["worker-0"])
    assert found["NO_PROXY"] == found["no_proxy"] == "inside,localhost,127.0.0.1,::1,worker-0"
    assert inherited(HTTP, {"no_proxy": "mine"}) == HTTP


def _plan(rig: Rig, monkeypatch: pytest.MonkeyPatch, given: Mapping[str, str]) -> ReplicaPlan:
    site = rig._site
    monkeypatch.setattr(rig, "_site", lambda: _with(site(), given))
    rig.restart()
    plans: list[ReplicaPlan] = []
    rig.engine.on_start(plans.append)
    rig.submit("j", job())
    rig.settle()
    return plans[0]


def _with(site: Any, given: Mapping[str, str]) -> Any:
    return replace(site, proxies=given)


def test_jobs_get_them_only_where_the_server_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ({}, HTTP):
        folder = tmp_path / str(len(given))
        folder.mkdir()
        rig = Rig(folder)
        try:
            env = _plan(rig, monkeypatch, given).env
            assert {name: env[name] for name in given if name in env} == given
            assert ("NO_PROXY" in env) == bool(given)
        finally:
            rig.close()


def test_it_is_asked_for_by_an_option_or_a_variable(tmp_path: Path) -> None:
    assert not load({}, data=tmp_path).inherit_proxy
    assert load({}, data=tmp_path, inherit_proxy=True).inherit_proxy
    assert load({"LOCALML_INHERIT_PROXY": "1"}, data=tmp_path).inherit_proxy


def test_builds_get_them_without_being_asked(docker_config: Path) -> None:
    """What is downloaded for a build is downloaded by programs of this machine."""
    _configure(docker_config, {"proxies": {"default": {"httpsProxy": "http://c:2"}}})
    said: list[str] = []
    lines_of([sys.executable, "-c", "import os; print(os.environ['HTTPS_PROXY'])"], said.append, "it failed")
    assert said == ["http://c:2"]


def test_one_job_gets_those_of_who_submits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    def submit(self: Client, spec: Any, **_: Any) -> Any:
        given.append(spec["roles"][0]["env"])
        raise ClientError("stopped", "enough is known")

    monkeypatch.setattr(Client, "submit", submit)
    monkeypatch.setattr("localml.cli.runs.known_pool", lambda client, pool: pool)
    monkeypatch.setenv("LOCALML_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LOCALML_TOKEN", "none")
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    for option in ([], ["--inherit-proxy"]):
        command(["run", *option, "-e", "A=b", "--", "true"])
    assert given[0] == {"A": "b"}
    assert given[1].items() >= {"A": "b", "HTTPS_PROXY": "http://p:1", "https_proxy": "http://p:1"}.items()


@pytest.mark.docker
def test_a_pull_that_fails_says_that_the_daemon_has_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.docker_image import clean_engine

    with clean_engine() as engine:
        with pytest.raises(EngineError) as plain:
            engine.resolve_image("127.0.0.1:9/nothing:1")
        assert "proxy" not in str(plain.value)
        monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
        with pytest.raises(EngineError, match=r"the Docker daemon has no proxy.*HTTPS_PROXY"):
            engine.resolve_image("127.0.0.1:9/nothing:1")
