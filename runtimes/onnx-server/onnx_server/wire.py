"""What the server and its worker processes say to each other over a socket pair.

A message is its length (8 bytes, little endian) and a pickle. Both ends are this package, started by the same user, so
a pickle is no wider a door than the user's own kernel code already is. Nothing beyond the standard library is imported,
so that a kernel written against ``redhareapi`` starts quickly.

The worker speaks first: ``Ready`` or ``Refused``. After that the server sends tuples of a batch's outputs and items,
and the worker answers each with a list that holds, for each of the items, an answer or a ``Failure``. Arrays travel as
``tensors.freeze`` makes them, which is several times faster than pickling arrays themselves.
"""

from __future__ import annotations

import json
import pickle
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any

LENGTH = struct.Struct("<Q")
WORKER_FD = "ONNX_SERVER_WORKER_FD"
"""Environment variable with the number of the worker's end of the socket pair."""
MODEL_DESCRIPTION = "ONNX_SERVER_MODEL_DESCRIPTION"
"""Environment variable with the JSON text of a WMLA kernel's ``model.json``."""
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model.

    Attributes:
        shape: with -1 for sizes that vary; None if not even the rank is fixed.
        labels: what the columns of an output stand for: the classes of a classifier's probabilities.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None
    labels: tuple[str | int, ...] = ()

    @property
    def parameters(self) -> dict[str, str]:
        """What the protocol says of it beside that, whose parameters are texts and numbers: lists are JSON's text."""
        return {"class_labels": json.dumps(self.labels, ensure_ascii=False)} if self.labels else {}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a loaded model is.

    Attributes:
        platform: ``onnxruntime_onnx``, ``python`` or ``redhare``.
        provider: the execution provider that is really used.
        nodes: how many nodes of the model's graph each provider runs; empty where that is not known.
        open_inputs: the model takes inputs of any name, type and shape; ``inputs`` is then only a hint.
        text: the model takes the request's body and gives the answer's body, both as text.
        batching: requests may be put together along the first dimension.
        known_inputs: ``inputs`` by name.
        told: parameters of the outputs that have some, by name.
        notes: sentences about what is served differently than one may expect.
    """

    platform: str
    provider: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    open_inputs: bool = False
    text: bool = False
    batching: bool = False
    notes: tuple[str, ...] = ()
    nodes: dict[str, int] = field(default_factory=dict)
    known_inputs: dict[str, TensorSpec] = field(init=False, compare=False, repr=False)
    told: dict[str, dict[str, str]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Index the inputs once, as every request looks for its own."""
        object.__setattr__(self, "known_inputs", {one.name: one for one in self.inputs})
        object.__setattr__(self, "told", {one.name: told for one in self.outputs if (told := one.parameters)})


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and warm."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Refused:
    """The model cannot be served; the worker ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """One request failed; ``status`` is the HTTP status to answer with."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests to run together. Items are dicts of arrays, or texts; ``outputs`` empty means all outputs."""

    outputs: tuple[str, ...] = ()
    items: list[Any] = field(default_factory=list)


def pack(message: object) -> bytes:
    """A message as bytes, length first."""
    body = pickle.dumps(message, protocol=5)
    return LENGTH.pack(len(body)) + body


def send(sock: socket.socket, message: object) -> None:
    """Send a message; blocks until the kernel has it."""
    sock.sendall(pack(message))


class Unpacker:
    """Puts messages together from pieces as they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Take a piece; returns the messages that are complete now, oldest first."""
        if not self._buffer and len(data) > LENGTH.size and LENGTH.unpack_from(data)[0] == len(data) - LENGTH.size:
            return [pickle.loads(memoryview(data)[LENGTH.size :])]
        self._buffer += data
        messages = []
        while (end := self._end()) is not None:
            with memoryview(self._buffer) as view:
                messages.append(pickle.loads(view[LENGTH.size : end].tobytes()))
            del self._buffer[:end]
        return messages

    def _end(self) -> int | None:
        if len(self._buffer) < LENGTH.size:
            return None
        end = LENGTH.size + int(LENGTH.unpack_from(self._buffer)[0])
        return end if len(self._buffer) >= end else None


class Receiver:
    """Takes messages from a socket, one after the other.

    Args:
        sock: a blocking socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unpacker = Unpacker()
        self._messages: deque[Any] = deque()

    def next(self) -> Any | None:
        """The next message; blocks. None when the other end is closed."""
        while not self._messages:
            try:
                data = self._sock.recv(_CHUNK)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._messages.extend(self._unpacker.feed(data))
        return self._messages.popleft()
