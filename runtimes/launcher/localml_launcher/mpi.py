"""``python -m localml_launcher mpi -- COMMAND``: one rank of the command on each worker, started by MPI over SSH.

Every worker is started with the same words. The first runs MPICH's ``mpiexec`` and ends with its exit code; each of
the others runs an SSH server (:mod:`localml_launcher.mpi_ssh`) until it is told to end. Rank N runs on worker N, with
that worker's environment, GPUs included. The image must have ``mpich`` and ``asyncssh`` from PyPI.

- ``LOCALML_INDEX``: which worker this is, from 0;
- ``LOCALML_MPI_ADDRESSES``: ``host:port,host:port...`` of the workers' SSH servers by index;
- ``LOCALML_MPI_KEY``: the private key of the run, in OpenSSH's format.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from localml_launcher.console import LauncherError, say
from localml_launcher.mpi_ssh import KEY, addresses, serve
from localml_launcher.process import Runner

EXIT_NO_WORKER = 69
"""A worker is not there (EX_UNAVAILABLE)."""
PATIENCE_S = 120.0
_PAUSE_S = 0.1


def mpiexec(hosts: Sequence[str], command: Sequence[str], programs: Path) -> list[str]:
    """The words that start one rank of the command on each host, in their order.

    Args:
        programs: the folder of ``mpiexec`` and ``localml-mpi-agent``.
    """
    return [
        str(programs / "mpiexec"),
        *("-launcher", "ssh", "-launcher-exec", str(programs / "localml-mpi-agent")),
        *("-localhost", hosts[0], "-hosts", ",".join(hosts)),
        *("-ppn", "1", "-n", str(len(hosts))),
        "-genvnone",  # each rank has the environment of its own worker
        *("env", "-u", KEY),  # which only the agent has a use for
        *command,
    ]


def main(command: Sequence[str]) -> int:
    """Do the part of the worker that the environment describes and return its exit status."""
    workers = addresses(os.environ)
    index = os.environ.get("LOCALML_INDEX", "")
    if not index.isdigit() or int(index) >= len(workers):
        raise LauncherError(f"LOCALML_INDEX: must be a number below {len(workers)}, not {index!r}")
    if not os.environ.get(KEY):
        raise LauncherError(f"the environment variable {KEY} is not set")
    programs = Path(sys.executable).parent
    _check_image(programs)
    if int(index) == 0:
        return _lead(workers, mpiexec(list(workers), command, programs))
    _, port = list(workers.values())[int(index)]
    asyncio.run(_follow(port))
    return 0


def _check_image(programs: Path) -> None:
    names = ("mpiexec", "localml-mpi-agent")
    missing = [name for name in names if not (programs / name).is_file()]
    missing += [] if find_spec("asyncssh") else ["asyncssh"]
    if missing:
        raise LauncherError(
            f"this image has no {' and no '.join(missing)}; "
            "MPI needs localml/mpi, localml/train-pytorch or an image made from it"
        )


def _lead(workers: Mapping[str, tuple[str, int]], words: Sequence[str]) -> int:
    runner = Runner()
    with runner.forwarding():
        _wait_for(list(workers.values())[1:], runner)
        if runner.stopped_by is not None:
            return 128 + runner.stopped_by
        say(f"starting {len(workers)} ranks on {', '.join(workers)}")
        return runner.run(words, os.environ)


def _wait_for(others: Sequence[tuple[str, int]], runner: Runner) -> None:
    """Return once all SSH servers take connections, or when this worker was told to end."""
    deadline = time.monotonic() + PATIENCE_S
    for host, port in others:
        while runner.stopped_by is None:
            try:
                socket.create_connection((host, port), timeout=5).close()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LauncherError(f"worker {host}:{port} cannot be reached: {error}", EXIT_NO_WORKER) from error
                time.sleep(_PAUSE_S)


async def _follow(port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(port, stop)
