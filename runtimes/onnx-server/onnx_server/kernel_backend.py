"""Python kernels: a user's own code as a model.

A kernel is a class with ``load(self, path)``, called once with the folder of the model, and
``predict(self, inputs)``, which takes a dict of numpy arrays and returns one. ``BYTES`` tensors are object arrays of
``bytes``; as outputs, strings are taken too. It may also have:

``inputs``, ``outputs``
    lists of ``(name, datatype, shape)``, with -1 or None for sizes that vary; the datatype is the protocol's (``FP32``)
    or numpy's (``float32``). Requests are then held against ``inputs``, which whoever asks for the model is told.
``batching``
    True lets requests of equal shape be put together along the first dimension.

That folder, which is the working folder too, is a copy of the model's folder as it was (see ``sources.Copy``): what the
kernel writes there leaves the model's folder alone, and goes when the version is unloaded.

A ``ValueError`` of ``predict`` is answered 400 with its text, anything else 500.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from onnx_server import wire
from onnx_server.errors import LoadError, RequestError, bad
from onnx_server.kernel_names import DEFAULT_MODULE
from onnx_server.rows import join, rows_of, split
from onnx_server.tensors import DATATYPES, DTYPES, Array, objects
from onnx_server.wire import ModelSpec, TensorSpec
from onnx_server.worker import WorkerPlan


class KernelBackend:
    """A user's kernel.

    Args:
        plan: what to load; ``path`` is the model's folder, ``kernel`` is ``module:Class`` or empty.

    Raises:
        LoadError: the kernel cannot be imported, made or loaded.
    """

    def __init__(self, plan: WorkerPlan) -> None:
        sys.path.insert(0, plan.path)
        os.chdir(plan.path)
        try:
            self._kernel = find_class(plan.kernel)()
            self._kernel.load(plan.path)
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"the kernel in {plan.path} {_why_not(error)}") from error
        inputs, outputs = _declared(self._kernel, "inputs"), _declared(self._kernel, "outputs")
        self._outputs = tuple(output.name for output in outputs)
        self._batching = bool(getattr(self._kernel, "batching", False)) and plan.max_batch > 1
        self.spec = ModelSpec("python", "python", inputs, outputs, open_inputs=not inputs, batching=self._batching)

    def run(self, batch: wire.Batch) -> list[Any]:
        """Answers of a batch; several items only where the kernel allows batching."""
        items = batch.items
        if len(items) == 1:
            return [self._predict(batch.outputs, items[0])]
        return split(self._predict(batch.outputs, join(items)), [rows_of(item) for item in items])

    def _predict(self, wanted: tuple[str, ...], inputs: dict[str, Array]) -> dict[str, Array]:
        try:
            # What came over the wire is read-only, and a kernel may well work in place.
            found = self._kernel.predict({name: np.array(array) for name, array in inputs.items()})
        except ValueError as error:
            traceback.print_exc()  # it may as well be a mistake in the kernel
            raise bad(f"the kernel does not take these inputs: {error}") from error
        if not isinstance(found, Mapping):
            raise RequestError(500, f"the kernel returned a {type(found).__name__}, not a dict of arrays")
        if missing := [name for name in wanted or self._outputs if name not in found]:
            # Outputs that a kernel has declared and does not give are its own fault, others the caller's.
            status = 500 if set(missing) & set(self._outputs) else 400
            raise RequestError(status, f"the kernel gave no output '{missing[0]}'; it gave {', '.join(found)}")
        return {name: _plain(name, found[name]) for name in wanted or found}


def _why_not(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"needs the Python package '{package}', which is missing here; --image IMAGE runs it where there is one"
    return f"failed to load: {type(error).__name__}: {error}"


def find_class(kernel: str) -> type[Any]:
    """The kernel's class.

    Args:
        kernel: ``module:Class``; ``module`` alone or nothing stand for the only class with ``load`` and ``predict`` in
            that module, or in ``kernel``.

    Raises:
        LoadError: there is none, or more than one.
    """
    module_name, _, class_name = kernel.partition(":")
    module = importlib.import_module(module_name or DEFAULT_MODULE)
    if class_name:
        found = getattr(module, class_name, None)
        if not inspect.isclass(found) or not _is_kernel(found):
            raise LoadError(f"'{kernel}' is no class with the methods load and predict")
        return found
    candidates = [one for one in vars(module).values() if inspect.isclass(one) and _is_kernel(one)]
    own = [one for one in candidates if one.__module__ == module.__name__]
    if len(own) != 1:
        names = ", ".join(one.__name__ for one in own) or "none"
        raise LoadError(f"{module.__name__} must have one class with load and predict; found: {names}. Use --kernel")
    return own[0]


def _is_kernel(one: type[Any]) -> bool:
    return callable(getattr(one, "load", None)) and callable(getattr(one, "predict", None))


def _declared(kernel: Any, which: str) -> tuple[TensorSpec, ...]:
    tensors: Iterable[Any] = getattr(kernel, which, ())
    try:
        specs = tuple(TensorSpec(str(name), _datatype(kind), _sizes(shape)) for name, kind, shape in tensors)
    except (TypeError, ValueError) as error:
        raise LoadError(f"the kernel's {which} must be a list of (name, datatype, shape): {error}") from error
    for spec in specs:
        if spec.datatype not in DTYPES:
            raise LoadError(f"the kernel's {which}: '{spec.name}' is {spec.datatype}, not one of {', '.join(DTYPES)}")
    return specs


def _datatype(kind: Any) -> str:
    """The protocol's name of a type; what is none is given back, to be refused by it."""
    if isinstance(kind, str) and kind in DTYPES:
        return kind
    try:
        found = np.dtype(kind).newbyteorder("<")
    except TypeError:
        return str(kind)
    return "BYTES" if found.kind in "SUO" else DATATYPES.get(found, str(kind))


def _sizes(shape: Iterable[Any]) -> tuple[int, ...]:
    return tuple(-1 if size is None else int(size) for size in shape)


def _plain(name: str, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        elements = [one.encode() if isinstance(one, str) else one for one in array.reshape(-1)]
        if all(isinstance(one, bytes) for one in elements):
            return objects(elements, array.shape)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype not in DATATYPES or array.dtype.kind == "O":
        raise RequestError(500, f"the kernel's output '{name}' is {array.dtype}, which the protocol has no type for")
    return array
