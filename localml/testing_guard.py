"""Ends what a test process leaves when it dies before its fixtures are torn down, whatever killed it.

Supervisors outlive servers on purpose; a server that was made for tests has nobody who would come back for them. So
each has a guard beside it: a small process in a session of its own, which waits until the test process is gone (a pidfd
says so whatever ended it, and whoever else holds its pipes) and then ends all that is left. Until then it costs one
interpreter that has imported nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_WAIT = """\
import os, select, sys
poll = select.poll()
poll.register(int(sys.argv[1]), select.POLLIN)
poll.poll()
os.environ.update(PYTHONPATH=sys.argv[4])
os.execv(sys.executable, [sys.executable, "-P", "-m", "localml.testing_guard", *sys.argv[2:4]])
"""
_PATIENCE_S = 10.0
"""For supervisors to end what they run; what hangs in the kernel is left to it."""
_LOOKS_S = 0.02


class Guard:
    """Watches over this process from now on.

    Args:
        data: the data directory of a server in it.
    """

    def __init__(self, data: Path) -> None:
        package = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        alive = os.pidfd_open(os.getpid())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WAIT, str(alive), str(os.getpid()), str(data), paths],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(alive,),
                start_new_session=True,  # what is meant for the tests' process group is not meant for it
                cwd="/",
            )
        finally:
            os.close(alive)

    def close(self) -> None:
        """Everything was ended in good order. A build that another server may wait for is ended with this process."""
        from localml.engines.runtimes.wheels import CHILDREN

        if CHILDREN:
            self._process.returncode = 0  # that it is not waited for is intended
            return
        self._process.kill()
        self._process.wait()


def end_all(data: Path, builder: int) -> None:
    """End what a dead server left: replicas, gateway, commands beside replicas, builds.

    Args:
        data: its data directory.
        builder: its process number.
    """
    from localml.control.serving.gateway_process import stop

    with contextlib.suppress(Exception):  # each of the three is tried, whatever the others give
        _end_replicas(data / "replicas")
    with contextlib.suppress(Exception):
        stop(data, timeout=2)
    deadline = time.monotonic() + _PATIENCE_S
    while (left := list(_left(data, builder))) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOKS_S)


def _end_replicas(root: Path) -> None:
    """Each by its supervisor, which knows all that it started; one that is on its way finds the wish to stop."""
    from localml.engines.base import LABEL_INSTALL, EngineError, Phase
    from localml.engines.process.engine import ProcessEngine
    from localml.engines.process.folder import ReplicaDir

    plans = [ReplicaDir(folder).plan() for folder in root.glob("[!.]*")]
    installs = {plan.labels.get(LABEL_INSTALL, "") for plan in plans if plan is not None}
    for install in installs:
        engine = ProcessEngine(root, install)
        deadline = time.monotonic() + _PATIENCE_S
        living = list(engine.list())
        while living and time.monotonic() < deadline:
            living = [name for name in living if engine.inspect(name).phase is not Phase.EXITED]
            for name in living:
                with contextlib.suppress(EngineError):
                    engine.stop(name, 0)
            time.sleep(_LOOKS_S)
        engine.close()


def _left(data: Path, builder: int) -> Iterator[int]:
    """Processes that have in their environment what only the server's own work has."""
    import psutil

    from localml.engines.runtimes.wheels import BUILDER

    ours = {("LOCALML_BUCKETS", str(data / "buckets")), (BUILDER, str(builder))}
    for process in psutil.process_iter(["environ", "status"]):
        found = process.info["environ"] or {}
        if process.info["status"] != psutil.STATUS_ZOMBIE and ours & set(found.items()):
            yield process.pid


if __name__ == "__main__":
    end_all(Path(sys.argv[2]), int(sys.argv[1]))
