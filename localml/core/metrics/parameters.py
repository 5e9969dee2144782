"""Parameters of a job, from what is there anyway: its command, its variables, and a file in its output folder."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import yaml

from localml.core.limits import MOST_PARAMETERS
from localml.core.work.outputs import LAUNCH
from localml.core.work.specs import WorkloadSpec

FILES = ("params.json", "params.toml", "params.yaml", "params.yml", "hparams.yaml", "hparams.json")
"""Names of files in an output folder whose values are parameters; Lightning writes ``hparams.yaml``."""
MOST_FILE = 256 << 10
MOST_NAME, MOST_VALUE = 200, 500
_LEVELS = 8
_OPTION = re.compile(r"--?([A-Za-z_][\w.-]*)(?:=(.*))?", re.DOTALL)
_ASSIGNMENT = re.compile(r"\+{0,2}([A-Za-z_][\w./-]*)=(.*)", re.DOTALL)
_PLUMBING = ("LOCALML_", "PAI_", "MLBENCH_", "PYTHON", "LD_")
_OTHERS = frozenset({"PATH", "HOME", "USER", "LANG", "TZ", "TF_CONFIG", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})
"""Variables that say where something is, not what is done."""
_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})
_SECRET = re.compile(r"token$|secret|passw|credential|(?:^|[_.-])key$|api[_-]?key", re.IGNORECASE)
"""Names of what is nobody's to be shown around; ``max_tokens`` and ``tokenizer`` are others."""


def of_spec(spec: WorkloadSpec) -> dict[str, str]:
    """What the command and the variables of a workload's first role say; the command goes before. Sealed variables are
    no parameters."""
    if not spec.roles:
        return {}
    role = spec.roles[0]
    said: dict[str, str] = {}
    for found in (of_command(role.command), of_launch(role.env), of_variables(role.env)):
        said |= {name: value for name, value in found.items() if name not in said}
    return bounded(said)


def of_command(words: Sequence[str]) -> dict[str, str]:
    """``--lr 0.1``, ``--lr=0.1``, ``lr=0.1`` and ``--amp`` (``true``), also within a command for a shell."""
    found: dict[str, str] = {}
    shell = bool(words) and words[0].rpartition("/")[2] in _SHELLS
    given = [part for word in words for part in (_words(word) if shell and "--" in word else [word])]
    for word, following in pairwise([*given, "--"]):
        option, assignment = _OPTION.fullmatch(word), _ASSIGNMENT.fullmatch(word)
        if option is not None and (word.startswith("--") or len(option[1]) > 1):
            value = option[2] if option[2] is not None else "true" if _is_option(following) else following
            found[option[1]] = value
        elif assignment is not None:
            found[assignment[1]] = assignment[2]
    return found


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _is_option(word: str) -> bool:
    """``-1`` and ``-.5`` are values."""
    return word.startswith("-") and not re.fullmatch(r"-[\d.].*", word)


def of_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Those that a user gave, but for what says where something is."""
    return {name: value for name, value in env.items() if _tells(name)}


def _tells(name: str) -> bool:
    return not name.startswith(_PLUMBING) and name.upper() not in _OTHERS


def of_launch(env: Mapping[str, str]) -> dict[str, str]:
    """The arguments that a trainer package is started with, where the launcher starts it."""
    try:
        said = json.loads(env.get(LAUNCH, "{}"))
    except ValueError:
        return {}
    text = said.get("job_args") if isinstance(said, dict) else None
    return of_command(_words(text)) if isinstance(text, str) else {}


def of_file(name: str, data: bytes) -> dict[str, str]:
    """What a file says; nothing of one that cannot be read. Members of members are named ``model.depth``."""
    try:
        text = data.decode()
        given = json.loads(text) if name.endswith(".json") else _other(name, text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return bounded(dict(_flat(given, "", _LEVELS))) if isinstance(given, dict) else {}


def _other(name: str, text: str) -> Any:
    if name.endswith(".toml"):
        return tomllib.loads(text)
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
        return None  # a few of them can stand for gigabytes
    return yaml.safe_load(text)


def _flat(given: Mapping[Any, Any], prefix: str, levels: int) -> Iterator[tuple[str, str]]:
    for key, value in given.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and levels > 1:
            yield from _flat(value, f"{name}.", levels - 1)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def bounded(given: Mapping[str, str]) -> dict[str, str]:
    """The first ones, as far as they are to be kept: no secrets."""
    kept = ((name, value) for name, value in given.items() if 0 < len(name) <= MOST_NAME and not _SECRET.search(name))
    return {name: value[:MOST_VALUE] for (name, value), _ in zip(kept, range(MOST_PARAMETERS), strict=False)}
