"""Container engines behind one protocol (:mod:`localml.engines.base`)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ENGINES = {
    "docker": "localml.engines.docker:DockerEngine",
    "process": "localml.engines.process.engine:ProcessEngine",
    "fake": "localml.engines.fake.engine:FakeEngine",
}
"""Name of an engine -> where its class is; imported only when it is asked for."""


def engine_class(name: str) -> Any:
    """The class of the engine of that name; its constructor's arguments are its own.

    Raises:
        KeyError: no engine has that name.
    """
    module, _, attribute = ENGINES[name].partition(":")
    return getattr(import_module(module), attribute)
