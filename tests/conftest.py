"""Fixtures that everything may use, and the markers' conditions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from helpers.counts import COUNTS, table
from helpers.left_mounted import let_go_below, let_go_of_earlier_runs
from hypothesis import HealthCheck, settings

# a busy machine may stop this process for a second at any moment: how long an example takes says nothing
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@cache
def _docker_trouble() -> str | None:
    from localml.engines.docker import docker_available

    return docker_available()


@cache
def _gpu_trouble() -> str | None:
    from localml.gpus import open_inventory

    return None if open_inventory("auto").devices() else "no NVIDIA GPU answers"


@cache
def _browser_trouble() -> str | None:
    return None if shutil.which("chromium") else "no chromium is installed"


TROUBLES: dict[str, Callable[[], str | None]] = {
    "docker": _docker_trouble,
    "gpu": _gpu_trouble,
    "browser": _browser_trouble,
}


LONG = "long_form"
"""Name of the option ``--long``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "try more: kill loops, faults and fuzzing in their long form, and the tests that are marked long"
    parser.addoption("--long", action="store_true", dest=LONG, help=words)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs something that is not here, and say what."""
    if hasattr(config, "workerinput"):  # one of several: slow files first, so that none is left over at the end
        slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
        items.sort(key=lambda item: item.path not in slow)
    for item in items:
        for name, trouble in TROUBLES.items():
            if item.get_closest_marker(name) is not None and (reason := trouble()):
                item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))
        if item.get_closest_marker("long") is not None and not config.getoption(LONG):
            item.add_marker(pytest.mark.skip(reason="only with --long"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that runs some of the tests hands on what they counted."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counts"] = dict(COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    COUNTS.update(getattr(node, "workeroutput", {}).get("counts", {}))
    if error:  # its process died: of what, xdist does not say
        with suppress(Exception):
            status = node.gateway._io.popen.wait(10)
            node.config.get_terminal_writer().line(f"\nthe process of {node.gateway.id} ended with status {status}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.section("what was tried")
        for line in table(COUNTS):
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def long_form(pytestconfig: pytest.Config) -> bool:
    """Whether tests that can try more do so (``--long``)."""
    return bool(pytestconfig.getoption(LONG))


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A run ends with its words on what failed, and not in the removal of a folder that a killed server left."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    let_go_of_earlier_runs(run.parent)
    yield
    let_go_below(base)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never talk to the user's own installation."""
    for name in [one for one in os.environ if one.startswith("LOCALML_") and one != "LOCALML_CACHE"]:
        monkeypatch.delenv(name)
