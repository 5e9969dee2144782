"""Starting a container, so that it happens once whatever the daemon answers.

An answer that says no is compared with the container: it may have begun all the same, or the daemon may not even have
tried, which it notes in the container's state. Only what it has tried and could not do is a verdict at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from docker.errors import APIError

from localml.core.failpoints import FAILPOINTS
from localml.engines.base import EngineError, ImageMissing, Observed, PortTaken, ReplicaPlan
from localml.engines.docker.containers import BEING_REMOVED, container_config, container_name, timestamp
from localml.engines.docker.daemon import Daemon, Unclear, explanation, out_of_order, readable
from localml.engines.docker.gpu import gpu_options, gpu_runtime
from localml.engines.docker.live import Lives
from localml.engines.docker.lookup import Lookup
from localml.engines.docker.networks import Networks

_TRIES, _PAUSE_S = 5, 0.2  # two seconds in all, in which a name that is being removed is free again
_PORT_TAKEN = ("port is already allocated", "address already in use")


class Starter:
    """Starts the containers of one installation. Safe to use from many threads."""

    def __init__(self, daemon: Daemon, lookup: Lookup, networks: Networks, lives: Lives, install: str) -> None:
        self._daemon = daemon
        self._lookup = lookup
        self._networks = networks
        self._lives = lives
        self._install = install
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def start(self, plan: ReplicaPlan) -> Observed:
        """See :meth:`localml.engines.base.Engine.start`. Starts of one plan at once come one after the other."""
        with self._guard:
            lock = self._locks.setdefault(plan.name, threading.Lock())
        with lock:
            for turn in range(1, _TRIES):
                try:
                    return self._start(plan)
                except Unclear:
                    self._networks.look_again()
                    time.sleep(_PAUSE_S * turn)
            return self._start(plan)

    def _start(self, plan: ReplicaPlan) -> Observed:
        if self._lookup.seen(plan.name) is not None and (there := self._adopt(plan)) is not None:
            return there  # also under another name, where that of the plan is free
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
            return self._not_created(plan, error)
        FAILPOINTS.hit("after-create")
        return self._launch(plan, created["Id"])

    def _not_created(self, plan: ReplicaPlan, error: APIError) -> Observed:
        """The container that has the plan's name already, or why there is none."""
        if error.status_code == 409:
            if (there := self._adopt(plan)) is not None:
                return there
            if self._lookup.foreign(plan.name):
                raise EngineError(f"a container named {plan.name} exists which this installation did not make")
            raise Unclear(f"container {plan.name} is just being removed") from error
        if error.status_code == 404 and "image" in explanation(error).lower():
            raise ImageMissing(f"image {plan.image} is not on this machine") from error
        if out_of_order(error):
            raise error
        raise _failure(plan, error, unclear=error.is_server_error()) from error

    def _adopt(self, plan: ReplicaPlan) -> Observed | None:
        """The container that was made for the plan before, if it has begun; what has not is removed.

        It was made for what the plan said then, its folders held then. One whose start is still under way, by an
        earlier server's request, begins before the daemon looks at its removal, and refuses that.
        """
        found = self._lookup.find(plan.name)
        status = found["State"]["Status"] if found is not None else ""
        if found is None or status in BEING_REMOVED:
            return None
        if status != "created":
            return self._lookup.remember(found)
        self._clear(found["Id"])
        return None

    def _launch(self, plan: ReplicaPlan, container: str) -> Observed:
        if not plan.rotate:
            self._lives.open(container)
        try:
            self._daemon.api.start(container)
        except APIError as error:
            found = self._lookup.find(plan.name)
            state: Mapping[str, Any] = found["State"] if found is not None else {}
            if found is not None and timestamp(state.get("StartedAt", "")) is not None:
                return self._lookup.remember(found)
            if out_of_order(error):
                raise
            self._clear(container)
            untried = (error.is_server_error() or error.status_code == 404) and not state.get("Error")
            raise _failure(plan, error, unclear=untried) from error
        FAILPOINTS.hit("after-start")
        return self._lookup.look(plan.name)

    def _clear(self, container: str) -> None:
        """Remove a container that has not begun. One that stays is removed with its attempt, or by the next try."""
        with suppress(APIError):
            self._daemon.api.remove_container(container, v=True)


def _failure(plan: ReplicaPlan, error: APIError, *, unclear: bool) -> EngineError:
    """Why the daemon could not make or start a container."""
    said = readable(explanation(error))
    vanished = error.status_code == 404 and "network" in said.lower()  # somebody removed it; it is made again
    if unclear or vanished:
        return Unclear(f"{plan.name} did not start: {said}")
    if any(words in said for words in _PORT_TAKEN):
        return PortTaken(f"{plan.name}: {said}")
    return EngineError(f"{plan.name} did not start: {said}")
