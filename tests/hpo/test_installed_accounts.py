"""Whom installed algorithms run as."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from localml.config import Config
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.studies.installed import Installation
from localml.engines.base import Account
from localml.hpo import installed
from localml.hpo.base import Plugin
from localml.hpo.installed import PluginAccounts, open_algorithms, plugin_of
from localml.store.database import Database
from localml.store.schema import prepare

ADMIN, ANN = Caller(1, "admin", True, "a", "default"), Caller(7, "ann", False, "w", "default")


def user(number: int) -> Caller:
    return {1: ADMIN, 7: ANN}[number]


def accounts(monkeypatch: pytest.MonkeyPatch, trouble: str, *, trusted: bool = False) -> PluginAccounts:
    monkeypatch.setattr(installed, "boxes_trouble", lambda: trouble)
    return PluginAccounts(trusted=trusted, first=60_000, user=user)


def test_users_have_accounts_and_administrators_run_as_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    found = accounts(monkeypatch, "")
    assert found.of(7) == Account(60_007, 60_007)
    assert found.of(1) is None
    assert accounts(monkeypatch, "", trusted=True).of(7) is None


def test_where_there_are_no_boxes_only_administrators_and_trusted_users_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(LocalmlError, match="the server does not run as root") as caught:
        accounts(monkeypatch, "the server does not run as root").check(ANN)
    assert caught.value.code is Code.FORBIDDEN
    accounts(monkeypatch, "no root").check(ADMIN)
    accounts(monkeypatch, "no root", trusted=True).check(ANN)


def test_what_is_installed_is_what_suggesters_get(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "optimizer.py").write_text("class PluginOptimizer: pass")
    data = tmp_path / "data"
    data.mkdir()
    database = Database(prepare(data))
    algorithms, suggesters = open_algorithms(Config(data), database, ManualClock(), user)
    row = algorithms.install(Installation("mine", ADMIN, path=str(source), log_level="DEBUG"))
    assert plugin_of(algorithms, "mine") == Plugin("mine", algorithms.folder(row), 1, "DEBUG")
    assert plugin_of(algorithms, "Tpe") is None
    with pytest.raises(LocalmlError, match="'other' does not exist"):
        plugin_of(algorithms, "other")
    with pytest.raises(LocalmlError):
        algorithms.install(Installation("two", ADMIN, io.BytesIO(b"nothing")))
    suggesters.close()
    database.close()
