"""Jobs in files: ``localml run -f job.yaml``, ``localml show NAME --as-file``.

A file (TOML, YAML or JSON) has the members of a submission and of its spec, and beside them those of a job's only role,
or ``roles``. What the options of ``localml run`` call otherwise may be called so: ``gpus``, ``cpus``, ``gpu_type``,
``memory``, ``shm``. ``command`` may be one text, parted as a shell does; ``mounts`` ``SRC:DST[:ro]``, ``retries``
a number; ``code`` is a folder, seen from the file's.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from localml.cli.places import mount_source
from localml.client import Workload
from localml.client.jobs import CODE_PREFIX
from localml.core.errors import invalid
from localml.core.home import expanded
from localml.core.limits import MOST_LEVELS
from localml.core.quantities import exact_duration, exact_memory, parse_size

T = TypeVar("T")
_SUBMISSION = ("name", "pool", "workspace", "code")
_NEEDS = {"gpus": "gpu", "cpus": "cpu", "gpu_type": "gpu_type", "memory": "memory", "shm": "shm", "pids": "pids"}
"""Name in a file -> member of a role's resources."""
_TIMES = ("time_limit", "stop_grace", "idle_limit")


@dataclass(slots=True)
class Job:
    """What is to be submitted: ``spec`` as JSON values, ``code`` a folder or what was sent before."""

    spec: dict[str, Any] = field(default_factory=lambda: {"roles": [{}]})
    name: str | None = None
    pool: str | None = None
    workspace: str | None = None
    code: str | None = None

    def only_role(self, option: str) -> dict[str, Any]:
        """The role that an option is about.

        Raises:
            LocalmlError: ``INVALID`` where there are several.
        """
        if len(self.spec["roles"]) > 1:
            raise invalid(option, "the file has several roles; say it there")
        role: dict[str, Any] = self.spec["roles"][0]
        return role


def load(path: Path) -> Job:
    """Read a job from a file.

    Raises:
        LocalmlError: ``INVALID`` naming the file and the member that is wrong.
    """
    return job_of(members_of(path), path.name, path.absolute().parent)


def members_of(path: Path, option: str = "--file") -> dict[str, Any]:
    """What a file says, as JSON values; members that say nothing are left out. Raises as :func:`load`.

    Args:
        option: what it is called where there is no such file.
    """
    return need(_plain(_parsed(path, option), path.name), dict, path.name, "members, such as command: python train.py")


def job_of(found: dict[str, Any], where: str, folder: Path) -> Job:
    """A job from the members of a file, or of a part of one.

    Args:
        where: what is said of it where something is wrong.
        folder: that ``code`` is seen from.
    """
    spec_members, role_members = known_members()
    known = {*_SUBMISSION, *spec_members} | (set() if "roles" in found else role_members)
    need_known(found, known, where)
    spec = {key: value for key, value in found.items() if key in spec_members and key != "code"}
    if "roles" not in found:
        spec["roles"] = [{key: value for key, value in found.items() if key in role_members}]
    roles = need(spec["roles"], list, f"{where}: roles", "a list")
    several = "roles" in found
    spec["roles"] = [
        _role(one, role_members, f"{where}: roles.{at}" if several else where) for at, one in enumerate(roles)
    ]
    if isinstance(spec.get("retries"), int):
        spec["retries"] = {"limit": spec["retries"]}
    if "mounts" in spec:
        given = need(spec["mounts"], list, f"{where}: mounts", "a list")
        spec["mounts"] = [mount(one) if isinstance(one, str) else one for one in given]
    texts = {name: need(found[name], str, f"{where}: {name}", "a text") for name in _SUBMISSION if name in found}
    job = Job(spec, **texts)
    if job.code is not None and not job.code.startswith(CODE_PREFIX):
        job.code = str(folder / expanded(job.code, "code"))
    return job


def dump(found: Workload, workspace: str | None) -> dict[str, Any]:
    """A workload as the members of a file; :func:`load` gives the same spec back.

    Args:
        workspace: name of a shared one that it is in.
    """
    made: dict[str, Any] = {"name": found.name}
    made |= {"pool": found.pool} if found.pool != "default" else {}
    made |= {"workspace": workspace} if workspace is not None else {}
    rest = {key: value for key, value in found.spec.items() if key != "roles"}
    if set(rest.get("retries", ())) == {"limit"}:
        rest["retries"] = rest["retries"]["limit"]
    for member in _TIMES:
        if rest.get(member) is not None:
            rest[member] = exact_duration(rest[member])
    roles = [_shown(role) for role in found.spec["roles"]]
    return made | rest | (roles[0] if len(roles) == 1 else {"roles": roles})


def text_of(members: Mapping[str, Any]) -> str:
    """The members as YAML, in their order."""
    import yaml

    return str(yaml.safe_dump(dict(members), sort_keys=False, allow_unicode=True, width=120))


def mount(text: str) -> dict[str, Any]:
    """``SRC:DST[:ro]``, where SRC may hold colons itself (``fds://bucket/x``, ``workspace:w``)."""
    rest, read_only = (text[:-3], True) if text.endswith(":ro") else (text.removesuffix(":rw"), False)
    source, colon, target = rest.rpartition(":")
    if not colon or not source or not target.startswith("/"):
        raise invalid("--mount", f"must be SRC:DST[:ro] with an absolute DST, not {text!r}")
    return {"source": mount_source(source), "target": target, "read_only": read_only}


def _parsed(path: Path, option: str) -> Any:
    import tomllib

    import yaml

    readers: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": json.loads}
    text = ""
    try:
        text = expanded(path, option).read_text()
        return readers.get(path.suffix.lower(), yaml.safe_load)(text)
    except FileNotFoundError:
        raise invalid(option, f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(option, f"{path} cannot be read: {error}") from error
    except (ValueError, yaml.YAMLError) as error:  # those of TOML and JSON are ValueErrors
        raise invalid(option, f"{path}: {' '.join(str(error).split())}{_other_language(path, text)}") from error


def _other_language(path: Path, text: str) -> str:
    """That a file with another name is YAML, as ``show --as-file`` writes it; empty where it is not."""
    import yaml

    name = path.suffix.lower().removeprefix(".").upper()
    with suppress(yaml.YAMLError):
        if name in ("TOML", "JSON") and isinstance(yaml.safe_load(text), dict):
            return f"; this is no {name}, it reads as YAML: name it {path.with_suffix('.yaml').name}"
    return ""


def known_members() -> tuple[set[str], set[str]]:
    """The members of a spec, and what a role may have in a file."""
    from localml.core.work.specs import Role, WorkloadSpec

    return set(WorkloadSpec.model_fields), {*(set(Role.model_fields) - {"name"}), *_NEEDS, "entrypoint"}


def _plain(value: Any, where: str, level: int = 0) -> Any:
    """A value as JSON has them, members that say nothing left out; YAML and TOML know more, such as dates."""
    if level > MOST_LEVELS:
        raise invalid(where, f"has more than {MOST_LEVELS} levels of lists and members in each other")
    if isinstance(value, dict):
        return {str(name): _plain(one, f"{where}: {name}", level + 1) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_plain(one, where, level + 1) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise invalid(where, f"must be a text, a number, a list or members, not {value}; quotes make a text of it")


def need(value: Any, kind: type[T], where: str, what: str) -> T:
    if not isinstance(value, kind):
        raise invalid(where, f"must be {what}")
    return value


def need_known(found: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise invalid(
                f"{where}: {name}", "there is no such member" + (f"; did you mean {near[0]}?" if near else "")
            )


def _role(given: Any, members: set[str], where: str) -> dict[str, Any]:
    """A role of a spec. Its command is given to its image's own entry point unless it says otherwise."""
    from localml.client.jobs import entered

    role = dict(need(given, dict, where, "members, such as command: python train.py"))
    need_known(role, members | {"name"}, where)
    needs = {to: role.pop(name) for name, to in _NEEDS.items() if name in role}
    if needs or "resources" in role:
        given_needs = need(role.get("resources", {}), dict, f"{where}: resources", "members, such as gpu: 1")
        role["resources"] = {**given_needs, **needs}
    for name in ("memory", "shm"):
        if type(needs.get(name)) in (int, str):
            needs[name] = parse_size(needs[name], f"{where}: {name}")
    if "command" in role:
        role["command"] = _words(role["command"], f"{where}: command")
    entrypoint = role.pop("entrypoint", None)
    keeps = {"keep_entrypoint": role["keep_entrypoint"]} if "keep_entrypoint" in role else {}
    role |= entered(role.get("image", ""), entrypoint, role.get("command", [])) | keeps
    variables = need(role.get("env", {}), dict, f"{where}: env", "members, such as LR: 0.1")
    role["env"] = {name: _text(value) for name, value in variables.items()}
    return role


def _words(value: Any, where: str) -> list[Any]:
    if not isinstance(value, str):
        return need(value, list, where, "a text or a list")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise invalid(where, f"cannot be parted into words: {error}") from error


def _text(value: Any) -> Any:
    """A variable's value: numbers and truth values are what a file means by them."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _shown(role: Mapping[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in role.items() if key != "resources"}
    called = {to: name for name, to in _NEEDS.items()}
    made |= {called[key]: _amount(key, value) for key, value in role.get("resources", {}).items()}
    if made.get("image") and not made.get("keep_entrypoint"):
        made["keep_entrypoint"] = False
    return made


def _amount(name: str, value: Any) -> Any:
    """Amounts as people write them; none of it is rounded."""
    if name in ("memory", "shm"):
        return exact_memory(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
