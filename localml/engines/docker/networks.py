"""Networks of our own: one shared bridge for single replicas, a private one for each gang.

Subnets are chosen here, because Docker's default address pools end at about 30 networks.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from localml.engines.base import LABEL_INSTALL, EngineError
from localml.engines.docker.daemon import Daemon, Unclear, explanation, out_of_order, readable

log = logging.getLogger("localml.docker")

LABEL_NETWORK = "localml.network"
GANG, SHARED = "gang", "shared"
DEFAULT_BRIDGE = "bridge"
_ICC = "com.docker.network.bridge.enable_icc"

POOLS = tuple(IPv4Network(pool) for pool in ("10.212.0.0/14", "192.168.128.0/17", "172.24.0.0/14", "198.18.0.0/15"))
"""Where subnets are taken from, in this order; several, because a VPN may claim all of ``10.0.0.0/8``."""

GANG_PREFIX = 24
MOST_IN_GANG = 253
"""Addresses of a gang's network, less those of the network itself, of its gateway and of all in it."""
SHARED_PREFIX = 20  # more than the 1023 ports that a Linux bridge has
_TRIES = 64


def host_routes(table: Path = Path("/proc/net/route")) -> list[IPv4Network]:
    """Destinations that this machine routes, without the default route; empty where the table cannot be read."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []
    routes = []
    for columns in (line.split() for line in lines):
        address, mask = (socket.inet_ntoa(bytes.fromhex(columns[at])[::-1]) for at in (1, 7))
        if mask != "0.0.0.0":
            routes.append(IPv4Network(f"{address}/{mask}", strict=False))
    return routes


def free_subnets(
    prefix: int, taken: Iterable[IPv4Network], pools: Iterable[IPv4Network] = POOLS
) -> Iterator[IPv4Network]:
    """Subnets of that prefix length, in order, which overlap nothing that is taken."""
    used = list(taken)
    for pool in pools:
        near = [network for network in used if network.overlaps(pool)]
        if any(pool.subnet_of(network) for network in near):
            continue
        for subnet in pool.subnets(new_prefix=prefix):
            if not any(subnet.overlaps(network) for network in near):
                yield subnet


class Networks:
    """The networks of one installation. Safe to use from many threads."""

    def __init__(self, daemon: Daemon, install: str, bind_address: str) -> None:
        self._daemon = daemon
        self._install = install
        self._bind_address = bind_address
        self._known: set[str] = set()
        self._default_separates: bool | None = None
        self._lock = threading.Lock()

    @property
    def shared(self) -> str:
        """Name of the bridge on which single replicas run, unable to reach each other."""
        return f"lml-{self._install}-shared"

    def ensure(self, gang: str | None) -> str:
        """Name of the gang's network, or of the one for single replicas, made if it is not there.

        Docker's default bridge is the one for single replicas where the daemon keeps containers on it apart
        (``--icc=false``): a container starts about 70 ms sooner on it than on any other, which all get a name
        resolver. Everywhere else it is :attr:`shared`.
        """
        if gang is None and self._default_bridge_separates():
            return DEFAULT_BRIDGE
        name = gang or self.shared
        if name not in self._known:
            with self._lock:
                if name not in self._known:
                    self._find_or_create(name, GANG if gang else SHARED)
                    self._known.add(name)
        return name

    def look_again(self) -> None:
        """Trust nothing seen before: somebody may have pruned networks or restarted the daemon differently."""
        self._known.clear()
        self._default_separates = None

    def _default_bridge_separates(self) -> bool:
        if self._default_separates is None:
            try:
                bridge = self._daemon.api.inspect_network(DEFAULT_BRIDGE)
            except NotFound:  # dockerd --bridge=none
                bridge = {}
            self._default_separates = (bridge.get("Options") or {}).get(_ICC) == "false"
        return self._default_separates

    def remove(self, name: str) -> None:
        """Remove our network of that name; one that is gone or not ours is left as it is.

        Others' containers that somebody has connected to it, and what a daemon that died has left on it, are
        disconnected: it was made for ours alone, which are over.

        Raises:
            EngineError: containers of ours are on it, or it stays in use.
        """
        with self._lock:
            for network in self._ours():
                if network["Name"] == name:
                    self._remove_one(network)
            self._known.discard(name)

    def gangs(self) -> set[str]:
        """Names of the gang networks."""
        return {network["Name"] for network in self._ours() if network["Labels"].get(LABEL_NETWORK) == GANG}

    def _remove_one(self, network: dict[str, Any]) -> None:
        for turn in range(2):
            try:
                return self._daemon.api.remove_network(network["Id"])
            except NotFound:
                return
            except APIError as error:
                if error.status_code != 403:
                    raise
                if turn or not self._disconnect_others(network):
                    raise EngineError(f"network {network['Name']} is in use") from error

    def _disconnect_others(self, network: dict[str, Any]) -> bool:
        """Take off a network what is not ours. False if something of ours is on it."""
        ours = {"label": f"{LABEL_INSTALL}={self._install}", "network": network["Id"]}
        if self._daemon.api.containers(filters=ours):
            return False
        found = self._daemon.api.inspect_network(network["Id"]).get("Containers") or {}
        for container, endpoint in found.items():
            name = endpoint.get("Name") or container
            log.warning("network %s is to be removed: %s, which is not ours, is disconnected", network["Name"], name)
            with suppress(APIError):  # it may have gone just now; whether all are gone tells the next try
                self._daemon.api.disconnect_container_from_network(name, network["Id"], force=True)
        return True

    def _ours(self) -> list[dict[str, Any]]:
        return self._list({"label": f"{LABEL_INSTALL}={self._install}"})

    def _list(self, filters: dict[str, str]) -> list[dict[str, Any]]:
        return list(self._daemon.api.networks(filters=filters))

    def _find_or_create(self, name: str, kind: str) -> None:
        everything = self._list({})
        same = [network for network in everything if network["Name"] == name]
        if any((network["Labels"] or {}).get(LABEL_INSTALL) == self._install for network in same):
            return
        if same:
            raise EngineError(f"a network named {name} exists which this installation did not make")
        prefix = GANG_PREFIX if kind == GANG else SHARED_PREFIX
        taken = self._taken(everything)
        for subnet in islice(free_subnets(prefix, taken), _TRIES):
            if self._create(name, kind, subnet):
                return
        raise EngineError(f"no free subnet for network {name}: every one that was tried is in use")

    def _taken(self, everything: list[dict[str, Any]] | None = None) -> list[IPv4Network]:
        return [*_subnets(self._list({}) if everything is None else everything), *host_routes()]

    def _create(self, name: str, kind: str, subnet: IPv4Network) -> bool:
        """False if somebody else took the subnet in the meantime."""
        pool = IPAMPool(subnet=str(subnet), gateway=str(subnet[1]))
        options = {
            _ICC: "true" if kind == GANG else "false",
            "com.docker.network.bridge.host_binding_ipv4": self._bind_address,
        }
        try:
            self._daemon.api.create_network(
                name,
                driver="bridge",
                options=options,
                ipam=IPAMConfig(pool_configs=[pool]),
                check_duplicate=True,
                labels={LABEL_INSTALL: self._install, LABEL_NETWORK: kind},
            )
        except APIError as error:
            said = explanation(error)
            if out_of_order(error):
                raise
            if "overlap" in said.lower():
                return False
            if "already exists" not in said.lower():
                refused = Unclear if error.is_server_error() else EngineError
                raise refused(f"network {name} cannot be made: {readable(said)}") from error
        return True


def _subnets(networks: Iterable[dict[str, Any]]) -> Iterator[IPv4Network]:
    for network in networks:
        for config in (network.get("IPAM") or {}).get("Config") or ():
            subnet = ipaddress.ip_network(config["Subnet"], strict=False) if config.get("Subnet") else None
            if isinstance(subnet, IPv4Network):
                yield subnet
