"""Endpoints over the fake engine: probes and the gateway answer what the test says, everything happens tick by tick."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from helpers.models import times
from helpers.rig import ME, Rig
from localml.control.serving.controller import ServingController, Surroundings
from localml.control.serving.probes import Answer, Page
from localml.control.serving.replicas import ServingSite
from localml.control.serving.routes import Keys
from localml.core.registry.registry import NewVersion, Registry
from localml.core.serving.endpoints import Endpoints, NewEndpoint
from localml.core.serving.gateway_stats import EndpointStats, GatewayStats, ReplicaStats, VariantStats, write_stats
from localml.core.serving.records import EndpointFull
from localml.core.serving.routes_table import RouteTable, read_routes
from localml.core.serving.specs import EndpointSpec
from localml.core.serving.variants import NewVariant
from localml.engines.base import CONTAINERS
from localml.objects import Buckets

PROMPT = EndpointSpec(public=True, bake=0.0, drain=0.0)
"""Settings under which nothing waits for time."""


class FakeProber:
    """Every replica is ready, but those whose workload's name has a word in ``trouble``."""

    def __init__(self) -> None:
        self.pages: Mapping[Hashable, Page] = {}
        self.trouble: dict[int, str] = {}  # replica -> why it is not ready
        self.all_ready = True

    def watch(self, pages: Mapping[Hashable, Page]) -> None:
        self.pages = dict(pages)

    def answer(self, key: Any) -> Answer | None:
        if key not in self.pages:
            return None
        why = self.trouble.get(key[0], "" if self.all_ready else "is loading")
        return Answer(not why, why)

    def close(self) -> None:
        pass


class FakeGateway:
    """A gateway that lives, and says what the test writes."""

    running = True
    listening = True
    trouble = ""
    url = "http://127.0.0.1:1"

    def ensure(self) -> None:
        pass

    def close(self) -> None:
        pass


class ServingRig(Rig):
    """An installation with a registry and endpoints. ``gateway`` True: there is one, which :meth:`say` speaks for."""

    def __init__(self, data: Path, *, gateway: bool = False, **machine: Any) -> None:
        super().__init__(data, **machine)
        self.buckets = Buckets(data / "buckets")
        self.registry = Registry(self.db, self.clock, data, lambda _, uri, folder: self.buckets.get(uri, folder))
        self.prober = FakeProber()
        self.reason = "there is no room"  # why whatever does not run waits
        self._gateway = FakeGateway() if gateway else None
        self.controller = self._controller()
        self.endpoints = Endpoints(self.db, self.clock)
        self.versions = 0

    def _controller(self) -> ServingController:
        around = Surroundings(
            data=self.data,
            site=ServingSite(
                CONTAINERS, "127.0.0.1", False, lambda path: self.data / path, lambda: self.data / "server"
            ),
            keys=Keys(lambda row: ("a" * 64,), lambda: ("b" * 64,), tuple, lambda attempt: f"token-{attempt}"),
            why=lambda number: self.reason,
            owner=lambda row: ME,
        )
        gateway: Any = self._gateway
        prober: Any = self.prober
        return ServingController(self.db, self.workloads, self.logs, self.clock, around, gateway=gateway, prober=prober)

    def restart(self) -> None:
        super().restart()
        self.controller = self._controller()

    def register(self, name: str = "net") -> int:
        """A new version; its id."""
        self.versions += 1
        with self.buckets.open("s3://b/model.onnx", "wb") as file:
            file.write(times(float(self.versions)))
        return self.registry.register(NewVersion(name, "s3://b/model.onnx", ME)).version.id or 0

    def create(self, name: str = "net", spec: EndpointSpec = PROMPT, **variant: Any) -> int:
        """Serve a new version; the endpoint's id."""
        new = NewVariant(model_version_id=self.register(), **variant)
        return self.endpoints.create(NewEndpoint(name, (new,), ME, spec)).row.id or 0

    def rollout(self, number: int, **variant: Any) -> None:
        """Roll a new version out."""
        self.endpoints.rollout(number, ME, NewVariant(model_version_id=self.register(), **variant))

    def run(self, rounds: int = 5) -> None:
        """Let both loops work until nothing changes any more at this moment of the clock."""
        for _ in range(rounds):
            self.settle(2)
            self.controller.tick()

    def endpoint(self, number: int) -> EndpointFull:
        return self.endpoints.get(number)

    def at(self, number: int) -> str:
        """Its state."""
        return str(self.endpoint(number).row.state)

    def shape(self, number: int) -> dict[str, tuple[str, int]]:
        """Variant -> (state, replicas that are ready), those that have not ended."""
        return {
            one.row.name: (str(one.row.state), sum(str(each.row.state) == "ready" for each in one.replicas))
            for one in self.endpoint(number).variants
            if one.row.ended_at is None
        }

    def told(self, number: int) -> list[str]:
        """Reasons of its events."""
        return [one.reason for one in self.endpoints.events(number)]

    def table(self) -> RouteTable:
        found = read_routes(self.data)
        assert found is not None
        return found

    def shares(self, name: str = "net") -> dict[str, tuple[int, list[str]]]:
        """Variant -> (percent, states of its replicas) as the gateway is told."""
        (route,) = [one for one in self.table().endpoints if one.name == name]
        return {one.name: (one.weight // 1000, [str(each.state) for each in one.replicas]) for one in route.variants}

    def say(
        self, generation: int | None = None, *, name: str = "net", inflight: int = 0, only: str = "", **variant: Any
    ) -> None:
        """Write the gateway's statistics: all replicas of the table, each with ``inflight`` requests.

        Args:
            only: the variant that did what ``variant`` says; all when empty.
        """
        table = self.table()
        routes = [one for one in table.endpoints if one.name == name]
        endpoints = []
        for route in routes:
            replicas = tuple(
                ReplicaStats(id=each.id, variant=one.name, url=each.url, state="ready", inflight=inflight, healthy=True)
                for one in route.variants
                for each in one.replicas
            )
            nothing = {
                "requests": 0,
                "inflight": inflight,
                "statuses": {},
                "errors": {},
                "retries": 0,
                "latency_counts": (0,) * 16,
                "latency_sum": 0.0,
            }
            endpoints.append(
                EndpointStats(
                    name=name,
                    inflight=inflight,
                    queued=0,
                    refused={},
                    last_request_at=None,
                    variants=tuple(
                        VariantStats(name=one.name, **(nothing | (variant if only in ("", one.name) else {})))
                        for one in route.variants
                    ),
                    replicas=replicas,
                )
            )
        write_stats(
            self.data,
            GatewayStats(
                pid=1,
                started_at=0.0,
                written_at=time.time(),
                generation=table.generation if generation is None else generation,
                table_error=None,
                connections=0,
                unrouted=0,
                endpoints=tuple(endpoints),
            ),
        )
