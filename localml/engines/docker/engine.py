"""The engine itself: the protocol's verbs over the daemon's API."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from docker import APIClient
from docker.errors import APIError, NotFound

from localml.core.failpoints import FAILPOINTS
from localml.core.work.specs import RegistryAuth
from localml.engines.base import (
    CONTAINERS,
    LABEL_INSTALL,
    EngineError,
    EngineUnreachable,
    ExecResult,
    ExecStream,
    ImageMissing,
    LogChunk,
    NodeInfo,
    Observed,
    Phase,
    PortTaken,
    Progress,
    ReplicaPlan,
    Stream,
    Usage,
)
from localml.engines.docker.containers import container_config, container_name, name_of, observed, phase_of
from localml.engines.docker.daemon import Daemon, engine_errors, explanation, out_of_order, readable
from localml.engines.docker.events import EventStream
from localml.engines.docker.exec import open_inside, run_inside
from localml.engines.docker.gpu import gpu_options, gpu_runtime
from localml.engines.docker.images import resolve_image
from localml.engines.docker.logs import LogStream
from localml.engines.docker.networks import MOST_IN_GANG, Networks
from localml.engines.docker.stats import usage

_ISOLATION = (
    "Containers have files, processes and networks of their own and cannot gain privileges; they share the kernel."
)
_EVENTS = ("start", "die", "oom", "pause", "unpause", "destroy")
_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0
_ADOPT_S, _ADOPT_STEP_S = 2.0, 0.02
_PORT_TAKEN = ("port is already allocated", "address already in use")


class _NetworkVanished(EngineError):
    """The network that a container was made for is not there any more."""


class DockerEngine:
    """Runs replicas as containers of a Docker daemon. All methods may be called from many threads.

    ``install`` marks everything that this engine makes; objects without this mark are never touched.
    ``bind_address`` is where the networks publish ports for which no address is given (a plan gives one).
    Without a ``client`` the one that ``DOCKER_HOST`` names is opened at first use, so that the engine can be made
    while the daemon is away.
    """

    name = "docker"
    capabilities = replace(CONTAINERS, gang=MOST_IN_GANG)

    def __init__(self, install: str, *, bind_address: str = "127.0.0.1", client: APIClient | None = None) -> None:
        self._install = install
        self._daemon = Daemon(client)
        self._networks = Networks(self._daemon, install, bind_address)
        # Ours, by name. A container never starts twice, so what was seen of one holds until its phase changes.
        self._seen: dict[str, Observed] = {}
        self._launching: set[str] = set()  # containers that some thread has made and starts now
        self._streams: WeakSet[LogStream] = WeakSet()

    def nodes(self) -> tuple[NodeInfo, ...]:
        """See :meth:`localml.engines.base.Engine.nodes`."""
        with engine_errors():
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

    def start(self, plan: ReplicaPlan) -> Observed:
        """See :meth:`localml.engines.base.Engine.start`."""
        with engine_errors():
            try:
                return self._start(plan)
            except _NetworkVanished:
                self._networks.look_again()
                return self._start(plan)

    def _start(self, plan: ReplicaPlan) -> Observed:
        info = self._daemon.info()
        config = container_config(
            plan,
            install=self._install,
            network=self._networks.ensure(plan.network),
            cores=int(info["NCPU"]),
            gpu=gpu_options(plan.gpus, gpu_runtime(info)),
        )
        try:
            created = self._daemon.create_container(config, container_name(plan.name))
        except APIError as error:
            if error.status_code == 409:
                return self._adopt(plan)
            if error.status_code == 404 and "image" in explanation(error).lower():
                raise ImageMissing(f"image {plan.image} is not on this machine") from error
            if out_of_order(error):
                raise
            raise _start_failure(plan, error) from error
        self._launching.add(created["Id"])
        try:
            FAILPOINTS.hit("after-create")
            return self._launch(plan, created["Id"])
        finally:
            self._launching.discard(created["Id"])

    def _adopt(self, plan: ReplicaPlan) -> Observed:
        """Take the container that has the plan's name already, if it is ours."""
        there = self._inspect(plan.name)
        end = time.monotonic() + _ADOPT_S
        while there.phase is Phase.GONE:  # the daemon reserves a name before the container is there to be seen
            if time.monotonic() > end:
                raise EngineError(f"container {plan.name} is just being removed")
            time.sleep(_ADOPT_STEP_S)
            there = self._inspect(plan.name)
        if there.labels.get(LABEL_INSTALL) != self._install:
            raise EngineError(f"a container named {plan.name} exists which this installation did not make")
        if there.phase is not Phase.CREATED:
            return there
        if there.handle["id"] not in self._launching:  # made for what the plan said then, its folders held then
            self._daemon.api.remove_container(there.handle["id"], v=True, force=True)
            return self._start(plan)
        return self._launch(plan, there.handle["id"])

    def _launch(self, plan: ReplicaPlan, container: str) -> Observed:
        try:
            self._daemon.api.start(container)
        except APIError as error:
            if out_of_order(error):
                raise
            with suppress(NotFound):
                self._daemon.api.remove_container(container, v=True, force=True)
            raise _start_failure(plan, error) from error
        FAILPOINTS.hit("after-start")
        return self._remember(self._daemon.api.inspect_container(container))

    def hidden_mounts(self) -> str:
        """See :meth:`localml.engines.base.Engine.hidden_mounts`."""
        with engine_errors():
            return self._daemon.hidden_mounts()

    def inspect(self, name: str) -> Observed:
        """See :meth:`localml.engines.base.Engine.inspect`."""
        with engine_errors():
            return self._inspect(name)

    def _inspect(self, name: str) -> Observed:
        try:
            return self._remember(self._daemon.api.inspect_container(container_name(name)))
        except NotFound:
            return Observed(name, Phase.GONE)

    def _remember(self, inspection: Mapping[str, Any]) -> Observed:
        seen = observed(inspection)
        if seen.labels.get(LABEL_INSTALL) == self._install:
            self._seen[seen.name] = seen
        return seen

    def _ours(self, name: str) -> bool:
        """Whether a container of that name is there and carries our mark."""
        return name in self._seen or self._inspect(name).labels.get(LABEL_INSTALL) == self._install

    def list(self) -> dict[str, Observed]:
        """See :meth:`localml.engines.base.Engine.list`."""
        with engine_errors():
            before = set(self._seen)
            rows = self._daemon.api.containers(all=True, filters={"label": f"{LABEL_INSTALL}={self._install}"})
            found = {seen.name: seen for row in rows if (seen := self._observe_row(row)) is not None}
        for gone in before - set(found):
            self._seen.pop(gone, None)
        return found

    def _observe_row(self, row: Mapping[str, Any]) -> Observed | None:
        """What is known of a listed container; it is inspected only if its phase is new to us."""
        seen = self._seen.get(name_of(row["Labels"], row["Names"][0]))
        if seen is not None and seen.handle["id"] == row["Id"] and seen.phase is phase_of(row["State"]):
            return seen
        try:
            return self._remember(self._daemon.api.inspect_container(row["Id"]))
        except NotFound:
            return None

    def stop(self, name: str, grace: float) -> None:
        """See :meth:`localml.engines.base.Engine.stop`. Returns when it has ended.

        The grace is rounded up to whole seconds.
        """
        with engine_errors(), suppress(NotFound):
            if self._ours(name):
                self._daemon.api.stop(container_name(name), timeout=math.ceil(grace))

    def remove(self, name: str) -> None:
        """See :meth:`localml.engines.base.Engine.remove`. Anonymous volumes go too."""
        FAILPOINTS.hit("before-remove")
        with engine_errors():
            try:
                if self._ours(name):
                    self._daemon.api.remove_container(container_name(name), v=True, force=True)
            except NotFound:
                pass
            except APIError as error:
                if error.status_code != 409:  # 409: its removal is already under way
                    raise
        self._seen.pop(name, None)

    def remove_network(self, network: str) -> None:
        """See :meth:`localml.engines.base.Engine.remove_network`."""
        with engine_errors():
            self._networks.remove(network)

    def networks(self) -> set[str]:
        """See :meth:`localml.engines.base.Engine.networks`."""
        with engine_errors():
            return self._networks.gangs()

    def logs(self, name: str, since: Mapping[Stream, int], *, follow: bool) -> Iterator[LogChunk]:
        """See :meth:`localml.engines.base.Engine.logs`.

        The iterator's ``close`` may be called from another thread. A line shows up when its newline was written,
        or after 16 KiB of it: so the daemon hands output on.
        """
        seen = self._seen.get(name)
        ended_at = seen.finished_at if seen is not None and seen.phase is Phase.EXITED else None
        stream = LogStream(self._daemon, container_name(name), since, follow=follow, ended_at=ended_at)
        self._streams.add(stream)
        return stream

    def stats(self, name: str) -> Usage | None:
        """See :meth:`localml.engines.base.Engine.stats`."""
        with engine_errors():
            try:
                return usage(self._daemon.api.stats(container_name(name), stream=False, one_shot=True))
            except NotFound:
                return None

    def exec(self, name: str, command: tuple[str, ...], *, timeout: float = 60.0) -> ExecResult:
        """See :meth:`localml.engines.base.Engine.exec`. A command that outlasts ``timeout`` raises EngineError."""
        with engine_errors():
            return run_inside(self._daemon, container_name(name), command, timeout)

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
            return open_inside(self._daemon, container_name(name), command, tty, env or {})

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
                    yield from events
            except (EngineUnreachable, EngineError):
                delay = min(delay * 2, _LONGEST_BACKOFF)
            lost = True
            stop.wait(delay)

    def close(self) -> None:
        """See :meth:`localml.engines.base.Engine.close`."""
        for stream in list(self._streams):
            stream.close()
        self._daemon.close()


def _start_failure(plan: ReplicaPlan, error: APIError) -> Exception:
    """Why the daemon could not start a container that it had created."""
    said = readable(explanation(error))
    if error.status_code == 404 and "network" in said.lower():
        return _NetworkVanished(said)
    if any(words in said for words in _PORT_TAKEN):
        return PortTaken(f"{plan.name}: {said}")
    return EngineError(f"{plan.name} did not start: {said}")
