"""Algorithms that somebody installed: ``class PluginOptimizer`` in ``optimizer.py``, the contract of IBM's product.

The class finds ``plugins.core.logger`` and ``plugins.core.base_plugin_opt`` to import, is made with the parameters of
the search in IBM's words, and is asked for one set of values at a time, with the results that came meanwhile. What its
``get_state`` returns is kept, and given to ``set_state`` when it goes on in another process; without these two it is
asked and told its history again.
"""

from __future__ import annotations

import importlib
import logging
import pickle
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_KIND = {"int": "INT", "float": "DOUBLE"}
_BOUNDS = {"INT": ("minIntVal", "maxIntVal"), "DOUBLE": ("minDbVal", "maxDbVal")}
_CHOICES = {"INT": "discreteIntVal", "DOUBLE": "discreteDbVal", "STR": "discreateStrVal"}


def opened(setup: dict[str, Any], history: list[list[Any]], state: bytes | None) -> Installed:
    """The algorithm of a setup, with its state or told its history."""
    plugin = setup["plugin"]
    sys.path.insert(0, plugin["folder"])
    provide(plugin["name"], plugin["log_level"])
    made = importlib.import_module("optimizer").PluginOptimizer
    optimizer = made(plugin["name"], hyper_parameters(setup["space"]), **setup["params"])
    found = Installed(optimizer, {one["name"]: one for one in setup["space"]})
    if state is not None:
        found.restore(state)
    for what, number, told in history:
        if what == "asked":
            found.replay(number, told)
        else:
            found.tell(number, told)
    return found


def provide(name: str, level: str) -> None:
    """Make the modules that an optimizer imports."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logger = logging.getLogger(name)
    logger.setLevel(level.upper() if level.upper() in logging.getLevelNamesMapping() else "INFO")
    plugins, core = ModuleType("plugins"), ModuleType("plugins.core")
    logs, base = ModuleType("plugins.core.logger"), ModuleType("plugins.core.base_plugin_opt")
    vars(logs)["logger"] = logger
    vars(base)["BasePluginOptimizer"] = BasePluginOptimizer
    for package in (plugins, core):
        package.__path__ = []
    vars(plugins)["core"] = core
    vars(core).update(logger=logs, base_plugin_opt=base)
    sys.modules.update({one.__name__: one for one in (plugins, core, logs, base)})


class BasePluginOptimizer:
    """What an optimizer's class is derived from."""

    def __init__(self, name: str, hyper_parameters: list[dict[str, Any]], **kwargs: Any) -> None:
        self.name = self._name = name
        self.hyper_parameters = self._hyper_parameters = hyper_parameters
        self.kwargs = self._kwargs = kwargs

    def search(self, number_samples: int, last_exp_results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sets of values to try next."""
        raise NotImplementedError(f"{type(self).__name__} has no method search(number_samples, last_exp_results)")


def hyper_parameters(space: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The search space in IBM's words, without what has one value only."""
    return [_range(one) if one["low"] is not None else _discrete(one) for one in space if one["value"] is None]


def _range(one: dict[str, Any]) -> dict[str, Any]:
    kind = _KIND[one["type"]]
    number = int if kind == "INT" and all(float(one[end]).is_integer() for end in ("low", "high")) else float
    low, high = _BOUNDS[kind]
    found = {"name": one["name"], "type": "Range", "dataType": kind, low: number(one["low"]), high: number(one["high"])}
    return found | {name: f"{one[name]:g}" for name in ("step", "power") if one[name] is not None}


def _discrete(one: dict[str, Any]) -> dict[str, Any]:
    kinds = {type(choice) for choice in one["choices"]}
    kind = "INT" if kinds == {int} else "DOUBLE" if kinds <= {int, float} else "STR"
    return {"name": one["name"], "type": "Discrete", "dataType": kind, _CHOICES[kind]: list(one["choices"])}


class Installed:
    """An optimizer and what it has not been told yet."""

    def __init__(self, optimizer: Any, space: dict[str, dict[str, Any]]) -> None:
        self._optimizer = optimizer
        self._space = space
        self._running: dict[int, dict[str, Any]] = {}
        self._results: list[dict[str, Any]] = []
        self._more: list[dict[str, Any]] = []  # sets that it gave beyond the one that it was asked for
        self._newest = 0  # trial
        self.keeps = hasattr(optimizer, "get_state") and hasattr(optimizer, "set_state")

    def ask(self, number: int) -> tuple[dict[str, Any] | None, bool]:
        """The next set of values; over when it gives none though it knows all results."""
        if number not in self._running:
            found = self._next()
            if found is None:
                return None, not self._running
            self._running[number], self._newest = found, number
        return self._running[number], False

    def replay(self, number: int, values: dict[str, Any]) -> None:
        """Have it propose again what it proposed before, unless its state has that; what was really run counts."""
        if number > self._newest:
            self._next()
            self._newest = number
            self._running[number] = values

    def _next(self) -> dict[str, Any] | None:
        if not self._more:
            results, self._results = self._results, []
            found = self._optimizer.search(1, results)
            self._more = self._checked(found)
        return self._more.pop(0) if self._more else None

    def _checked(self, found: Any) -> list[dict[str, Any]]:
        if found is None:
            return []
        if not isinstance(found, list | tuple) or not all(isinstance(one, dict) for one in found):
            raise TypeError(f"search must return a list of dicts (name -> value), not {_shown(found)}")
        return [{str(name): self._meant(str(name), plain(value)) for name, value in one.items()} for one in found]

    def _meant(self, name: str, value: Any) -> Any:
        """What a number stands for: of a range with a ``power`` an optimizer draws the exponent, as of any other range
        it draws a number and leaves the steps to IBM's product."""
        one = self._space.get(name)
        if one is None or one["power"] is None or isinstance(value, bool) or not isinstance(value, int | float):
            return value
        low, high, step = one["low"], one["high"], one["step"]
        if not low <= value <= high:
            return value
        most = 0 if step is None else int((high - low) / step + 1e-9)
        drawn = value if step is None else low + min(round((value - low) / step), most) * step
        return round(one["power"] ** drawn) if one["type"] == "int" else float(one["power"] ** drawn)

    def tell(self, number: int, value: float | None) -> None:
        """Keep a result until it is asked again; one that its state has already is no news."""
        values = self._running.pop(number, None)
        if values is None:
            return
        state = "ERROR" if value is None else "FINISHED"
        names = {"hyperParams": values, "hyperparams": values, "metricVal": value, "score": value}
        self._results.append({"id": number, "state": state, **names})

    def state(self) -> bytes:
        """What its ``get_state`` returns, and what it has not been told yet."""
        kept = self._optimizer.get_state()
        if not isinstance(kept, dict):
            raise TypeError(f"get_state must return a dict, not {_shown(kept)}")
        return pickle.dumps((kept, self._running, self._results, self._more, self._newest))

    def restore(self, state: bytes) -> None:
        """Go on from a state."""
        kept, self._running, self._results, self._more, self._newest = pickle.loads(state)
        self._optimizer.set_state(kept)


def plain(value: Any) -> Any:
    """A value as JSON has it: numpy's numbers and texts are taken for Python's."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


def _shown(found: Any) -> str:
    return f"{type(found).__name__} {repr(found)[:200]}"
