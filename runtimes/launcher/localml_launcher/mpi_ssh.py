"""SSH between the workers of an MPI run: the server that each of the others runs, and the client for ``mpiexec``.

One Ed25519 key, made for the run and known to its workers alone, is the servers' host key and the only key that they
let in. No account and no file of the image takes part.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from localml_launcher.console import EXIT_USAGE, LauncherError, say

ADDRESSES, KEY = "LOCALML_MPI_ADDRESSES", "LOCALML_MPI_KEY"
EXIT_UNREACHABLE = 255
"""What ``ssh`` itself ends with when there is no connection."""
_USER = "localml"
_KEEPALIVE_S = 30
_CHUNK = 1 << 16


def addresses(environ: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """The workers' names in the order of their ranks, with host and port of their SSH servers.

    A worker's name is its host; those that share one machine are called ``127.0.0.1``, ``127.0.0.2`` and so on, because
    ``mpiexec`` knows them by their names alone.

    Raises:
        LauncherError: the variable is missing, is no list of ``host:port``, or names some hosts twice, not all alike.
    """
    parts = [part.rpartition(":") for part in environ.get(ADDRESSES, "").split(",")]
    if not all(host and port.isdigit() for host, _, port in parts):
        raise LauncherError(f"{ADDRESSES}: must be host:port,host:port..., not {environ.get(ADDRESSES, '')!r}")
    places = [(host, int(port)) for host, _, port in parts]
    hosts = {host for host, _ in places}
    if 1 < len(hosts) < len(places):
        raise LauncherError(f"{ADDRESSES}: each worker must have a host name of its own, or all must have the same")
    names = [
        f"127.0.{n // 254}.{n % 254 + 1}" if len(hosts) == 1 < len(places) else places[n][0] for n in range(len(places))
    ]
    return dict(zip(names, places, strict=True))


def parse_agent(arguments: list[str]) -> tuple[str, str]:
    """Host and command of a call such as ``-x HOST WORD...``; as with ssh, the words are joined for a shell.

    Raises:
        LauncherError: one of the two is missing.
    """
    words = list(arguments)
    while words and words[0].startswith("-"):
        words.pop(0)
    if len(words) < 2:
        raise LauncherError("usage: localml-mpi-agent [OPTIONS] HOST COMMAND...")
    return words[0], " ".join(words[1:])


async def serve(port: int, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Run what the holder of the key asks for, until ``stop`` is set; ``ready`` is called once it listens."""
    import asyncssh

    key = asyncssh.import_private_key(os.environ[KEY])
    listener = await asyncssh.listen(
        os.environ.get("LOCALML_LISTEN", ""),
        port,
        server_host_keys=[key],
        authorized_client_keys=asyncssh.import_authorized_keys(key.export_public_key().decode()),
        password_auth=False,
        kbdint_auth=False,
        process_factory=_execute,
        encoding=None,
        line_editor=False,
        keepalive_interval=_KEEPALIVE_S,
    )
    async with listener:
        ready()
        await stop.wait()


async def _execute(process: Any) -> None:
    """One command, without input; it is killed with all that it started when the connection ends before it."""
    env = {name: text for name, text in os.environ.items() if name != KEY}
    child = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", process.command or ":"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        start_new_session=True,
    )
    ended = asyncio.ensure_future(_output_and_status(process, child))
    closed = asyncio.ensure_future(process.wait_closed())
    try:
        await asyncio.wait({ended, closed}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            status = ended.result()
            process.exit(128 - status if status < 0 else status)
    finally:
        ended.cancel()
        closed.cancel()
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing of it is left


async def _output_and_status(process: Any, child: asyncio.subprocess.Process) -> int:
    async def hand_on(source: Any, target: Any) -> None:
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()

    await asyncio.gather(hand_on(child.stdout, process.stdout), hand_on(child.stderr, process.stderr))
    return await child.wait()


async def call(host: str, command: str, environ: Mapping[str, str]) -> int:
    """Run a command on a worker with this process's output as its own; its exit code.

    Raises:
        LauncherError: the worker is none of this run, or its server is not reached or is not the run's.
    """
    import asyncssh

    known = addresses(environ)
    if host not in known:
        raise LauncherError(f"{host} is no worker of this run: {', '.join(known)}", EXIT_UNREACHABLE)
    key = asyncssh.import_private_key(environ[KEY])
    options: dict[str, Any] = {
        "username": _USER,
        "client_keys": [key],
        "known_hosts": ([key.convert_to_public()], [], []),
        "agent_path": None,
        "config": None,
        "keepalive_interval": _KEEPALIVE_S,
    }
    try:
        async with asyncssh.connect(*known[host], **options) as connection:
            process = await connection.create_process(command, stdin=asyncssh.DEVNULL, encoding=None)
            await asyncio.gather(_show(process.stdout, sys.stdout.buffer), _show(process.stderr, sys.stderr.buffer))
            await process.wait_closed()
            status = process.returncode
    except (OSError, asyncssh.Error) as error:
        raise LauncherError(f"{host}: no SSH connection: {error}", EXIT_UNREACHABLE) from error
    return EXIT_UNREACHABLE if status is None else int(status)  # None: the connection ended before the command


async def _show(source: Any, target: BinaryIO) -> None:
    while data := await source.read(_CHUNK):
        target.write(data)
        target.flush()


def agent() -> None:
    """The program ``localml-mpi-agent``, which ``mpiexec`` starts in the place of ``ssh``."""
    os.environ.setdefault("USER", _USER)  # a container's user may have no name
    try:
        host, command = parse_agent(sys.argv[1:])
        sys.exit(asyncio.run(call(host, command, os.environ)))
    except LauncherError as error:
        say(f"error: {error}")
        sys.exit(error.status or EXIT_USAGE)
