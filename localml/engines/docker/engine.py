"""The engine itself: the protocol's verbs over the daemon's API."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from weakref import WeakSet

from docker import APIClient
from docker.errors import APIError, NotFound

from localml.core.failpoints import FAILPOINTS
from localml.core.work.specs import RegistryAuth
from localml.engines.base import (
    CONTAINERS,
    EngineError,
    EngineUnreachable,
    ExecResult,
    ExecStream,
    LogChunk,
    NodeInfo,
    Observed,
    Phase,
    Progress,
    ReplicaPlan,
    Stream,
    Usage,
)
from localml.engines.docker.containers import BEING_REMOVED, LABEL_ROTATE
from localml.engines.docker.daemon import Daemon, engine_errors, explanation, readable
from localml.engines.docker.events import EventStream
from localml.engines.docker.exec import open_inside, run_inside
from localml.engines.docker.images import image_user, resolve_image
from localml.engines.docker.live import Lives
from localml.engines.docker.logs import LogStream
from localml.engines.docker.lookup import Lookup
from localml.engines.docker.networks import MOST_IN_GANG, Networks
from localml.engines.docker.outages import Outages
from localml.engines.docker.rotated import RotatedStream
from localml.engines.docker.starting import Starter
from localml.engines.docker.stats import usage

_ISOLATION = (
    "Containers have files, processes and networks of their own and cannot gain privileges; they share the kernel."
)
_EVENTS = ("start", "die", "oom", "pause", "unpause", "destroy")
_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0
_STOPS = 3
_GONE_S = 5.0  # how long a removal that is under way is waited for; then the caller says it again
_STEP_S = 0.05


class DockerEngine:
    """Runs replicas as containers of a Docker daemon. All methods may be called from many threads.

    ``install`` marks everything that this engine makes; objects without this mark are never touched.
    ``bind_address`` is where the networks publish ports for which no address is given (a plan gives one).
    Without a ``client`` the one that ``DOCKER_HOST`` names is opened at first use, so that the engine can be made
    while the daemon is away. ``identity`` is that of the daemon whose containers it looks after, if that is known:
    another one counts as no answer.
    """

    name = "docker"
    capabilities = replace(CONTAINERS, gang=MOST_IN_GANG)

    def __init__(
        self,
        install: str,
        *,
        bind_address: str = "127.0.0.1",
        client: APIClient | None = None,
        identity: str = "docker",
    ) -> None:
        self._install = install
        self._daemon = Daemon(client, identity)
        self._networks = Networks(self._daemon, install, bind_address)
        self._outages = Outages(self._daemon)
        self._lookup = Lookup(self._daemon, install, self._outages)
        self._lives = Lives(self._daemon)
        self._starter = Starter(self._daemon, self._lookup, self._networks, self._lives, install)
        self._streams: WeakSet[LogStream] = WeakSet()

    @property
    def identity(self) -> str:
        """See :attr:`localml.engines.base.Engine.identity`. Known once the daemon has answered."""
        return self._daemon.identity

    def meet(self) -> str:
        """Ask the daemon who it is; the identity.

        Raises:
            EngineUnreachable: it does not answer, or is another one than is looked after.
        """
        with engine_errors(asking=True):
            self._daemon.need_same()
        return self._daemon.identity

    def nodes(self) -> tuple[NodeInfo, ...]:
        """See :meth:`localml.engines.base.Engine.nodes`."""
        with engine_errors(asking=True):
            info = self._daemon.info(fresh=True)
            self._networks.look_again()
        node = NodeInfo(
            name=info["Name"],
            cpu=float(info["NCPU"]),
            memory=int(info["MemTotal"]),
            engine=self.name,
            version=info["ServerVersion"],
            isolation=_ISOLATION,
        )
        return (node,)

    def resolve_image(
        self,
        image: str,
        progress: Progress | None = None,
        *,
        pull: bool = True,
        auth: RegistryAuth | None = None,
    ) -> str:
        """See :meth:`localml.engines.base.Engine.resolve_image`."""
        with engine_errors():
            return resolve_image(self._daemon, image, progress, pull=pull, auth=auth)

    def image_user(self, image: str) -> str:
        """See :meth:`localml.engines.base.Engine.image_user`."""
        with engine_errors(asking=True):
            return image_user(self._daemon, image)

    def start(self, plan: ReplicaPlan) -> Observed:
        """See :meth:`localml.engines.base.Engine.start`."""
        with engine_errors():
            self._daemon.need_same()
            return self._starter.start(plan)

    def hidden_mounts(self) -> str:
        """See :meth:`localml.engines.base.Engine.hidden_mounts`."""
        with engine_errors(asking=True):
            return self._daemon.hidden_mounts()

    def inspect(self, name: str) -> Observed:
        """See :meth:`localml.engines.base.Engine.inspect`."""
        with self._outages.asking(), engine_errors(asking=True):
            self._daemon.need_same()
            return self._lookup.look(name)

    def list(self) -> dict[str, Observed]:
        """See :meth:`localml.engines.base.Engine.list`."""
        with self._outages.asking(), engine_errors(asking=True):
            self._daemon.need_same()
            return self._lookup.all()

    def stop(self, name: str, grace: float) -> None:
        """See :meth:`localml.engines.base.Engine.stop`. Returns when it has ended.

        The grace is rounded up to whole seconds.
        """
        with engine_errors():
            for turn in range(1, _STOPS + 1):
                container = self._lookup.identify(name)
                if container is None:
                    return
                try:
                    self._daemon.api.stop(container, timeout=math.ceil(grace))
                    return
                except APIError as error:
                    if self._lookup.look(name).phase in (Phase.EXITED, Phase.GONE):
                        return
                    if turn == _STOPS or not (error.is_server_error() or error.status_code == 404):
                        raise
                time.sleep(_STEP_S * turn)

    def remove(self, name: str) -> None:
        """See :meth:`localml.engines.base.Engine.remove`. Anonymous volumes go too.

        Raises:
            EngineError: its removal is under way, and does not come to its end.
        """
        FAILPOINTS.hit("before-remove")
        end = time.monotonic() + _GONE_S
        with engine_errors():
            self._daemon.need_same()
            container = self._lookup.identify(name)
            while container is not None and (under_way := self._remove(name, container)):
                if time.monotonic() > end:
                    raise EngineError(f"container {name} is still there: {under_way}")
                time.sleep(_STEP_S)
                there = self._lookup.look(name)
                container = None if there.phase is Phase.GONE else str(there.handle["id"])
        self._lookup.forget(name, container)

    def _remove(self, name: str, container: str) -> str:
        """Remove one container. Why it has to be looked at again; empty when the daemon says that it is gone."""
        try:
            self._daemon.api.remove_container(container, v=True, force=True)
        except APIError as error:
            said = readable(explanation(error))
            if error.status_code in (404, 409):  # gone, or so it says; its removal is already under way
                return said
            found = self._lookup.find(name)
            if found is not None and found["State"]["Status"] not in BEING_REMOVED:
                raise
            return said
        return ""

    def remove_network(self, network: str) -> None:
        """See :meth:`localml.engines.base.Engine.remove_network`."""
        with engine_errors():
            self._networks.remove(network)

    def networks(self) -> set[str]:
        """See :meth:`localml.engines.base.Engine.networks`."""
        with engine_errors(asking=True):
            return self._networks.gangs()

    def logs(self, name: str, since: Mapping[Stream, int], *, follow: bool, place: str = "") -> Iterator[LogChunk]:
        """See :meth:`localml.engines.base.Engine.logs`.

        The iterator's ``close`` may be called from another thread. The daemon hands output on line by line, or after
        16 KiB; what is shorter shows up within a second if this engine started the container, with its line otherwise.
        """
        with engine_errors(asking=True):
            container = self._lookup.identify(name)
            seen = self._lookup.seen(name) or self._lookup.look(name)
        if container is None:
            return iter(())
        ended_at = seen.finished_at if seen.phase is Phase.EXITED else None
        stream: LogStream
        if LABEL_ROTATE in seen.labels:
            stream = RotatedStream(self._daemon, container, since, place, follow=follow, ended_at=ended_at)
        else:
            live = self._lives.get(container)
            stream = LogStream(self._daemon, container, since, follow=follow, ended_at=ended_at, live=live)
        self._streams.add(stream)
        return stream

    def carried(self, name: str, upto: Mapping[Stream, int]) -> None:
        """Nothing: the daemon keeps its copy until the container is removed."""

    def stats(self, name: str) -> Usage | None:
        """See :meth:`localml.engines.base.Engine.stats`."""
        with engine_errors(asking=True):
            container = self._lookup.identify(name)
            if container is None:
                return None
            try:
                return usage(self._daemon.api.stats(container, stream=False, one_shot=True))
            except NotFound:
                return None

    def exec(self, name: str, command: tuple[str, ...], *, timeout: float = 60.0) -> ExecResult:
        """See :meth:`localml.engines.base.Engine.exec`. A command that outlasts ``timeout`` raises EngineError."""
        with engine_errors():
            return run_inside(self._daemon, self._there(name), command, timeout)

    def open(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        tty: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ExecStream:
        """See :meth:`localml.engines.base.Engine.open`."""
        with engine_errors():
            return open_inside(self._daemon, self._there(name), command, tty, env or {})

    def _there(self, name: str) -> str:
        """The id of our container of that name."""
        container = self._lookup.identify(name)
        if container is None:
            raise EngineError(f"container {name} does not run")
        return container

    def watch(self, stop: threading.Event) -> Iterator[str]:
        """See :meth:`localml.engines.base.Engine.watch`.

        While the daemon is away the connection is tried again, ever more slowly. Events were lost then, so that
        after it every container is named once.
        """
        delay, lost = _SHORTEST_BACKOFF, False
        while not stop.is_set():
            try:
                with closing(EventStream(self._daemon, self._install, _EVENTS, stop)) as events:
                    delay = _SHORTEST_BACKOFF
                    if lost:
                        yield from self.list()
                    try:
                        yield from events
                    finally:
                        self._outages.left()
            except (EngineUnreachable, EngineError):
                delay = min(delay * 2, _LONGEST_BACKOFF)
            lost = True
            self._daemon.doubt()
            stop.wait(delay)

    def close(self) -> None:
        """See :meth:`localml.engines.base.Engine.close`."""
        for stream in list(self._streams):
            stream.close()
        self._lives.close()
        self._daemon.close()
