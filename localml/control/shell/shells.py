"""Ssh access to the containers of workloads: who listens where, with which keys.

Each replica gets a port of its own when somebody first asks for it, and keeps it until the workload is over, so that
plain ``ssh -p PORT -i KEY root@HOST`` reaches the right container of a gang. A shell is the engine's own way to run a
command inside, so the image needs no SSH server. Nothing listens, and asyncssh is not even imported, before that first
question. ``ports.json`` remembers the ports for a restarted server.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from localml.control.shell.keys import KeyPair, host_key, workload_key
from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.people.secrets import Vault, write_private
from localml.core.work.states import TERMINAL
from localml.core.work.tables import Workload
from localml.core.work.workloads import Full, Workloads
from localml.engines.base import Engine
from localml.objects import Buckets

if TYPE_CHECKING:
    from localml.control.shell.server import Container, Place, ShellServer

log = logging.getLogger(__name__)

_PORTS = "ports.json"
_LOOKED_FOR = "openpai"
"""The API whose clients look for public keys in the bucket tree, and whose jobs are all its users' to see."""


@dataclass(frozen=True, slots=True)
class ShellDoor:
    """Where one replica is reached: ``name`` is that of its running container."""

    role: str
    index: int
    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ShellInfo:
    """How to reach a workload.

    ``folder`` is an object URI. It holds the owner's public key for as long as the workload lives; the private one is
    never put there, because every job can read the buckets: it is given out by :meth:`Shells.private_key` only.
    ``host_key`` is what the server identifies itself with, as in a ``known_hosts`` file.
    """

    doors: tuple[ShellDoor, ...]
    folder: str
    public_key_name: str
    private_key_name: str
    host_key: str

    @property
    def containers(self) -> list[tuple[str, str, int]]:
        """(container's name, host, port) of each running replica."""
        return [(door.name, door.host, door.port) for door in self.doors]


class Shells:
    """The service. All methods may be called from any thread.

    Args:
        data: the data directory.
        host: the address to listen on.
        users: all there are, as they are now.
    """

    def __init__(
        self,
        data: Path,
        vault: Vault,
        workloads: Workloads,
        engine: Engine,
        buckets: Buckets,
        host: str,
        users: Callable[[], list[Caller]],
    ) -> None:
        self._file = data / "ssh" / _PORTS
        self._vault = vault
        self._workloads = workloads
        self._engine = engine
        self._buckets = buckets
        self._host = host
        self._users = users
        self._lock = threading.Lock()
        self._ports: dict[int, dict[str, int]] = self._read_ports()
        self._server: ShellServer | None = None
        self._checks = ThreadPoolExecutor(1, "localml-ssh-check")
        self._closed = False

    def start(self) -> None:
        """Listen again where an earlier server did; in the background, because a start must not wait for it."""
        if self._ports:
            with suppress(RuntimeError):  # closed already
                self._checks.submit(self._reopen)

    def info(self, workload_id: int) -> ShellInfo:
        """Where the replicas that run now are reached; none when the workload waits or is over.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``UNAVAILABLE`` when no port can be had or the server is going down.
        """
        full = self._workloads.get(workload_id)
        return ShellInfo(
            self._open_doors(full),
            self._folder(full),
            f"{full.row.name}.pub",
            full.row.name,
            host_key(self._vault).public,
        )

    def private_key(self, workload_id: int, user: Caller) -> bytes:
        """The key that opens a workload's containers for a user, as a key file of OpenSSH. For that user only, and for
        as long as it may enter.

        Raises:
            LocalmlError: ``NOT_FOUND``.
        """
        return self._key(self._workloads.row(workload_id), user).private

    def changed(self, workload_id: int) -> None:
        """Something about a workload changed: perhaps sessions must end. Returns at once."""
        if workload_id in self._ports:
            with suppress(RuntimeError):  # the server is going down
                self._checks.submit(self._check_safely, workload_id)

    def people_changed(self) -> None:
        """Something about users changed: perhaps somebody may not be inside any more. Returns at once."""
        if self._server is not None:
            with suppress(RuntimeError):  # the server is going down
                self._checks.submit(self._put_out)

    def admits(self, place: Place, public: str) -> bool:
        """Whether a key is that of somebody who may enter now."""
        try:
            row = self._workloads.row(place.workload_id)
        except LocalmlError:
            return False
        thing = Thing.of(ThingKind.WORKLOAD, row)
        let_in = (user for user in self._users() if may(user, Action.ENTER, thing))
        return any(self._key(row, user).public == public for user in let_in)

    def _put_out(self) -> None:
        server = self._server
        if server is not None:
            try:
                server.put_out({one for one in server.inside() if not self.admits(*one)})
            except Exception:
                log.exception("putting out those who may not be inside any more failed")

    def close(self) -> None:
        """End all sessions and listeners; a later server opens the same ports again."""
        self._closed = True
        self._checks.shutdown(cancel_futures=True)
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()

    def _open_doors(self, full: Full) -> tuple[ShellDoor, ...]:
        running = _running(full)
        if not running:
            return ()
        number = full.row.id or 0
        with self._lock:
            server = self._open_server()
            ports = self._ports.setdefault(number, {})
            before = dict(ports)
            doors = []
            for (role, index), name in running.items():
                label = f"{role}/{index}"
                ports[label] = self._listen(server, number, role, index, ports.get(label, 0))
                doors.append(ShellDoor(role, index, name, self._host, ports[label]))
            if ports != before:
                self._write_ports()
        if not before:
            self._publish(full)
            self.changed(number)  # it may have ended meanwhile
        return tuple(doors)

    def _open_server(self) -> ShellServer:
        if self._closed:
            raise LocalmlError(Code.UNAVAILABLE, "the server is going down")
        if self._server is None:
            from localml.control.shell.server import ShellServer

            self._server = ShellServer(self._engine, self._host, host_key(self._vault).private, self._find, self.admits)
        return self._server

    @staticmethod
    def _listen(server: ShellServer, number: int, role: str, index: int, port: int) -> int:
        from localml.control.shell.server import Place

        try:
            return server.listen(Place(number, role, index), port)
        except OSError as error:
            raise LocalmlError(Code.UNAVAILABLE, f"no port for ssh can be had: {error.strerror or error}") from error

    def _find(self, place: Place) -> Container | None:
        from localml.control.shell.server import Container

        name = _running(self._workloads.get(place.workload_id)).get((place.role, place.index))
        return None if name is None else Container(name, self._engine.inspect(name).address)

    def _reopen(self) -> None:
        for number in list(self._ports):
            if self._closed:
                return
            try:
                full = self._workloads.get(number)
                if full.row.state not in TERMINAL:
                    self._open_doors(full)
                self.changed(number)
            except LocalmlError as error:
                log.warning("ssh access to workload %s could not be opened again: %s", number, error)
                if error.code is Code.NOT_FOUND:
                    self._forget(number)

    def _check_safely(self, number: int) -> None:
        try:
            self._check(number)
        except Exception:
            log.exception("looking after the ssh sessions of workload %s failed", number)

    def _check(self, number: int) -> None:
        server = self._server
        used = server.containers(number) if server is not None else set()  # first: one that comes later may be new
        full = self._workloads.get(number)
        if full.row.state in TERMINAL:
            if server is not None:
                server.shut(number)
            self._withdraw(full)
            self._forget(number)
        elif server is not None:
            server.dismiss(used - set(_running(full).values()))

    def _forget(self, number: int) -> None:
        with self._lock:
            if self._ports.pop(number, None) is not None:
                self._write_ports()

    def _key(self, row: Workload, user: Caller) -> KeyPair:
        return workload_key(self._vault, row.id or 0, row.created_at, user)

    # -- the public key in the bucket tree ---------------------------------------------------------

    @staticmethod
    def _folder(full: Full) -> str:
        """As OpenPAI lays it out: each job has a folder below its user's. The id tells jobs of one name apart."""
        owner, name = quote(full.row.owner, safe=""), f"{full.row.name}-{full.row.id}"
        return f"hdfs://localml:9000/Container/{owner}/{name}/ssh/keyFiles"

    def _publish(self, full: Full) -> None:
        """The owner's, if it is a user still. Every user sees the folder: what others run is told of nowhere there."""
        if full.row.dialect != _LOOKED_FOR:
            return
        key = next((self._key(full.row, one).public for one in self._users() if one.id == full.row.owner_id), "")
        with self._buckets.open(f"{self._folder(full)}/{full.row.name}.pub", "wb") as file:
            file.write(f"{key} {full.row.name}\n".encode())

    def _withdraw(self, full: Full) -> None:
        folder = self._folder(full).removesuffix("/ssh/keyFiles")
        with suppress(LocalmlError):
            self._buckets.delete(folder, recursive=True)

    # -- the file of ports -------------------------------------------------------------------------

    def _read_ports(self) -> dict[int, dict[str, int]]:
        try:
            found = json.loads(self._file.read_text())
            return {int(number): {str(at): int(port) for at, port in ports.items()} for number, ports in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning("%s could not be read, new ports are taken: %s", self._file, error)
            return {}

    def _write_ports(self) -> None:
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            write_private(self._file, json.dumps(self._ports).encode())
        except OSError as error:
            log.warning("%s could not be written, so a restart may change the ports: %s", self._file, error)


def _running(full: Full) -> dict[tuple[str, int], str]:
    """(role, index) -> the engine's name of the attempt that runs."""
    return {(one.role, one.index): one.name for one in full.attempts if one.number == full.row.attempt and one.runs}
