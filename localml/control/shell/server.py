"""The ssh server itself: listeners, logins by key, shells and commands, on an event loop in a thread of its own.

Built on asyncssh, the only SSH server in Python that is kept up and speaks all that ``ssh``, ``scp`` and ``sftp`` use.
Importing it takes tenths of a second and tens of megabytes, so this module is imported when somebody first asks for
ssh access (:mod:`localml.control.shell.shells`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncssh
from asyncssh.constants import DISC_BY_APPLICATION

from localml.control.shell.files import ContainerFiles
from localml.control.shell.stream import AsyncExec
from localml.control.shell.tunnel import reach
from localml.core.errors import LocalmlError
from localml.core.limits import MOST_COMMANDS, MOST_CONNECTIONS
from localml.engines.base import Engine, EngineError, EngineUnreachable

log = logging.getLogger(__name__)
R = TypeVar("R")

logging.getLogger("asyncssh").setLevel(logging.WARNING)  # it tells of every packet and channel otherwise

_CALL_S = 30.0
_LOGIN_S = 30.0
_KEEPALIVE_S = 30.0
_CHUNK = 1 << 16
_FAILED = 255  # as OpenSSH exits when it could not run the command at all
_SHELL = ("sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh")
_COMMAND = ("sh", "-c", 'command -v bash >/dev/null 2>&1 && exec bash -c "$1"; exec sh -c "$1"', "sh")


@dataclass(frozen=True, slots=True)
class Place:
    """One replica of a workload, whichever attempt of it runs."""

    workload_id: int
    role: str
    index: int


@dataclass(frozen=True, slots=True)
class Container:
    """The attempt that runs at a place: its name in the engine, and its address if it has one."""

    name: str
    address: str | None


Find = Callable[[Place], Container | None]
Admits = Callable[[Place, str], bool]


class ShellServer:
    """Serves ssh for containers; the methods are for other threads.

    Args:
        host: the address to listen on.
        host_key: in OpenSSH's format for private keys.
        find: tells what runs at a place now; called on a thread where it may take its time.
        admits: whether a public key (``ssh-ed25519 BASE64``) lets in to a place now; called as ``find`` is.
    """

    def __init__(self, engine: Engine, host: str, host_key: bytes, find: Find, admits: Admits) -> None:
        self.engine = engine
        self.find = find
        self.admits = admits
        self._host = host
        self._host_key = asyncssh.import_private_key(host_key)
        self._listeners: dict[Place, asyncssh.SSHAcceptor] = {}
        self._guests: set[Guest] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="localml-ssh", daemon=True)
        self._thread.start()

    def listen(self, place: Place, port: int) -> int:
        """Open a place; returns the port, which is the wanted one if that is free (0: any).

        Raises:
            OSError: no port can be had.
        """
        return self._call(self._listen(place, port))

    def shut(self, workload_id: int) -> None:
        """Close the listeners of a workload that is over, and end all sessions."""
        self._call(self._shut(lambda place: place.workload_id == workload_id))

    def containers(self, workload_id: int) -> set[str]:
        """Names of a workload's containers that somebody has sessions in."""

        async def act() -> set[str]:
            guests = [one for one in self._guests if one.place.workload_id == workload_id]
            return {one.container.name for one in guests if one.container is not None}

        return self._call(act())

    def dismiss(self, names: set[str]) -> None:
        """End the sessions in containers that have ended."""

        async def act() -> None:
            for guest in list(self._guests):
                if guest.container is not None and guest.container.name in names:
                    guest.dismiss("the container has ended")

        self._call(act())

    def inside(self) -> set[tuple[Place, str]]:
        """The keys of those who have connections, or are about to, and where these lead."""

        async def act() -> set[tuple[Place, str]]:
            return {(guest.place, guest.key) for guest in self._guests if guest.key}

        return self._call(act())

    def put_out(self, keys: set[tuple[Place, str]]) -> None:
        """End the connections that came with these keys."""

        async def act() -> None:
            for guest in [one for one in self._guests if (one.place, one.key) in keys]:
                guest.dismiss("you may not be here any more")

        self._call(act())

    def close(self) -> None:
        """End everything."""
        if self._loop.is_closed():
            return
        self._call(self._shut(lambda place: True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    def guests(self, place: Place, key: str) -> int:
        """How many connections lead to a place with this key; on the loop's own thread."""
        return sum(1 for one in self._guests if one.place == place and one.key == key)

    def joined(self, guest: Guest) -> None:
        """A client has connected."""
        self._guests.add(guest)

    def left(self, guest: Guest) -> None:
        """A client is gone."""
        self._guests.discard(guest)

    def _call(self, act: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(act, self._loop).result(_CALL_S)

    async def _listen(self, place: Place, port: int) -> int:
        if place not in self._listeners:
            try:
                self._listeners[place] = await self._bind(place, port)
            except OSError:
                if not port:
                    raise
                self._listeners[place] = await self._bind(place, 0)
        return int(self._listeners[place].get_port())

    async def _bind(self, place: Place, port: int) -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            lambda: Guest(self, place),
            self._host,
            port,
            server_host_keys=[self._host_key],
            process_factory=_session,
            sftp_factory=_files,
            allow_scp=True,
            encoding=None,
            line_editor=False,
            agent_forwarding=False,
            login_timeout=_LOGIN_S,
            keepalive_interval=_KEEPALIVE_S,
        )

    async def _shut(self, wanted: Callable[[Place], bool]) -> None:
        for place in [one for one in self._listeners if wanted(one)]:
            listener = self._listeners.pop(place)
            listener.close()
            await listener.wait_closed()
        guests = [guest for guest in self._guests if wanted(guest.place)]
        for guest in guests:
            guest.dismiss("the workload has ended")
        await asyncio.gather(*(guest.gone() for guest in guests))


class Guest(asyncssh.SSHServer):
    """One client's connection."""

    def __init__(self, server: ShellServer, place: Place) -> None:
        self.place = place
        self.key = ""
        """The public key that let it in, or is being judged."""
        self.container: Container | None = None
        self._server = server
        self._connection: Any = None
        self._finding = asyncio.Lock()
        self._streams: set[AsyncExec] = set()
        self._opening = 0
        self._gone = asyncio.Event()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """See asyncssh."""
        self._connection = conn
        conn.set_extra_info(guest=self)
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncssh. Whatever the client started ends."""
        self._end = asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        try:
            await asyncio.gather(*(stream.close() for stream in self._streams), return_exceptions=True)
        finally:
            self._streams.clear()
            self._server.left(self)
            self._gone.set()

    def begin_auth(self, username: str) -> bool:
        """Any user name will do: inside, everybody is the container's user."""
        return True

    def public_key_auth_supported(self) -> bool:
        """Keys, and nothing else."""
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Only those of who may enter."""
        shown = key.export_public_key("openssh").decode("ascii", "replace").split()[:2]
        self.key = " ".join(shown)  # before it is judged: who is put out meanwhile is looked for by it
        loop = asyncio.get_running_loop()
        admitted = await loop.run_in_executor(None, self._server.admits, self.place, self.key)
        if admitted and self._server.guests(self.place, self.key) > MOST_CONNECTIONS:
            self.dismiss(f"at most {MOST_CONNECTIONS} ssh connections of one user lead to one replica at a time")
            admitted = False
        if not admitted:
            self.key = ""
        return admitted

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        """``ssh -L``."""
        return self._reach(dest_host, dest_port)

    async def _reach(self, host: str, port: int) -> Any:
        try:
            container = await self._find()
        except (LocalmlError, EngineError, EngineUnreachable) as error:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, str(error)) from error
        own = self._server.engine.capabilities.own_network
        return await reach(self._connection, self.open, container.address, host, port, own_network=own)

    async def open(
        self, command: tuple[str, ...], tty: tuple[int, int] | None = None, env: Mapping[str, str] | None = None
    ) -> AsyncExec:
        """Run a command in the container; it ends with the connection at the latest.

        Raises:
            EngineError, EngineUnreachable: it cannot be run, or :data:`MOST_COMMANDS` run already.
        """
        try:
            container = await self._find()
        except LocalmlError as error:
            raise EngineError(str(error)) from error
        self._streams = {one for one in self._streams if not one.closed}
        if len(self._streams) + self._opening >= MOST_COMMANDS:
            raise EngineError(f"at most {MOST_COMMANDS} commands at a time run in one ssh connection")
        self._opening += 1
        try:
            stream = await AsyncExec.open(self._server.engine, container.name, command, tty, env)
        finally:
            self._opening -= 1
        self._streams.add(stream)
        if self._gone.is_set():
            await stream.close()
        return stream

    async def _find(self) -> Container:
        """The container that this connection leads to: the one that ran when it was first needed."""
        async with self._finding:
            if self.container is None:
                self.container = await asyncio.get_running_loop().run_in_executor(None, self._server.find, self.place)
            if self.container is None:
                raise EngineError(f"{self.place.role}-{self.place.index} does not run now")
            return self.container

    def dismiss(self, why: str) -> None:
        """Close the connection and tell the client why."""
        self._connection.disconnect(DISC_BY_APPLICATION, why)

    async def gone(self) -> None:
        """Wait until the connection and all that it started are over."""
        await self._gone.wait()


def _files(channel: Any) -> ContainerFiles:
    return ContainerFiles(channel, channel.get_extra_info("guest").open)


async def _session(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """A shell or a command."""
    guest: Guest = process.get_extra_info("guest")
    if process.subsystem:
        process.exit(_FAILED)
        return
    words = process.command
    command = _SHELL if words is None else (*_COMMAND, words)
    try:
        stream = await guest.open(command, _size(process), _environment(process))
    except (EngineError, EngineUnreachable) as error:
        process.stderr.write(f"localml: {error}\n".encode())
        process.exit(_FAILED)
        return
    showing = asyncio.ensure_future(_show(process, stream))
    helpers = [asyncio.ensure_future(act) for act in (_feed(process, stream), process.wait_closed())]
    try:
        await asyncio.wait((showing, helpers[1]), return_when=asyncio.FIRST_COMPLETED)
        if showing.done():
            process.exit(showing.result())
    except (EngineUnreachable, OSError, asyncssh.Error) as error:
        log.debug("a session in %s broke off: %s", guest.place, error)
        process.exit(_FAILED)
    finally:
        for task in (showing, *helpers):
            task.cancel()
        await stream.close()
        await asyncio.gather(showing, *helpers, return_exceptions=True)


def _size(process: asyncssh.SSHServerProcess[bytes]) -> tuple[int, int] | None:
    if process.term_type is None:
        return None
    columns, rows, *_ = process.term_size
    return columns or 80, rows or 24


def _environment(process: asyncssh.SSHServerProcess[bytes]) -> dict[str, str]:
    """What a client may bring along: its language and its terminal's type."""
    given = {name: value for name, value in process.env.items() if name == "LANG" or name.startswith("LC_")}
    return given | ({"TERM": process.term_type} if process.term_type else {})


async def _show(process: asyncssh.SSHServerProcess[bytes], stream: AsyncExec) -> int:
    """Output to the client, until the command's end; its exit code."""
    while (piece := await stream.read()) is not None:
        writer = process.stdout if piece[0] == "stdout" else process.stderr
        writer.write(piece[1])
        await writer.drain()
    return await stream.wait()


async def _feed(process: asyncssh.SSHServerProcess[bytes], stream: AsyncExec) -> None:
    """The client's input, changes of its window and signals to the command."""
    while True:
        try:
            data = await process.stdin.read(_CHUNK)
        except asyncssh.TerminalSizeChanged as change:
            await stream.resize(change.width, change.height)
        except asyncssh.BreakReceived:
            await stream.signal(signal.SIGINT)
        except asyncssh.SignalReceived as given:
            number = getattr(signal, f"SIG{given.signal}", None)
            if isinstance(number, signal.Signals):
                await stream.signal(number)
        else:
            if not data:
                await stream.close_stdin()
                return
            await stream.write(data)
