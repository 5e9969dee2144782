"""From a study's template and a trial's values to the workload that the trial runs.

Values reach the program in every way that programs know: in its command and variables (``{NAME}``, ``{trial}``,
``{params}``), as ``LOCALML_PARAMS``, and in the file ``config.json`` where it starts.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

from localml.core.sql import json_text
from localml.core.studies.space import Parameter, Values
from localml.core.studies.specs import ResultFile, StudySpec
from localml.core.work.placeholders import literal
from localml.core.work.specs import Role, WorkloadSpec

CONFIG = "config.json"
"""Where a trial starts: its parameters as one flat JSON object."""
_BRACES = re.compile(r"(?<![%$])\{([^{}]+)\}")  # not the shell's ${x}, nor a reference %{x} (core/work/placeholders.py)
_ALL = "params"


def text_of(value: Any) -> str:
    """A value as a word of a command: ``0.1``, ``16``, ``true``, ``adam``."""
    return value if isinstance(value, str) else json.dumps(value)


def options(values: Values) -> list[str]:
    """Values as a program's options: ``--lr 0.1 --batch 32``."""
    return [word for name, value in values.items() for word in (f"--{name}", text_of(value))]


def trial_spec(spec: StudySpec, study: str, number: int, values: Values) -> WorkloadSpec:
    """What a trial runs.

    Args:
        study: its name.
        number: the trial's.
    """
    own = {
        "LOCALML_STUDY": literal(study),
        "LOCALML_TRIAL": str(number),
        "LOCALML_PARAMS": literal(json_text(values)),
    }
    shown = {**{name: text_of(value) for name, value in values.items()}, "trial": str(number)}
    roles = tuple(_role(role, shown, options(values), own) for role in spec.trial.roles)
    made: dict[str, Any] = {"roles": roles}
    if _has_folder(spec.trial):
        made["files"] = {CONFIG: json_text(values), **spec.trial.files}
    return spec.trial.model_copy(update=made)


def _has_folder(spec: WorkloadSpec) -> bool:
    """Whether it starts in a folder of its own. What an image of somebody's starts in its own folder stays there."""
    return bool(spec.code or spec.files) or all(not role.image for role in spec.roles)


def _role(role: Role, shown: dict[str, str], params: list[str], own: dict[str, str]) -> Role:
    words: list[str] = []
    quoted = shlex.join(params)
    for word in role.command:
        words += params if word == "{params}" else [_filled(word, shown, quoted)]
    env = {name: _filled(text, shown, " ".join(params), literal) for name, text in role.env.items()}
    return role.model_copy(update={"command": tuple(words), "env": {**env, **own}})


def _filled(text: str, shown: dict[str, str], params: str, written: Callable[[str], str] = str) -> str:
    if "{" not in text:
        return text

    def one(found: re.Match[str]) -> str:
        name = found[1]
        value = shown.get(name, params if name == _ALL else None)
        return found[0] if value is None else written(value)

    return _BRACES.sub(one, text)


def result_uri(result: ResultFile, number: int, run: int) -> str:
    """Where a trial leaves its metrics."""
    return result.uri.replace("{trial}", str(number)).replace("{run}", str(run))


def sample_values(spec: StudySpec) -> Values:
    """Values that a trial may get, to see whether it could run at all."""
    return dict(spec.experiments[0]) if spec.experiments else {one.name: _sample(one) for one in spec.space}


def _sample(one: Parameter) -> Any:
    if one.is_range:
        return one.of_drawn(one.high or 0.0)
    return one.choices[0] if one.choices else one.value
