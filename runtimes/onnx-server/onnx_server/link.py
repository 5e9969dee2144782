"""The server's end of a worker process."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from onnx_server import wire
from onnx_server.errors import LoadError
from onnx_server.tensors import freeze, thaw
from onnx_server.worker import WorkerPlan

_ROOT = Path(__file__).resolve().parents[1]
_BUFFER = 4 << 20
_LAST_LOOK = 0.02
"""Seconds between a run's time being up and its end, for an answer that lies there already."""


class WorkerDied(Exception):
    """The worker ended before it answered; the text says how."""


class RunTimeout(WorkerDied):
    """The worker was killed, because its run took too long."""


Done = Callable[[list[Any] | WorkerDied], None]


class Worker(asyncio.Protocol):
    """A worker process with a loaded model; made by ``start``.

    Args:
        run_timeout: seconds that a run may take before the process is killed; 0 means no limit.
    """

    def __init__(self, run_timeout: float) -> None:
        self._run_timeout = run_timeout
        self._run_began = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._unpacker = wire.Unpacker()
        self._hello: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._done: Done | None = None
        self._transport: asyncio.Transport
        self._process: asyncio.subprocess.Process
        self._reaper: asyncio.Task[None]
        self._stopping = False
        self._death = ""
        self._on_death: Callable[[str], None] | None = None
        self.spec: wire.ModelSpec

    @staticmethod
    async def start(plan: WorkerPlan, run_timeout: float = 0.0) -> Worker:
        """Start a process, let it load and warm up its model.

        Args:
            plan: what to load.
            run_timeout: seconds that a run may take before the process is killed; 0 means no limit.

        Raises:
            LoadError: the model is refused, or the process died while it loaded.
        """
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        ours.setblocking(False)
        _, worker = await asyncio.get_running_loop().create_unix_connection(lambda: Worker(run_timeout), sock=ours)
        try:
            with theirs:
                await worker._spawn(plan, theirs.fileno())
            worker.spec = await worker._greeting()
        except BaseException:
            await worker.stop(at_once=True)
            raise
        return worker

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    async def _spawn(self, plan: WorkerPlan, fd: int) -> None:
        environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ, wire.WORKER_FD: str(fd)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "onnx_server.worker", plan.text()]
        folder = None
        if plan.kind == "redhare":
            from onnx_server.redhare import kernel_command

            command, folder, extra = kernel_command(plan)
            environment.update(extra)
        self._process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, pass_fds=(fd,))
        if plan.memory_limit:  # from outside, because a kernel of the user's own would not do it
            with suppress(ProcessLookupError):
                limits = (plan.memory_limit, plan.memory_limit)
                resource.prlimit(self._process.pid, resource.RLIMIT_DATA, limits)
        self._reaper = asyncio.create_task(self._reap())

    async def _greeting(self) -> wire.ModelSpec:
        hello = await self._hello
        if isinstance(hello, wire.Refused):
            raise LoadError(hello.reason)
        return hello.spec  # type: ignore[no-any-return]

    async def _reap(self) -> None:
        how = _how(await self._process.wait())
        if not self._hello.done():
            self._hello.set_exception(LoadError(f"the worker process ended while it loaded the model: {how}"))
        self._transport.close()
        if not self._death:  # otherwise it was given up, and that has been told
            self._die(WorkerDied(how))

    def _die(self, how: WorkerDied) -> None:
        self._death = str(how)
        if self._timer is not None:
            self._timer.cancel()
        # Who waits is told before the running batch is answered, which would hand over the next one.
        if not self._stopping and self._on_death is not None:
            self._on_death(self._death)
        self._finish(how)

    def watch(self, on_death: Callable[[str], None]) -> None:
        """Call back once, with a few words, when the process ends by itself or already has."""
        self._on_death = on_death
        if self._death:
            on_death(self._death)

    def run(self, batch: wire.Batch, done: Done) -> None:
        """Run a batch; one at a time.

        ``done`` gets the answers, or ``WorkerDied`` if the process ended first, or ``RunTimeout`` if it took too long.
        """
        if self._death:
            asyncio.get_running_loop().call_soon(done, WorkerDied(self._death))
            return
        # A plain callback: a coroutine of its own would cost as much as a small model's run.
        self._done = done
        self._transport.write(wire.pack((batch.outputs, [_frozen(item) for item in batch.items])))
        if self._run_timeout:
            self._run_began = time.monotonic()
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._run_timeout, self._look_at_run, False)

    def _look_at_run(self, is_last: bool) -> None:
        """One timer does for many runs: it finds out which one is there, and is set anew for what that has left."""
        self._timer = None
        if self._done is None:
            return
        left = self._run_began + self._run_timeout - time.monotonic()
        if left <= 0 and is_last:
            self._process.kill()
            self._die(RunTimeout(f"killed, as a run took longer than {self._run_timeout:g} s"))
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(left, _LAST_LOOK), self._look_at_run, left <= 0)

    async def stop(self, *, at_once: bool = False, grace: float = 5.0) -> None:
        """End the process: it finishes what it has, or is killed after ``grace`` seconds (or ``at_once``)."""
        self._stopping = True
        self._transport.close()
        if not hasattr(self, "_process"):
            return
        if not at_once:
            await asyncio.wait([self._reaper], timeout=grace)
        if self._process.returncode is None:
            self._process.kill()
        await self._reaper

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is no subclass

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        for message in self._unpacker.feed(data):
            if self._hello.done():
                self._finish([_thawed(answer) for answer in message])
            else:
                self._hello.set_result(message)

    def _finish(self, answers: list[Any] | WorkerDied) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answers)


def _frozen(item: Any) -> Any:
    return item if isinstance(item, str) else freeze(item)


def _thawed(answer: Any) -> Any:
    return thaw(answer) if isinstance(answer, dict) else answer


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory, or killed by hand)" if name == "SIGKILL" else ""
    return f"{name}{hint}"
