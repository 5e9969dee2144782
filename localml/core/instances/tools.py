"""Notebooks and TensorBoards: workloads that people open in a browser, and that run until they are stopped.

This module says what such a workload runs, and how it is reached; the runtimes ``notebook`` and ``tensorboard`` are
the other side. A token guards each of them. It is kept encrypted in the spec, because its owner is shown it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.sealing import Sealer
from localml.core.people.secrets import new_token
from localml.core.work.placeholders import expand, literal
from localml.core.work.specs import Mount, Port, Resources, RetryPolicy, Role, WorkloadSpec
from localml.core.work.states import Kind
from localml.core.work.tables import Attempt
from localml.core.work.workloads import Full

NOTEBOOK_IMAGE = "localml/notebook:latest"
NOTEBOOK_IMAGES = ("localml/notebook", "localml/notebook-pytorch")
"""What our notebooks run in; the first unless another is named."""
TENSORBOARD_IMAGE = "localml/tensorboard:latest"
WORK_FOLDER = "/workspace"
"""Where a notebook's container has the folder that outlasts it."""
HTTP = "http"
"""Label of the port with the web pages."""

_NOTEBOOK_COMMAND = ("python", "-m", "localml_notebook")
_TENSORBOARD_COMMAND = ("python", "-m", "localml_tensorboard")
NOTEBOOK_PORT, _TENSORBOARD_PORT = 8888, 6006
_NOTEBOOK_TOKEN, _TENSORBOARD_TOKEN = "JUPYTER_TOKEN", "LOCALML_TOKEN"
_PAGES = {Kind.NOTEBOOK: "/lab", Kind.TENSORBOARD: "/"}
_TOKEN_NAMES = {Kind.NOTEBOOK: _NOTEBOOK_TOKEN, Kind.TENSORBOARD: _TENSORBOARD_TOKEN}
_LOGDIR = "LOCALML_LOGDIR"
_TOKEN = re.compile(r"[!-~]{1,256}")
_RESTARTS = RetryPolicy(limit=1000, backoff=1, factor=2, max_backoff=60)
_ANYWHERE = ("0.0.0.0", "::", "localhost")


@dataclass(frozen=True, slots=True)
class Notebook:
    """A JupyterLab that somebody wants.

    Attributes:
        folder: name of the user's work folder whose files it has, and which stays when it is gone.
        token: what to open it with; None makes a new one.
        image, command: of one's own instead of ours; the image must start a Jupyter server on port 8888.
        tcp_ports: further ports to publish, under the labels ``tcp-PORT``.
        idle_limit: seconds without activity after which it is stopped.
        time_limit: seconds after which it is stopped, whatever it does.
    """

    folder: str
    token: str | None = None
    image: str = ""
    command: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    tcp_ports: tuple[int, ...] = ()
    idle_limit: float | None = None
    time_limit: float | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Tensorboard:
    """A TensorBoard that somebody wants.

    Attributes:
        folder: where the event files are, as a path below the bucket tree; it need not exist yet.
        token: what to open it with; None makes a new one, and so does an empty one, which older versions took.
        image, command: of one's own instead of ours; the image must serve on port 6006.
        idle_limit: seconds without a request after which it is stopped; only ours tells, so not with an image or
            command of one's own.
        time_limit: seconds after which it is stopped, whatever it does.
    """

    folder: str
    token: str | None = None
    image: str = ""
    command: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    idle_limit: float | None = None
    time_limit: float | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Access:
    """How a notebook or TensorBoard is reached.

    Attributes:
        token: empty where none is needed.
        host, port: where it listens; the port is None while it does not run.
        base: ``http://host:port``, and ``url`` the page to open, token included; both None while it does not run.
    """

    token: str
    host: str
    port: int | None = None
    base: str | None = None
    url: str | None = None


def host_port(full: Full, label: str = HTTP) -> int | None:
    """The published port of the container that runs now; None when none runs."""
    running = _running(full)
    return int((running.ports or {}).get(label, (0, 0))[1]) or None if running is not None else None


def _running(full: Full) -> Attempt | None:
    newest = [one for one in full.attempts if one.number == full.row.attempt and one.runs]
    return newest[0] if newest else None


class Tools:
    """Makes the specs of notebooks and TensorBoards, and tells how to reach them.

    Args:
        sealer: keeps the tokens.
        bind_host: the address that published ports are bound to.
    """

    def __init__(self, sealer: Sealer, bind_host: str) -> None:
        self._sealer = sealer
        self._host = "127.0.0.1" if bind_host in _ANYWHERE else bind_host

    def notebook(self, owner: int, wanted: Notebook) -> WorkloadSpec:
        """What to run for a notebook of the user of this number.

        Raises:
            LocalmlError: ``INVALID`` naming ``token``, or what no spec can say.
        """
        image = wanted.image or NOTEBOOK_IMAGE
        ours = _is_ours(image)
        role = Role(
            image=image,
            command=_NOTEBOOK_COMMAND if ours and not wanted.command else wanted.command,
            env={**wanted.env, "LOCALML_WORK": WORK_FOLDER, **_shown_limits(wanted.resources)},
            sealed_env={_NOTEBOOK_TOKEN: self._sealed(owner, wanted.token)},
            resources=wanted.resources,
            ports=(
                Port(label=HTTP, container=NOTEBOOK_PORT),
                *(Port(label=f"tcp-{number}", container=number) for number in wanted.tcp_ports),
            ),
            workdir=WORK_FOLDER if ours else None,
        )
        work = Mount(source=f"workspace:{wanted.folder}", target=WORK_FOLDER)
        return WorkloadSpec(
            roles=(role,),
            mounts=(work, *wanted.mounts),
            retries=_RESTARTS,
            until_stopped=True,
            idle_limit=wanted.idle_limit,
            time_limit=wanted.time_limit,
            priority=wanted.priority,
        )

    def tensorboard(self, owner: int, wanted: Tensorboard) -> WorkloadSpec:
        """What to run for a TensorBoard of the user of this number.

        Raises:
            LocalmlError: ``INVALID`` naming ``token`` or ``idle_limit``.
        """
        if wanted.idle_limit is not None and (wanted.image or wanted.command):
            raise invalid("idle_limit", "an image or command of one's own does not tell when it was last used")
        role = Role(
            image=wanted.image or TENSORBOARD_IMAGE,
            command=wanted.command if wanted.image or wanted.command else _TENSORBOARD_COMMAND,
            env={_LOGDIR: literal(wanted.folder)},
            sealed_env={_TENSORBOARD_TOKEN: self._sealed(owner, wanted.token or None)},
            resources=wanted.resources,
            ports=(Port(label=HTTP, container=_TENSORBOARD_PORT),),
        )
        return WorkloadSpec(
            roles=(role,),
            objects=(f"/{wanted.folder}",) if wanted.folder else (),
            retries=_RESTARTS,
            until_stopped=True,
            idle_limit=wanted.idle_limit,
            time_limit=wanted.time_limit,
            priority=wanted.priority,
        )

    def notebook_of(self, owner: int, spec: WorkloadSpec) -> Notebook:
        """What a notebook's spec was made from: the reverse of :meth:`notebook`.

        Raises:
            LocalmlError: ``WRONG_STATE`` for a spec that somebody wrote by hand.
        """
        role = spec.roles[0]
        work, mounts = spec.mounts[:1], spec.mounts[1:]
        if [one.target for one in work] != [WORK_FOLDER]:
            raise LocalmlError(Code.WRONG_STATE, "the notebook was submitted as a spec, so its settings cannot change")
        image, command = _own(role, NOTEBOOK_IMAGE, _NOTEBOOK_COMMAND)
        return Notebook(
            folder=work[0].source.removeprefix("workspace:"),
            token=self._opened(owner, role, _NOTEBOOK_TOKEN),
            image=image,
            command=command,
            resources=role.resources,
            env={name: value for name, value in role.env.items() if name not in _COMPUTED},
            mounts=mounts,
            tcp_ports=tuple(port.container for port in role.ports if port.label != HTTP),
            idle_limit=spec.idle_limit,
            time_limit=spec.time_limit,
            priority=spec.priority,
        )

    def tensorboard_of(self, owner: int, spec: WorkloadSpec) -> Tensorboard:
        """What a TensorBoard's spec was made from: the reverse of :meth:`tensorboard`.

        Raises:
            LocalmlError: ``WRONG_STATE`` for a spec that somebody wrote by hand.
        """
        role = spec.roles[0]
        if _LOGDIR not in role.env:
            words = "the TensorBoard was submitted as a spec, so its settings cannot change"
            raise LocalmlError(Code.WRONG_STATE, words)
        image, command = _own(role, TENSORBOARD_IMAGE, _TENSORBOARD_COMMAND)
        return Tensorboard(
            folder=expand(role.env[_LOGDIR], lambda _: ""),
            token=self._opened(owner, role, _TENSORBOARD_TOKEN),
            image=image,
            command=command,
            resources=role.resources,
            idle_limit=spec.idle_limit,
            time_limit=spec.time_limit,
            priority=spec.priority,
        )

    def access(self, full: Full) -> Access:
        """Token and address of a notebook or TensorBoard."""
        token = self.token(full)
        port = host_port(full)
        if port is None:
            return Access(token, self._host)
        base = f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"
        page = _PAGES.get(full.row.kind, "/")
        query = f"?token={quote(token, safe='')}" if token else ""
        return Access(token, self._host, port, base, f"{base}{page}{query}")

    def token(self, full: Full) -> str:
        """The token; empty when it has none."""
        return self._opened(full.row.owner_id, full.spec.roles[0], _TOKEN_NAMES.get(full.row.kind, ""))

    @staticmethod
    def kernels_tell(spec: WorkloadSpec) -> bool:
        """Whether a notebook's kernels may be asked what they use: in ours that does not count as use of them."""
        return _is_ours(spec.roles[0].image)

    def _opened(self, owner: int, role: Role, name: str) -> str:
        sealed = role.sealed_env.get(name)
        return self._sealer.open(owner, sealed) if sealed is not None else ""

    def _sealed(self, owner: int, token: str | None) -> str:
        if token is not None and not _TOKEN.fullmatch(token):
            raise invalid("token", "must be 1 to 256 printable ASCII characters without blanks")
        return self._sealer.seal(owner, new_token() if token is None else token)


def _is_ours(image: str) -> bool:
    return image.removesuffix(":latest") in NOTEBOOK_IMAGES


def _own(role: Role, usual: str, command: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Image and command of one's own; empty where they are the usual ones, the command also in any image of ours."""
    image = "" if role.image == usual else role.image
    ours = not image or _is_ours(image)
    return image, () if ours and role.command == command else role.command


_COMPUTED = frozenset({"LOCALML_WORK", "MEM_LIMIT", "CPU_LIMIT"})
"""Variables of a notebook that follow from the rest."""


def _shown_limits(resources: Resources) -> dict[str, str]:
    """What the resource display in JupyterLab takes for the limits."""
    limits = {"MEM_LIMIT": resources.memory, "CPU_LIMIT": resources.cpu}
    return {name: f"{amount:.15g}" for name, amount in limits.items() if amount}
