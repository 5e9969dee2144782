"""Submitting jobs from Python: with a folder of code, in another one's place, once more."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from localml.client.errors import ClientError
from localml.client.transport import Transport
from localml.client.types import Workload, workload

if TYPE_CHECKING:
    from localml.client.code import Packed
    from localml.client.types import Gpu

Reference = int | str
"""A workload's id or name."""
ALL = "all"
CODE_PREFIX = "sha256:"
CODE_LIMIT = 100 << 20
"""Bytes that a folder of code has at most, unless more is asked for: what is larger is mostly data by mistake."""
_NUMBERED = re.compile(r"(.+)-([0-9]{1,6})")
_NAME_TRIES = 8


class Jobs:
    """Calls that submit."""

    _http: Transport

    if TYPE_CHECKING:

        def get(self, ref: Reference) -> Workload: ...
        def wait(self, ref: Reference, timeout: float | None = None) -> Workload: ...
        def gpus(self) -> list[Gpu]: ...
        def all(self, **filters: Any) -> Any: ...

    def run(
        self,
        command: Sequence[str],
        *,
        name: str | None = None,
        image: str = "",
        entrypoint: str | None = None,
        gpus: float | str = 0,
        gpu_type: str | None = None,
        cpus: float | None = None,
        memory: int | str | None = None,
        shm: int | str | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        mounts: Sequence[Mapping[str, Any]] = (),
        code: Path | str | None = None,
        retries: int = 0,
        time_limit: float | str | None = None,
        priority: int = 0,
        pool: str = "default",
        workspace: str | None = None,
        replace: bool = False,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Workload:
        """Run one command, once; see :meth:`submit` for everything else that a workload can be.

        Args:
            entrypoint: what the command is given to, in place of the image's own ENTRYPOINT; empty for nothing.
            gpus: how many; below 1 a share of one; ``all`` that work is given to now.
            memory, shm: bytes, or text such as ``8G``.
            workdir: where it starts; with ``code`` a relative path is one in that folder.
            mounts: ``{"source", "target", "read_only"}`` each; a source is an object URI, a path or ``workspace:NAME``.
            code: a folder, which is sent unless it is there already (see :meth:`send_code`), or what that gave. Each
                replica starts in a copy of its own.
            time_limit: seconds from its start, or text such as ``8h``.
            workspace: name or id; the caller's own by default.
            replace: stop and remove the one that has this name, if there is one.
            wait: return when it has ended, at most after ``timeout`` seconds (None: whenever that is).
        """
        resources = {
            "gpu": self.gpu_count(gpus, gpu_type),
            "gpu_type": gpu_type,
            "cpu": cpus,
            "memory": memory,
            "shm": shm,
        }
        role: dict[str, Any] = {"command": list(command), "image": image, "env": dict(env or {}), "workdir": workdir}
        role["resources"] = {key: value for key, value in resources.items() if value is not None}
        role |= entered(image, entrypoint, role["command"])
        spec: dict[str, Any] = {
            "roles": [role],
            "priority": priority,
            "retries": {"limit": retries},
            "time_limit": time_limit,
            "mounts": [dict(one) for one in mounts],
        }
        if code is not None:
            spec["code"] = self.send_code(code, workspace=workspace)
        made = self.submit(spec, name=name, pool=pool, workspace=workspace, replace=replace)
        return self.wait(made.id, timeout) if wait else made

    def submit(
        self,
        spec: Mapping[str, Any],
        *,
        name: str | None = None,
        kind: str = "job",
        pool: str = "default",
        workspace: str | None = None,
        replace: bool = False,
    ) -> Workload:
        """Queue a workload; ``spec`` is a ``WorkloadSpec`` as JSON values. It is on disk when this returns.

        Args:
            replace: stop and remove the one that has this name, if there is one.
        """
        body = {"name": name, "kind": kind, "pool": pool, "workspace": workspace, "spec": dict(spec)}
        return workload(self._http.json("POST", "/workloads", body | ({"replace": True} if replace else {})))

    def send_code(
        self,
        folder: Path | str,
        *,
        workspace: str | None = None,
        limit: int = CODE_LIMIT,
        tell: Callable[[Packed, bool], None] = lambda *_: None,
    ) -> str:
        """Pack a folder and send it, unless the same content is there; answers what a job's ``code`` is then.

        What ``.gitignore`` and ``.localmlignore`` name stays behind; see :func:`localml.client.code.pack`.

        Args:
            folder: or an answer of this, which is given back.
            workspace: name or id of the one whose jobs may run it; the caller's own by default.
            limit: bytes of its files, at most.
            tell: told what was packed, and whether it had to be sent.

        Raises:
            ClientError: ``too_large``, with what is largest; ``invalid`` when it is no folder.
        """
        if isinstance(folder, str) and folder.startswith(CODE_PREFIX):
            return folder
        from localml.client.code import pack

        with pack(Path(folder), limit) as packed:
            there = self._has_code(packed.code, workspace)
            tell(packed, not there)
            if not there:
                self._put_code(packed, workspace)
            return packed.code

    def _has_code(self, code: str, workspace: str | None) -> bool:
        try:
            self._http.json("GET", f"/code/{code}", workspace=workspace)
        except ClientError as error:
            if error.code != "not_found":
                raise
            return False
        return True

    def _put_code(self, packed: Packed, workspace: str | None) -> None:
        headers = {"Content-Length": str(packed.packed_size), "Content-Type": "application/x-tar"}
        path = f"/code/{packed.code}"
        with self._http.stream("PUT", path, packed.file, headers=headers, timeout=None, workspace=workspace) as answer:
            answer.read()

    def rerun(
        self,
        ref: Reference,
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        code: Path | str | None = None,
        replace: bool = False,
    ) -> Workload:
        """Run a job once more, as it was asked for, with the code that it had; or a trial of a study, as a job.

        Args:
            name: of the new one; by default the old one's with the next free number behind it.
            env: variables that are other now, or new; of all its roles.
            code: a folder in place of the one that it had, as for :meth:`run`.
            replace: the new one takes the name of the old one, which is stopped and removed.

        Raises:
            ClientError: ``wrong_state`` for what is neither.
        """
        old = self.get(ref)
        if old.kind not in ("job", "trial"):
            raise ClientError("wrong_state", f"{old.name} is a {old.kind}; 'localml start {old.name}' starts it again")
        if replace and old.kind == "trial":
            raise ClientError("wrong_state", f"{old.name} is a trial of a study, which stays; it is run as another job")
        spec = {key: value for key, value in old.spec.items() if key != "depends_on"}  # it has been waited for
        spec["roles"] = [{**role, "env": role.get("env", {}) | dict(env or {})} for role in spec["roles"]]
        if code is not None:
            spec["code"] = self.send_code(code, workspace=old.workspace)
        place: dict[str, Any] = {"pool": old.pool, "workspace": old.workspace}
        if replace or name is not None:
            return self.submit(spec, name=name or old.name, replace=replace, **place)
        for turn in range(_NAME_TRIES):
            try:
                return self.submit(spec, name=self._next_name(old.name, turn, old.kind), **place)
            except ClientError as error:
                if error.code != "conflict" or error.field != "name":
                    raise
        return self.submit(spec, **place)

    def _next_name(self, name: str, further: int, kind: str) -> str:
        found = _NUMBERED.fullmatch(name) if kind == "job" else None  # a trial's number is the trial's
        base = found[1] if found else name
        others = (_NUMBERED.fullmatch(one.name) for one in self.all(contains=f"{base}-", kind="job"))
        numbers = [int(one[2]) for one in others if one and one[1] == base]
        return f"{base[:120]}-{max(numbers, default=1) + 1 + further}"

    def gpu_count(self, wanted: float | str, gpu_type: str | None = None) -> float:
        """How many GPUs ``all`` (of a type) are: those that work is given to now. Numbers are what they say.

        Raises:
            ClientError: ``invalid`` for other words, ``capacity`` when there are none.
        """
        if wanted != ALL:
            try:
                return float(wanted)
            except (TypeError, ValueError):
                raise ClientError("invalid", f"gpus: must be a number or 'all', not {wanted!r}", field="gpus") from None
        kind = (gpu_type or "").lower()
        open_to_work = [one for one in self.gpus() if not (one.drained or one.fenced) and kind in one.name.lower()]
        if not open_to_work:
            raise ClientError("capacity", "gpus: there is none that is given work", field="gpus")
        return float(len(open_to_work))


def entered(image: str, entrypoint: str | None, command: list[str]) -> dict[str, Any]:
    """Members of a role whose command is given to the image's own entry point, as ``docker run`` does, or to another
    one."""
    if entrypoint is None:
        return {"keep_entrypoint": True} if image else {}
    return {"command": [*([entrypoint] if entrypoint else []), *command]}


def part(ref: Reference) -> str:
    """A reference as a part of a path."""
    return quote(str(ref), safe="")
