"""What a container engine must give: one small protocol, idempotent verbs, opaque handles.

Three engines implement it (``docker``, ``process``, ``fake``) and one conformance suite
(``tests/engines/conformance.py``) runs over all three.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from localml.core.work.specs import RegistryAuth

Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, ...] = ("stdout", "stderr")

LABEL_INSTALL = "localml.install"
"""Every object that localml makes carries its installation's id under this label; others are never touched."""
LABEL_WORKLOAD = "localml.workload"


class EngineError(Exception):
    """The engine answered, and refused. The message is the engine's own, made readable."""


class ImageMissing(EngineError):
    """The image is not here and cannot be pulled; the message names it."""


class PortTaken(EngineError):
    """A host port that was free a moment ago is in use; another one may do."""


class EngineUnreachable(Exception):
    """The engine did not answer, or failed in a way that is no statement about any container: nothing may be concluded
    from it, and whether it did what it was told is not known."""


class Phase(StrEnum):
    """What the engine says of one container."""

    CREATED = "created"
    PENDING = "pending"  # taken, and begun when the engine has room for it; until then it waits
    RUNNING = "running"
    EXITED = "exited"
    GONE = "gone"  # the engine answered, and has no such container


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine does for its replicas; what it does not, they have in common with the machine that they run on.

    Attributes:
        images: it runs container images: a name stands for a digest that can be pinned, and an unknown one is missing.
            Otherwise an image is no more than a choice among what is installed.
        mounts: binds appear at their targets. Otherwise replicas see files at the paths of this machine.
        own_network: a replica has a loopback of its own. Otherwise it has that of its machine, so that it should
            listen on no more than the address that the server gives it.
        ports_mapped: a replica may listen on any port and is reached on another one of its machine. Otherwise its
            ports are those of the machine: two replicas never have the same one, and the engine does not tell which
            are taken.
        names_resolve: the members of a gang find each other by ``hostname``. Otherwise by their machine's address.
        gangs_spread: members on different nodes find each other, too.
        accounts: replicas of users who are not trusted are to be given an account of this machine, and are kept apart
            only so. Otherwise all are kept apart, unless ``exposes`` says something else.
        gang: how many members of a workload find each other at most; 0 for any number.
        exposes: why what one user's replica runs can reach what belongs to others; empty where it cannot.
    """

    images: bool = False
    mounts: bool = False
    own_network: bool = False
    ports_mapped: bool = False
    names_resolve: bool = False
    gangs_spread: bool = False
    accounts: bool = False
    gang: int = 0
    exposes: str = ""

    @property
    def addresses_known(self) -> bool:
        """Whether where a gang's members listen can be told before they are placed: names and ports of their own."""
        return self.names_resolve and self.ports_mapped


CONTAINERS = Capabilities(images=True, mounts=True, own_network=True, ports_mapped=True, names_resolve=True)
"""What an engine of containers on one machine does."""


@dataclass(frozen=True, slots=True)
class GpuGrant:
    """One leased GPU. ``uuid`` as NVML gives it (``GPU-...`` or ``MIG-...``)."""

    uuid: str
    index: int
    fraction: float = 1.0
    simulated: bool = False
    device_nodes: tuple[str, ...] = ()  # for engines without the NVIDIA runtime


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder of this machine seen inside the container. Below ``base`` others may have put links in the way since it
    was found; empty where only localml can."""

    source: str
    target: str
    read_only: bool = False
    base: str = ""


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """``container`` port reachable as ``host`` port on the bind address."""

    label: str
    container: int
    host: int


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a replica runs as on its machine, for engines without containers; such numbers need no name there."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Everything an engine needs to start one container; made by the control loop from spec and placement.

    ``command`` replaces both entry point and arguments of the image, with ``keep_entrypoint`` its arguments alone; when
    empty, the image's own are used.
    ``network`` names the private network of a gang (its members resolve each other by ``hostname``); None puts
    the container on the shared bridge, where single replicas cannot reach each other. ``user`` is ``uid:gid`` or
    None for the image's own, who is in these ``groups``, too. ``account`` is for engines that have
    :attr:`Capabilities.accounts`: such a replica sees of the machine's private folders only ``binds`` and ``buckets``,
    at the paths that they have there, and its own.
    ``env`` is complete: engines add nothing but the GPU variables, and who an account is. ``buckets`` are all that the
    replica sees of them: an engine that mounts binds has no others in their common folder. ``node`` is the name of the
    machine that it is placed on; an engine of one machine runs everything there. ``rotate`` says that it
    writes for as long as it is wanted, so an engine need keep no more than the last part of its output.
    """

    name: str
    image: str
    command: tuple[str, ...] = ()
    keep_entrypoint: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    cpu: float | None = None
    memory: int | None = None
    shm: int | None = None
    pids: int | None = None
    gpus: tuple[GpuGrant, ...] = ()
    binds: tuple[Bind, ...] = ()
    buckets: tuple[Bind, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    bind_address: str = "127.0.0.1"
    hostname: str = ""
    network: str | None = None
    user: str | None = None
    account: Account | None = None
    groups: tuple[int, ...] = ()
    node: str = ""
    rotate: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """What the engine knows of one container.

    ``exit_code`` is None while it runs, and also when a signal ended it and the engine knows which
    (``signal``). ``handle`` is the engine's own note, stored with the attempt and given back unread. ``reason`` says
    why it is pending. ``started_at`` is when the program began; one that was stopped while it was pending never did.
    ``interrupted`` says why the engine itself ended it, which says nothing of the program: it or its machine was
    restarted, say; empty for any other end, such as one that it was asked for.
    """

    name: str
    phase: Phase
    exit_code: int | None = None
    signal: int | None = None
    oom_killed: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    address: str | None = None
    error: str = ""
    reason: str = ""
    interrupted: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    handle: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Bytes that a container wrote to one stream, in order; none when the engine only says that it goes on reading.

    ``at`` is when, as exactly as the engine knows. ``place`` is the engine's own note of how far this is, for ``logs``
    to go on from when the log's beginning may be gone by then. ``gap`` says why output is missing before this.
    """

    stream: Stream
    data: bytes
    at: float
    place: str = ""
    gap: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """A container's use so far. CPU in seconds, sizes in bytes; None where the engine cannot tell."""

    at: float
    cpu_seconds: float
    memory: int
    cpu_user_seconds: float | None = None
    cpu_system_seconds: float | None = None
    network_rx: int | None = None
    network_tx: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command run inside a container gave."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A machine behind the engine. ``cpu`` in cores, ``memory`` in bytes."""

    name: str
    cpu: float
    memory: int
    engine: str
    version: str
    isolation: str  # one sentence: what the engine separates, and what it does not


Progress = Callable[[str], None]


class ExecStream(Protocol):
    """A command inside a container, attached to its input and output.

    Each method may be called from a thread of its own, but none from two at a time.
    """

    def read(self) -> tuple[Stream, bytes] | None:
        """Wait for output and return some of it; None when no more will come. A terminal has only ``stdout``."""
        ...

    def write(self, data: bytes) -> None:
        """Give all of it to the command's input, waiting as long as it takes; dropped if nobody reads any more."""
        ...

    def close_stdin(self) -> None:
        """The end of the command's input; at a terminal Ctrl-D."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal, in characters; nothing without one."""
        ...

    def signal(self, number: int) -> None:
        """Send a signal to the command and what it started; nothing when it has ended."""
        ...

    def wait(self) -> int:
        """Wait for the end; its exit code, 128 + number if a signal ended it. To be called when all was read."""
        ...

    def close(self) -> None:
        """Let go: SIGHUP if it still runs, as when a terminal is closed. Wakes who waits; may be repeated."""
        ...


class Engine(Protocol):
    """The verbs. All are safe to repeat: after a crash the control loop simply says them again.

    Any verb may raise :class:`EngineUnreachable`. Names are deterministic, so a ``start`` repeated after a crash
    finds its own container instead of making a second one.
    """

    name: str
    capabilities: Capabilities
    """What it does for its replicas, the same for all of them."""

    @property
    def identity(self) -> str:
        """``name``, and which one of that name it is, as far as that is known (:mod:`localml.core.work.engines`)."""
        ...

    def nodes(self) -> tuple[NodeInfo, ...]:
        """The machines on which replicas run, at least one; size and version of each."""
        ...

    def resolve_image(
        self,
        image: str,
        progress: Progress | None = None,
        *,
        pull: bool = True,
        auth: RegistryAuth | None = None,
    ) -> str:
        """Make sure that the image is here and return its digest id (text that ``start`` takes as ``image``).

        ``auth`` is for the registry, should the image be pulled; it is not kept.

        Raises:
            ImageMissing: it is not here and cannot be pulled.
        """
        ...

    def image_user(self, image: str) -> str:
        """Whom an image that is here runs its programs as, by name or number; empty for root, and without images."""
        ...

    def start(self, plan: ReplicaPlan) -> Observed:
        """Create and start the container, or find the one that this plan made before; never a second one.

        A container of that name which has already ended is not started again: its end is the answer. One that the
        engine cannot begin now is pending, and begins later without being told again.

        Raises:
            ImageMissing, PortTaken, EngineError: nothing is left behind that is not found by name.
        """
        ...

    def hidden_mounts(self) -> str | None:
        """Why it would not see what this process mounts somewhere, to mount it for a replica from there; empty when it
        does, None when it mounts nothing."""
        ...

    def inspect(self, name: str) -> Observed:
        """The container that was started under that name, whatever it is called now; phase ``gone`` if the engine has
        none, which it says only when it has looked for it in every way that it has."""
        ...

    def list(self) -> dict[str, Observed]:
        """All containers of this installation by name, ended ones included, others' never."""
        ...

    def stop(self, name: str, grace: float) -> None:
        """SIGTERM to the container, SIGKILL after ``grace`` seconds. Returns at once or when it has ended; stopping
        what has ended or is gone succeeds. One that is pending ends without having begun."""
        ...

    def remove(self, name: str) -> None:
        """Remove the container and all that belongs to it alone; removing what is gone succeeds. Returns when it is
        gone, also where somebody else is removing it.

        Raises:
            EngineError: it does not go.
        """
        ...

    def remove_network(self, network: str) -> None:
        """Remove a gang's network; succeeds if there is none. A network in use raises :class:`EngineError`."""
        ...

    def networks(self) -> set[str]:
        """Names of the gang networks of this installation."""
        ...

    def logs(self, name: str, since: Mapping[Stream, int], *, follow: bool, place: str = "") -> Iterator[LogChunk]:
        """Output after ``since`` bytes of each stream, exactly the bytes written. ``place`` is the last one that an
        earlier reading gave, if it gave any.

        With ``follow`` the iterator ends when the container has ended and all its output was given; a container
        that is gone gives nothing. Closing the iterator ends the following.
        """
        ...

    def carried(self, name: str, upto: Mapping[Stream, int]) -> None:
        """The first so many bytes of these streams are safely on disk at the caller's, who asks for them no more.

        An engine that keeps output for nobody else may give their room back; later offsets stay what they are. Of what
        is gone, and where nothing can be given back, nothing is done.
        """
        ...

    def stats(self, name: str) -> Usage | None:
        """Use of a running container; None if it does not run."""
        ...

    def exec(self, name: str, command: tuple[str, ...], *, timeout: float = 60.0) -> ExecResult:
        """Run a command inside a running container and wait for it.

        Raises:
            EngineError: it does not run.
        """
        ...

    def open(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        tty: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ExecStream:
        """Run a command inside a running container, attached to it.

        Args:
            tty: columns and rows of the terminal that it gets; None for plain pipes.
            env: additions to the container's environment.

        Raises:
            EngineError: the container does not run.
        """
        ...

    def watch(self, stop: threading.Event) -> Iterator[str]:
        """Names of containers of this installation that changed, as a hint to look; ends when ``stop`` is set."""
        ...

    def close(self) -> None:
        """Release connections and threads. Containers go on."""
        ...
