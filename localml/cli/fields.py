"""Members of requests in the words of the command that made them: ``--cpus``, not ``spec.roles.0.resources.cpu``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

_PATH = re.compile(r"^((?:[a-z_]+|\d+)(?:\.[^\s:.]+)*): ")
_LEFT_OUT = re.compile(r"^(?:spec\.)?(?:trial\.|objective\.)?(?:roles\.\d+\.)?(?:resources\.|scaling\.)?")
_NOT_IN_FILE = re.compile(r"^spec\.|\bresources\.|(?<=\bretries)\.limit$")
_ONLY_ROLE = re.compile(r"^(trial\.)?roles\.0\.")
_ROLES = re.compile(r"""^[\s{\["']*roles\b""", re.MULTILINE)
_AS_IN_FILE = re.compile(r"\b(?:cpu|gpu)$")
_WORDS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("--cpus", "--cpu"),
    "gpu": ("--gpus", "--gpu"),
    "idle_limit": ("--idle",),
    "mounts": ("--mount",),
    "command": ("-- COMMAND...",),
    "minimum": ("--min", "--replicas"),
    "maximum": ("--max", "--max-replicas"),
    "gateway_port": ("--gateway-port", "--port"),
    "options": ("--option",),
    "variants": ("--variant",),
    "max_trials": ("--trials",),
    "objective": ("--metric",),
    "goal": ("--maximize",),
    "space": ("--param",),
    "keep_log_bytes": ("--keep",),
}
"""Member -> what it may be called, where that is neither ``--member`` nor ``MEMBER``."""


def in_words(message: str, function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """A message that begins with a member of a request, with the option or argument of the command that it is.

    Args:
        given: the command's parameters; what a file says, and no option, is called as in the file.
    """
    found = _PATH.match(message)
    if found is None:
        return message
    member, known = _LEFT_OUT.sub("", found[1]).split(".")[0], _known(function)
    for word in (*_WORDS.get(member, ()), f"--{member.replace('_', '-')}", member.upper()):
        if word in known and (given.get("file") is None or given.get(known[word])):
            return f"{word}: {message[found.end() :]}"
    file = given.get("file")
    if file is None or message.startswith(f"{file.name}: "):
        return message
    return f"{file.name}: {_in_file(found[1], file)}: {message[found.end() :]}"


def _in_file(path: str, file: Path) -> str:
    """What a job file calls a member: ``cpus``, ``roles.1.gpus``, ``retries``."""
    member = _AS_IN_FILE.sub(lambda one: f"{one[0]}s", _NOT_IN_FILE.sub("", path))
    with suppress(OSError):
        if not _ROLES.search(file.expanduser().read_text(errors="replace")):
            member = _ONLY_ROLE.sub(r"\1", member)
    return member


def _known(function: Callable[..., Any]) -> dict[str, str]:
    """The options and arguments of a command -> their parameters."""
    found: dict[str, str] = {}
    for name, hint in get_type_hints(function, include_extras=True).items():
        for one in get_args(hint):
            if isinstance(one, OptionInfo):
                # what is given first is called its default, before typer has looked at it
                given = (str(word) for word in (one.default, *(one.param_decls or ())))
                decls = [word for word in given if word.startswith("-")]
                found |= dict.fromkeys(decls or [f"--{name.replace('_', '-')}"], name)
            elif isinstance(one, ArgumentInfo):
                found[one.metavar or name.upper()] = name
    return found
