"""The gateway's process: started when there is something to serve, watched, restarted, and found again.

It is no child in spirit: it has a session of its own, outlives the server, and the next server adopts it by the note of
its process number and start time.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from localml.control.own_ports import next_free, why_not
from localml.control.worker import Worker
from localml.core.serving.gateway_stats import GatewayAddress, address_path, read_address, write_address
from localml.core.serving.routes_table import FOLDER, FORMAT, write_whole

log = logging.getLogger("localml.control")

PID_NAME = "gateway.json"
LOG_NAME = "gateway.log"
_FIRST_WAIT_S, _LAST_WAIT_S = 0.2, 10.0
_WELL_S = 30.0


class GatewaySupervisor:
    """Keeps one gateway running for a data directory.

    Args:
        host, port: where it listens; port 0 is any free one, kept over restarts.
        asked: whether it must be that port; else another is taken where that is not free.
        names: further names of this machine that requests may be addressed to.
        tell: called with (reason, message, warning) when it starts or ends.
    """

    def __init__(
        self,
        data: Path,
        host: str,
        port: int,
        *,
        tell: Callable[[str, str, bool], None],
        names: Sequence[str] = (),
        asked: bool = True,
    ) -> None:
        self._data = data
        self._host = host
        self._port = port
        self._free = not asked or port == 0  # any port will do
        self.trouble = ""
        """Why it cannot listen, in words; empty while nothing is known against it."""
        self._tell = tell
        self._names = tuple(names)
        self._worker = Worker("gateway-watch", self.watch, what="watching the gateway")
        self._stop = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._short_lives = 0
        self._child: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """From now on, there is a gateway."""
        self._worker.start()

    @property
    def url(self) -> str | None:
        """Where it listens, or will; None when nobody knows yet, or somebody else has the port that it must have."""
        if self.trouble:
            return None
        found = read_address(self._data)
        port = found.port if found is not None and (self._free or self._port == found.port) else self._port
        return f"http://{_shown(self._host)}:{port}" if port else None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return find(self._data) is not None

    @property
    def listening(self) -> bool:
        """Whether ours is the one that answers at :attr:`url`."""
        return listens_at(self._data) is not None

    def close(self) -> None:
        """Watch no more; it goes on."""
        if self._stop.is_set():
            return
        self._stop.set()
        os.eventfd_write(self._wake, 1)
        self._worker.close()
        if self._child is not None:
            self._child.returncode = 0  # that it is not waited for is intended
        os.close(self._wake)

    def watch(self) -> float | None:
        """Have a gateway, and wait until it ends. Returns the seconds until the next one; None when this is closed."""
        began = time.monotonic()
        try:
            pid = self._adopt() or self._spawn()
            ended = pid is None or self._wait_end(pid)
        except OSError as error:
            log.error("the gateway could not be started: %s", error)
            ended = True
        if not ended:
            return None
        self._short_lives = 0 if time.monotonic() - began > _WELL_S else self._short_lives + 1
        return min(_FIRST_WAIT_S * 2.0**self._short_lives, _LAST_WAIT_S)

    def _adopt(self) -> int | None:
        """The gateway that an earlier server left, if it listens where this one wants it."""
        found = find(self._data)
        if found is None:
            return None
        if not self._is_wanted(found):
            log.info("the gateway listens elsewhere than is wanted now, or is of an older version; it is replaced")
            _end(found)
            return None
        log.info("the gateway of an earlier server is adopted (process %d)", found.pid)
        return found.pid

    def _is_wanted(self, found: psutil.Process) -> bool:
        try:
            words = found.cmdline()
        except psutil.Error:
            return False
        address = read_address(self._data)
        if address is None or address.format < FORMAT:
            return False
        wanted = _arguments(self._data, self._host, self._port, self._names)
        return words[-len(wanted) :] == wanted or (self._free and words[-len(wanted) : -1] == wanted[:-1])

    def _spawn(self) -> int | None:
        """Start it; None while somebody else has the port that it must have."""
        folder = self._data / FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        port = self._choose()
        if port is None:
            return None
        self._expect(port)
        with (folder / LOG_NAME).open("ab") as output:
            os.fchmod(output.fileno(), 0o600)
            self._child = subprocess.Popen(
                [sys.executable, "-m", "localml.gateway", *_arguments(self._data, self._host, port, self._names)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )
        self.trouble = ""
        _note(self._data, self._child.pid)
        self._tell("GatewayStarted", f"the gateway was started as process {self._child.pid}", False)
        return self._child.pid

    def _expect(self, port: int) -> None:
        """Nobody listens yet (the next process may have the number of the last), and here will it be."""
        address = read_address(self._data)
        if port == 0:
            address_path(self._data).unlink(missing_ok=True)
        elif address is not None or port != self._port:
            write_address(self._data, GatewayAddress(pid=0, host=self._host, port=port))

    def _choose(self) -> int | None:
        """The port that it shall listen at: the one that clients know, or the next; None while it can't be had."""
        address = read_address(self._data)
        wanted = address.port if address is not None and self._free else self._port
        found = why_not(self._host, wanted)
        if not found:
            return wanted
        words = f"port {wanted}, where the gateway is to listen, {found}"
        if self._free:
            other = next_free(self._host, self._port)
            self._tell("GatewayMoved", f"{words}; it takes {other or 'a free one'}", True)
            return other
        if words != self.trouble:
            self.trouble = words
            self._tell("GatewayPortTaken", f"{words}; it is tried again", True)
        return None

    def _wait_end(self, pid: int) -> bool:
        """Wait until it ends. False when this is to stop watching."""
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            handle = -1
        if handle >= 0:
            try:
                poll = select.poll()  # select() takes no descriptor above 1023
                poll.register(handle, select.POLLIN)
                poll.register(self._wake, select.POLLIN)
                poll.poll()
            finally:
                os.close(handle)
            if self._stop.is_set():
                return False
        status = self._child.wait() if self._child is not None and self._child.pid == pid else None
        words = f"with exit status {status}" if status is not None else "by itself"
        self._tell("GatewayEnded", f"the gateway (process {pid}) ended {words}; it is started again", True)
        return True


def _arguments(data: Path, host: str, port: int, names: Sequence[str]) -> list[str]:
    further = [word for name in names for word in ("--allow-host", name)]
    return [*further, "--data", str(data), "--host", host, "--port", str(port)]


def _shown(host: str) -> str:
    """A host as URLs have it."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"[{host}]" if ":" in host else host


def _note(data: Path, pid: int) -> None:
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        return
    write_whole(data / FOLDER / PID_NAME, json.dumps({"pid": pid, "started": started}).encode())


def find(data: Path) -> psutil.Process | None:
    """The gateway of a data directory, if it lives."""
    try:
        note = json.loads((data / FOLDER / PID_NAME).read_text())
        process = psutil.Process(int(note["pid"]))
        same = abs(process.create_time() - float(note["started"])) < 0.1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


def listens_at(data: Path, host: str | None = None) -> int | None:
    """The port where the gateway of a data directory listens (at a host); None if it does not.

    Its word alone counts: it writes the address when the port is its own.
    """
    found, address = find(data), read_address(data)
    if found is None or address is None or address.pid != found.pid:
        return None
    return address.port if host in (None, address.host) else None


def stop(data: Path, timeout: float = 35.0) -> int | None:
    """End the gateway of a data directory orderly: requests in flight finish. Returns its process number, if any."""
    found = find(data)
    if found is None:
        return None
    _end(found, timeout)
    address_path(data).unlink(missing_ok=True)
    return found.pid


def _end(process: psutil.Process, timeout: float = 35.0) -> None:
    try:
        process.terminate()
        process.wait(timeout)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.NoSuchProcess:
        pass
