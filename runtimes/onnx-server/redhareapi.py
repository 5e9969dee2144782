"""The interface of elastic inference kernels of Watson Machine Learning Accelerator (module ``redhareapi``).

A kernel written for that platform runs unchanged: a subclass of ``Kernel`` with ``on_kernel_start``,
``on_task_invoke`` and ``on_kernel_shutdown``, started by ``run()``. onnx_server starts the kernel's file as a process
of its own; requests come over the socket pair that it hands over.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from onnx_server import wire
from onnx_server.worker import settle_in

_PLATFORM = "redhare"


class KernelContext:
    """What a kernel is told when it starts."""

    def __init__(self, instance: str, description: str) -> None:
        self._instance, self._description = instance, description

    def get_id(self) -> str:
        """Name of this instance of the model."""
        return self._instance

    def get_instance_id(self) -> str:
        """Name of this instance of the model."""
        return self._instance

    def get_model_description(self) -> str:
        """JSON text of the description: ``model_path`` (the model's folder), ``weight_path``, ``attributes`` ..."""
        return self._description


class TaskContext:
    """One request, and the way to the next one of the same batch."""

    def __init__(self, number: int, text: str, following: TaskContext | None) -> None:
        self._number, self._input, self._following = number, text, following
        self.output: str | None = None
        """What the kernel has answered; None until then."""

    def get_id(self) -> str:
        """Number of the request within its batch, from 0."""
        return str(self._number)

    def get_session_id(self) -> str:
        """Requests have no sessions here: as :meth:`get_id`."""
        return self.get_id()

    def get_model_name(self) -> str:
        """Name of the model."""
        return _described("name")

    def get_version(self) -> str:
        """Tag of the model."""
        return _described("tag")

    def get_input_data(self) -> str:
        """The request's text."""
        return self._input

    def set_output_data(self, output_data: str) -> None:
        """Answer the request."""
        self.output = output_data

    def next(self) -> TaskContext | None:
        """The next request; None after the last one."""
        return self._following


class _Started:
    """A method that kernels call on an instance, or on a class: then of a new instance, for ``Kernel`` itself of the
    class that was made last."""

    def __init__(self, method: Callable[[Any], None]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, kernel: Any, kind: Any) -> Callable[[], None]:
        if kernel is None:
            kernel = (Kernel.__subclasses__()[-1] if kind is Kernel and Kernel.__subclasses__() else kind)()
        return partial(self._method, kernel)


class Kernel:
    """Base of a user's kernel."""

    def on_kernel_start(self, kernel_context: KernelContext) -> None:
        """Load the model."""

    def on_task_invoke(self, task_context: TaskContext | None) -> None:
        """Answer ``task_context`` and those that follow it."""
        raise TypeError(f"{type(self).__name__} has no method on_task_invoke")

    def on_kernel_shutdown(self) -> None:
        """Clean up."""

    @_Started
    def run(self) -> None:
        """Serve until the server ends.

        Raises:
            RuntimeError: this process was not started by onnx_server.
        """
        if wire.WORKER_FD not in os.environ:
            raise RuntimeError("a kernel is started by: python -m onnx_server --model-dir FOLDER --name NAME")
        sock = settle_in()
        description = os.environ[wire.MODEL_DESCRIPTION]
        try:
            self.on_kernel_start(KernelContext(f"{type(self).__name__}-{os.getpid()}", description))
        except Exception as error:
            traceback.print_exc()
            wire.send(sock, wire.Refused(f"on_kernel_start failed: {type(error).__name__}: {error}"))
            return
        wire.send(sock, wire.Ready(wire.ModelSpec(_PLATFORM, _PLATFORM, text=True, batching=True)))
        receiver = wire.Receiver(sock)
        while (message := receiver.next()) is not None:
            wire.send(sock, self._answer(message[1]))
        self.on_kernel_shutdown()

    def _answer(self, texts: list[str]) -> list[Any]:
        tasks: list[TaskContext] = []
        for number in reversed(range(len(texts))):
            tasks.insert(0, TaskContext(number, texts[number], tasks[0] if tasks else None))
        reason = "the kernel gave no answer"
        try:
            self.on_task_invoke(tasks[0])
        except Exception as error:
            traceback.print_exc()
            reason = f"the kernel failed: {type(error).__name__}: {error}"
        return [wire.Failure(500, reason) if task.output is None else str(task.output) for task in tasks]

    @staticmethod
    def log_debug(message: str) -> None:
        """Write a line to the log."""
        _log("D", message)

    @staticmethod
    def log_info(message: str) -> None:
        """Write a line to the log."""
        _log("I", message)

    @staticmethod
    def log_warn(message: str) -> None:
        """Write a line to the log."""
        _log("W", message)

    @staticmethod
    def log_error(message: str) -> None:
        """Write a line to the log."""
        _log("E", message)


def _described(member: str) -> str:
    return str(json.loads(os.environ[wire.MODEL_DESCRIPTION]).get(member, ""))


def _log(level: str, message: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}: {level} {message}", file=sys.stderr, flush=True)
