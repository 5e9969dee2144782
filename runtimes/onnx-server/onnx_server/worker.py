"""The worker process: loads one version of a model and runs what the server sends.

Started as ``python -m onnx_server.worker`` with a ``WorkerPlan`` in its only argument.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import traceback
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from onnx_server import wire
from onnx_server.errors import LoadError, RequestError

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What a worker loads, and how.

    Attributes:
        kind: ``onnx``, ``python`` or ``redhare``.
        path: the ONNX file, or the folder of the kernel.
        kernel: ``module:Class`` of a Python kernel.
        provider: ``auto``, ``cpu`` or ``cuda``.
        allow_cpu_fallback: run on the CPU where CUDA was wanted and does not work.
        threads: threads that one operator may use; 0 means as many as the process has CPUs.
        memory_limit: bytes of the worker's private memory, and on CUDA of the device's arena; 0 means no limit.
        max_batch: rows that are run together at most.
    """

    kind: str
    path: str
    name: str
    kernel: str = ""
    provider: str = "auto"
    allow_cpu_fallback: bool = False
    threads: int = 0
    memory_limit: int = 0
    max_batch: int = 1

    def text(self) -> str:
        """The plan as a command's argument."""
        return json.dumps(asdict(self))


class Backend(Protocol):
    """A loaded model."""

    @property
    def spec(self) -> wire.ModelSpec:
        """What was loaded."""

    def run(self, batch: wire.Batch) -> list[Any]:
        """One answer or ``Failure`` for each item, in the items' order."""


def load(plan: WorkerPlan) -> Backend:
    """Load and warm up a model.

    Raises:
        LoadError: it cannot be served.
    """
    if plan.kind == "onnx":
        from onnx_server.onnx_backend import OnnxBackend

        return OnnxBackend(plan)
    from onnx_server.kernel_backend import KernelBackend

    return KernelBackend(plan)


def serve(sock: socket.socket, plan: WorkerPlan) -> int:
    """Load, say so, and answer batches until the server closes the socket; returns the exit status."""
    try:
        backend = load(plan)
    except LoadError as error:
        wire.send(sock, wire.Refused(str(error)))
        return 1
    except MemoryError:
        wire.send(sock, wire.Refused(f"the model does not fit into the memory limit of {plan.memory_limit} bytes"))
        return 1
    # Not earlier: a kernel that only takes text needs no numpy.
    from onnx_server.tensors import freeze, thaw

    wire.send(sock, wire.Ready(backend.spec))
    receiver = wire.Receiver(sock)
    while (message := receiver.next()) is not None:
        outputs, items = message
        answers = answer(backend, wire.Batch(outputs, [thaw(item) for item in items]))
        wire.send(sock, [one if isinstance(one, wire.Failure) else freeze(one) for one in answers])
    return 0


def answer(backend: Backend, batch: wire.Batch) -> list[Any]:
    """Run a batch. If it fails as a whole, each item is run by itself, so that only the faulty ones fail."""
    try:
        return backend.run(batch)
    except Exception as error:
        if len(batch.items) == 1:
            return [failure(error)]
    return [answer(backend, wire.Batch(batch.outputs, [item]))[0] for item in batch.items]


def failure(error: Exception) -> wire.Failure:
    """What the caller is told; the whole story goes to the log."""
    if isinstance(error, RequestError):
        return wire.Failure(error.status, error.message)
    traceback.print_exc()
    if isinstance(error, MemoryError):
        return wire.Failure(503, "the model ran out of memory on this request")
    return wire.Failure(500, f"the model failed: {type(error).__name__}: {error}")


def settle_in() -> socket.socket:
    """Make this process a worker: it ends with the server, and only the server ends it.

    Returns:
        The connection to the server.
    """
    # A signal to the whole process group asks the server, which lets its workers finish what they have.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return socket.socket(fileno=int(os.environ.pop(wire.WORKER_FD)))


def main() -> int:
    """Run a worker; returns its exit status."""
    plan = WorkerPlan(**json.loads(sys.argv[1]))
    return serve(settle_in(), plan)


if __name__ == "__main__":
    sys.exit(main())
