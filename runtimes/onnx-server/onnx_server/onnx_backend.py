"""ONNX models through onnxruntime."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]

from onnx_server import maps, wire
from onnx_server.cpus import available_cpus
from onnx_server.errors import LoadError, RequestError, bad
from onnx_server.locales import StandIns, missing
from onnx_server.maps import Columns, mend
from onnx_server.rows import join, rows_of, split
from onnx_server.tensors import Array, aligned, objects
from onnx_server.warmup import Probe, probe
from onnx_server.wire import ModelSpec, TensorSpec
from onnx_server.worker import WorkerPlan

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_CALLERS_FAULT = ("InvalidArgument",)
_ABOUT_THESE = ("Fail", "RuntimeException")
"""What operators fail with when sizes don't go together, say."""
_OUT_OF_MEMORY = ("bad allocation", "bad_alloc", "Failed to allocate memory", "out of memory")
_QUIET, _SILENT = 3, 4
"""From errors on, and not even those: each comes as an exception, too."""
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


class OnnxBackend:
    """One ONNX model in a session of onnxruntime.

    Args:
        plan: what to load; ``path`` is the ONNX file.

    Raises:
        LoadError: the file is no usable model, or the provider is not the wanted one.
    """

    def __init__(self, plan: WorkerPlan) -> None:
        self._session, provider, nodes, notes = open_session(plan)
        self._columns = Columns()
        self._has_run = False
        self._texts = {one.name for one in self._session.get_inputs() if one.type == "tensor(string)"}
        inputs, outputs, unserved = _tensors(self._session)
        self._outputs = tuple(output.name for output in outputs)
        result = self._warm_up(inputs, outputs, plan.max_batch)
        notes = [*notes, *unserved, *([result.note] if result.note else [])]
        self._batching = result.batching
        outputs = tuple(self._labelled(one) for one in outputs)
        self.spec = ModelSpec(
            "onnxruntime_onnx",
            provider,
            inputs,
            outputs,
            batching=result.batching,
            notes=tuple(notes),
            nodes=nodes or {},
        )

    def _warm_up(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch: int) -> Probe:
        named = [(_first(one.shape), _first(two.shape)) for one, two in _pairs(self._session)]
        return probe(lambda arrays: self._run(self._outputs, arrays), inputs, outputs, named, max_batch)

    def _labelled(self, output: TensorSpec) -> TensorSpec:
        labels = self._columns.labels(output.name)
        return replace(output, shape=(-1, len(labels)), labels=labels) if labels else output

    def run(self, batch: wire.Batch) -> list[Any]:
        """Answers of a batch whose items have equal types and, but for the first, equal sizes."""
        outputs = batch.outputs or self._outputs
        if len(batch.items) == 1:
            return [self._run(outputs, batch.items[0])]
        if not self._batching:
            raise RequestError(500, "this model takes one request at a time")
        rows = [rows_of(item) for item in batch.items]
        return split(self._run(outputs, join(batch.items)), rows)

    def _run(self, outputs: Sequence[str], inputs: dict[str, Array]) -> dict[str, Array]:
        feed = {name: _texts(name, one) if name in self._texts else aligned(one) for name, one in inputs.items()}
        try:
            found = self._session.run(outputs, feed)
        except Exception as error:
            raise _translated(error, inputs if self._has_run else {}) from error
        self._has_run = True
        return {name: self._plain(name, one) for name, one in zip(outputs, found, strict=True)}

    def _plain(self, name: str, found: Any) -> Array:
        if isinstance(found, list):
            return self._columns.tensor(name, found)
        array = np.asarray(found)
        if array.dtype.kind == "O":
            return objects([text.encode() for text in array.reshape(-1)], array.shape)
        return array


def open_session(plan: WorkerPlan) -> tuple[ort.InferenceSession, str, dict[str, int] | None, list[str]]:
    """Open a session.

    Returns:
        The session, the provider that runs the model, the number of nodes that each provider runs (None where
        onnxruntime does not tell) and what to tell about that.

    Raises:
        LoadError: the file is no usable model, or CUDA was wanted and does not run it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = plan.threads or available_cpus()
    # Threads that spin while they wait take the CPU from the process that speaks HTTP.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    wants_cuda = plan.provider == "cuda" or (plan.provider == "auto" and gpus_visible())
    providers: list[Any] = [CPU]
    if wants_cuda and CUDA in ort.get_available_providers():
        ort.preload_dlls()
        options.log_severity_level = _QUIET  # why it could not be started is said in its log alone
        arena = {"gpu_mem_limit": str(plan.memory_limit)} if plan.memory_limit else {}
        providers = [(CUDA, arena), CPU]
    session = _open(plan.path, options, providers)
    session.disable_fallback()
    nodes = nodes_by_provider(session)
    used = provider_used(session.get_providers(), nodes)
    notes = [] if nodes is not None else ["this onnxruntime does not tell which provider runs which node"]
    if wants_cuda and (reason := why_not_cuda(ort.get_available_providers(), session.get_providers(), nodes)):
        if not plan.allow_cpu_fallback:
            raise LoadError(f"{reason}; --allow-cpu-fallback would serve on the CPU")
        notes.append(f"{reason}; served on the CPU")
    return session, used, nodes, notes


def _open(path: str, options: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    with StandIns() as locales:
        while True:
            try:
                return ort.InferenceSession(path, options, providers=providers)
            except Exception as error:
                if not locales.help(str(error)):
                    raise LoadError(_why_not(path, error)) from error


def nodes_by_provider(session: ort.InferenceSession) -> dict[str, int] | None:
    """How many of a model's nodes each provider runs, those of its inner graphs included, before some are fused.

    Empty for a model of which optimization left no node; None where onnxruntime (before 1.24) does not tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[str(part.ep_name)] += len(part.get_nodes())
    return dict(counts)


def provider_used(registered: Sequence[str], nodes: Mapping[str, int] | None) -> str:
    """The provider that runs the model: the most wanted one that has at least one node.

    Args:
        registered: the session's providers, the most wanted first; the last one is the CPU's.
        nodes: as of ``nodes_by_provider``.
    """
    if nodes is None:
        return registered[0]
    return next((name for name in registered if nodes.get(name)), registered[-1])


def why_not_cuda(available: Sequence[str], registered: Sequence[str], nodes: Mapping[str, int] | None) -> str:
    """Why a model does not run on CUDA; empty where it does.

    One node is enough: onnxruntime itself leaves a few on the CPU, such as those that reckon with shapes. A model
    without nodes needs no provider.

    Args:
        available: providers that this onnxruntime has.
        registered: providers that the session has.
        nodes: as of ``nodes_by_provider``.
    """
    if CUDA not in available:
        return f"CUDA is wanted, but this onnxruntime offers {', '.join(available)}"
    if CUDA not in registered:
        return "CUDA is wanted, but onnxruntime could not start it on this machine (its log says why)"
    if not nodes or nodes.get(CUDA):
        return ""
    return f"CUDA is wanted, but it can run none of the model's nodes ({sum(nodes.values())} run on {', '.join(nodes)})"


def gpus_visible() -> bool:
    """Whether this process may use an NVIDIA GPU."""
    for variable, hidden in (("CUDA_VISIBLE_DEVICES", {"", "-1"}), ("NVIDIA_VISIBLE_DEVICES", {"", "void", "none"})):
        if os.environ.get(variable, "all").strip() in hidden:
            return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def _why_not(path: str, error: Exception) -> str:
    text = _words(error)
    if locale := missing(text):
        return (
            f"{path} changes the case of letters by the rules of the locale '{locale}', which this system lacks; "
            "install it, or export the model with the attribute locale='C.UTF-8'"
        )
    if any(sign in text for sign in _OUT_OF_MEMORY):
        return f"{path} does not fit into the memory limit: {text}"
    if type(error).__name__ in {"InvalidProtobuf", "NoSuchFile"} or "does not have a graph" in text:
        return f"{path} is not a whole ONNX model: {text}"
    if "opset" in text.lower() or "ir version" in text.lower():
        return f"{path} is made for a newer ONNX than onnxruntime {ort.__version__} knows: {text}"
    return f"{path} cannot be loaded: {text}"


def _words(error: Exception) -> str:
    """What onnxruntime says, on one line, its own bookkeeping left out."""
    text = _PREFIX.sub("", " ".join(str(error).split()))
    return text or type(error).__name__


def _tensors(session: ort.InferenceSession) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], list[str]]:
    for one in session.get_inputs():
        if one.type not in _DATATYPES:
            raise LoadError(f"input '{one.name}' is {one.type}, which the protocol has no type for; {mend(one.type)}")
    unserved = [
        f"output '{one.name}' is not served: it is {one.type}, which the protocol has no type for; {mend(one.type)}"
        for one in session.get_outputs()
        if one.type not in _DATATYPES and one.type not in maps.DATATYPES
    ]
    outputs = tuple(found for one in session.get_outputs() if (found := _output(one)) is not None)
    if not outputs:
        raise LoadError("; ".join(unserved) or "the model has no output")
    return tuple(_spec(one) for one in session.get_inputs()), outputs, unserved


def _output(one: ort.NodeArg) -> TensorSpec | None:
    if one.type in maps.DATATYPES:
        return TensorSpec(one.name, maps.DATATYPES[one.type], (-1, -1))
    return _spec(one) if one.type in _DATATYPES else None


def _spec(one: ort.NodeArg) -> TensorSpec:
    # onnxruntime gives [] both for a scalar and for a tensor of unknown rank.
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in one.shape) if one.shape else None
    return TensorSpec(one.name, _DATATYPES[one.type], shape)


def _pairs(session: ort.InferenceSession) -> list[tuple[ort.NodeArg, ort.NodeArg]]:
    served = [one for one in session.get_outputs() if one.type in _DATATYPES]
    return [(one, two) for one in session.get_inputs() for two in served]


def _first(shape: Sequence[Any]) -> str | None:
    """The name of the first dimension, where it has one."""
    return shape[0] if shape and isinstance(shape[0], str) else None


def _texts(name: str, array: Array) -> Array:
    """Strings as onnxruntime takes them."""
    texts = np.empty(math.prod(array.shape), dtype=object)
    try:
        texts[:] = [element.decode() for element in array.reshape(-1)]
    except UnicodeDecodeError:
        raise bad(f"input '{name}': the model takes text in UTF-8") from None
    return texts.reshape(array.shape)


def _translated(error: Exception, inputs: Mapping[str, Array]) -> Exception:
    """What a caller is told of a failed run.

    Args:
        inputs: of a model that has taken others before, so that a failure is about these; else empty.
    """
    text = _words(error)
    if any(sign in text for sign in _OUT_OF_MEMORY):
        return RequestError(503, f"the model ran out of memory on this request: {text}")
    if type(error).__name__ in _CALLERS_FAULT:
        return bad(f"the model does not take these inputs: {text}")
    if inputs and type(error).__name__ in _ABOUT_THESE and "CUDA" not in text and "CUDNN" not in text:
        given = ", ".join(f"'{name}' {list(array.shape)}" for name, array in inputs.items())
        return bad(f"the model does not take these inputs ({given}): {text}")
    if "CUDA failure" in text or "CUDNN" in text:
        # A CUDA context does not recover from most errors: end, so that a fresh worker takes over.
        os._exit(70)
    return error
