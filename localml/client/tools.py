"""Notebooks and TensorBoards of a server, from Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from localml.client.errors import ClientError
from localml.client.transport import Transport
from localml.client.types import ENDED, make

_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Tool:
    """A notebook or TensorBoard, which keeps ``id`` and name when it is stopped and started again.

    ``workload_id`` is its newest run (the ``run``-th), whose state and times these are; with ``pending`` another one
    is wanted, which begins when that has ended. ``url`` opens it, token included; ``base_url`` is where its own API
    is; both None while it does not run. ``source`` is the folder of a notebook, the logdir of a TensorBoard.
    ``ready`` tells whether it answers, ``activity`` what it does (``idle_for``; of a notebook also ``kernels``,
    ``memory``, ``cpu_percent``); they are only filled for a single one.
    """

    id: int
    name: str
    kind: str
    state: str
    message: str
    owner: str
    gpu: float
    created_at: float
    started_at: float | None
    ended_at: float | None
    workload_id: int
    run: int
    pending: bool
    source: str
    token: str | None
    url: str | None
    base_url: str | None
    idle_limit: float | None
    time_limit: float | None
    ready: bool = False
    activity: dict[str, Any] | None = None
    dialect: str = field(default="native")


class Tools:
    """Part of :class:`localml.client.Client`, as its ``tools``."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def start_notebook(self, *, code: str | None = None, replace_code: bool = False, **members: Any) -> Tool:
        """Start a JupyterLab, a new one or a stopped one of this name; members as in ``POST /notebooks`` (name,
        folder, workspace, token, image, resources, env, mounts, idle_limit, time_limit ...), those that are None left
        out.

        Args:
            code: what :meth:`localml.client.jobs.Jobs.send_code` gave. It is put into the notebook's folder first, and
                stays there; give a name or a folder, too.
            replace_code: files of those names that are there and differ are replaced; else they are in the way.

        Raises:
            ClientError: ``conflict`` with the files that are in the way.
        """
        if code is not None:
            self._put_code(members, code, replace_code)
        return self._start("/notebooks", members)

    def _put_code(self, members: dict[str, Any], code: str, replace: bool) -> None:
        folder = members.get("folder") or members.get("name")
        if not folder:
            raise ClientError("invalid", "code: give a name, or a folder for it to be put into", field="code")
        there = self._there(members)
        if there is not None:
            if there.state not in ENDED:
                return  # it is refused: one of this name runs
            folder = members.get("folder") or there.source
        body = {"code": code, "workspace": members.get("workspace"), "replace": replace}
        self._http.json("PUT", f"/folders/{quote(folder, safe='')}/code", body)

    def _there(self, members: dict[str, Any]) -> Tool | None:
        try:
            return self.notebook(members["name"]) if members.get("name") else None
        except ClientError as error:
            if error.code != "not_found":
                raise
            return None

    def start_tensorboard(self, logdir: str, **members: Any) -> Tool:
        """Start a TensorBoard over an object URI, a new one or a stopped one of this name; members as in
        ``POST /tensorboards`` (name, token, image, command, idle_limit, time_limit ...), those that are None left
        out."""
        return self._start("/tensorboards", {"logdir": logdir, **members})

    def notebooks(self) -> list[Tool]:
        """All notebooks."""
        return [make(Tool, one) for one in self._http.json("GET", "/notebooks")["tools"]]

    def tensorboards(self) -> list[Tool]:
        """All TensorBoards."""
        return [make(Tool, one) for one in self._http.json("GET", "/tensorboards")["tools"]]

    def notebook(self, ref: int | str) -> Tool:
        """One notebook, with what it does."""
        return make(Tool, self._http.json("GET", f"/notebooks/{quote(str(ref), safe='')}"))

    def tensorboard(self, ref: int | str) -> Tool:
        """One TensorBoard."""
        return make(Tool, self._http.json("GET", f"/tensorboards/{quote(str(ref), safe='')}"))

    def start(self, one: Tool) -> Tool:
        """Start it again as it was; one that runs goes on. Name, token and files stay, its port if it is free."""
        return self._wish(one, "/start")

    def stop(self, one: Tool) -> Tool:
        """Stop it; it can be started again."""
        return self._wish(one, "/stop")

    def restart(self, one: Tool) -> Tool:
        """Stop it if it runs, and start it again."""
        return self._wish(one, "/restart")

    def change(self, one: Tool, **members: Any) -> Tool:
        """Change settings, members as for its start; one that runs has them after its next start."""
        return make(Tool, self._http.json("PATCH", f"/{one.kind}s/{one.id}", members))

    def delete(self, one: Tool) -> Tool:
        """Stop it if it runs, and forget its name; a notebook's files stay."""
        return make(Tool, self._http.json("DELETE", f"/{one.kind}s/{one.id}"))

    def _wish(self, one: Tool, verb: str) -> Tool:
        return make(Tool, self._http.json("POST", f"/{one.kind}s/{one.id}{verb}"))

    def wait_ready(self, made: Tool, timeout: float, tell: Callable[[Tool], None] = lambda _: None) -> Tool:
        """Wait until it answers requests.

        Args:
            timeout: in seconds.
            tell: called with what each look finds, some times a second.

        Raises:
            ClientError: it ended instead.
            TimeoutError: it took longer.
        """
        deadline = time.monotonic() + timeout
        look = self.notebook if made.kind == "notebook" else self.tensorboard
        while True:
            found = look(made.id)
            if found.ready and not found.pending:  # with another run wanted, this one ends
                return found
            if found.state in ENDED:
                raise ClientError("wrong_state", f"{found.name} {found.state}: {found.message}")
            tell(found)
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{found.name} does not answer after {timeout:g} s; it is {found.state}")
            time.sleep(_POLL_S)

    def _start(self, path: str, members: dict[str, Any]) -> Tool:
        given = {name: value for name, value in members.items() if value is not None}
        return make(Tool, self._http.json("POST", path, given))
