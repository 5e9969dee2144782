"""Searches in files: ``localml tune SPEC.toml``.

A file (TOML, YAML or JSON) has the members of a study (``name``, ``pool``, ``workspace``, ``parallel``, ``max_time``
...), a table ``params`` (see :mod:`localml.client.spaces`) or a list ``experiments``, and a table ``trial``, which is a
job as in :mod:`localml.cli.job_file`. What is to be made small or large is ``minimize = "loss"``, ``maximize = "acc"``
or a table ``objective``; ``algorithm`` is a name, or a table with its ``name`` and parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localml.cli import job_file
from localml.cli.job_file import Job, need, need_known
from localml.client.spaces import parameter
from localml.core.errors import invalid

GOALS = ("minimize", "maximize")
_SUBMISSION = ("name", "pool", "workspace")
_PLAIN = {"parallel", "max_time", "max_failures", "seed", "result"}
"""Members that are given on as they are."""
_OWN = {"params", "experiments", "algorithm", "objective", "metrics", "early_stopping", "trials", "trial", "code"}
MEMBERS = {*_SUBMISSION, *_PLAIN, *_OWN, *GOALS, "max_trials"}
_SHOWN_AS = ("minimize", "maximize", "latest")


@dataclass(slots=True)
class Search:
    """What is to be created: ``spec`` as JSON values, but for its trial, which is a job.

    Attributes:
        where: the file's name, which failures begin with; empty without one.
    """

    spec: dict[str, Any] = field(default_factory=dict)
    trial: Job = field(default_factory=Job)
    name: str | None = None
    pool: str | None = None
    workspace: str | None = None
    where: str = ""


def load(path: Path) -> Search:
    """Read a search from a file.

    Raises:
        LocalmlError: ``INVALID`` naming the file and the member that is wrong.
    """
    where, found = path.name, job_file.members_of(path, "SPEC")
    need_known(found, MEMBERS, where)
    made = Search(where=where)
    for name in _SUBMISSION:
        if name in found:
            setattr(made, name, need(found[name], str, f"{where}: {name}", "a text"))
    made.spec = {name: found[name] for name in _PLAIN if name in found}
    made.spec |= _space(found, where) | _objective(found, where)
    if {"trials", "max_trials"} & set(found):
        made.spec["max_trials"] = found.get("trials", found.get("max_trials"))
    if "experiments" in found:
        made.spec["algorithm"] = {"name": "grid"}
    if "algorithm" in found:
        made.spec["algorithm"] = algorithm(found["algorithm"], f"{where}: algorithm")
    if "metrics" in found:
        made.spec["metrics"] = _metrics(found["metrics"], f"{where}: metrics")
    if "early_stopping" in found:
        made.spec["early_stopping"] = _stopping(found["early_stopping"], f"{where}: early_stopping")
    made.trial = _trial(found, where, path.absolute().parent)
    return made


def algorithm(given: Any, where: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An algorithm by its name, or a table with ``name`` and parameters; ``options`` are further ones."""
    table = {"name": given} if isinstance(given, str) else dict(need(given, dict, where, "a name, or a table"))
    if "params" in table:
        table |= need(table.pop("params"), dict, f"{where}.params", "a table")
    params = {name: _text(value) for name, value in {**table, **(options or {})}.items() if name != "name"}
    return ({"name": table["name"]} if "name" in table else {}) | ({"params": params} if params else {})


def _space(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "experiments" in found:
        return {"experiments": need(found["experiments"], list, f"{where}: experiments", "a list of tables")}
    given = need(found.get("params", {}), dict, f"{where}: params", 'a table, such as lr = "log:1e-5..1e-1"')
    return {"space": [parameter(name, one, f"{where}: params.{name}") for name, one in given.items()]}


def _objective(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    said = [name for name in (*GOALS, "objective") if name in found]
    if len(said) > 1:
        raise invalid(f"{where}: {said[1]}", f"{said[0]} says already what is searched for")
    if not said:
        return {}
    if said == ["objective"]:
        table = need(found["objective"], dict, f"{where}: objective", "a table with metric and goal")
        need_known(table, {"metric", "goal", "take"}, f"{where}: objective")
        return {"objective": dict(table)}
    return {"objective": {"metric": need(found[said[0]], str, f"{where}: {said[0]}", "a metric"), "goal": said[0]}}


def _metrics(given: Any, where: str) -> dict[str, Any]:
    """A list of names, of which the latest values are shown, or a table name -> which value."""
    if isinstance(given, list):
        return {str(name): "latest" for name in given}
    table = need(given, dict, where, "a list of metrics, or a table")
    for name, one in table.items():
        if one not in _SHOWN_AS:
            raise invalid(f"{where}: {name}", f"must be one of {', '.join(_SHOWN_AS)}, not {one!r}")
    return dict(table)


def _stopping(given: Any, where: str) -> dict[str, Any] | None:
    if isinstance(given, bool):
        return {} if given else None
    table = need(given, dict, where, "true, false, or a table with min_trials and min_steps")
    need_known(table, {"min_trials", "min_steps"}, where)
    return dict(table)


def _trial(found: Mapping[str, Any], where: str, folder: Path) -> Job:
    table = dict(need(found.get("trial", {}), dict, f"{where}: trial", 'a table, such as command = "python train.py"'))
    for name in _SUBMISSION:
        if name in table:
            raise invalid(f"{where}: trial.{name}", f"is the study's; say it above [trial]: {name} = ...")
    if "code" in found:
        table.setdefault("code", found["code"])
    return job_file.job_of(table, f"{where}: trial", folder)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
