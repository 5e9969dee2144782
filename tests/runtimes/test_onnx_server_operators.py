"""ONNX's own tests of its operators, of every domain: what onnxruntime has a kernel for is served, bit for bit as it
answers itself, or refused with the type that the protocol has no name for and what to do."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers.counts import count
from helpers.onnx_bench import ROOT, packed
from onnx import numpy_helper

sys.path.insert(0, str(ROOT))
from onnx_server import errors, maps, protocol, tensors, wire, worker

pytestmark = pytest.mark.timeout(900)
Array = np.ndarray[Any, Any]
EACH = 40
"""The short form tries one of so many."""
REFUSED = ("seq(tensor(", "optional(", "tensor(bfloat16)", "tensor(float8", "tensor(int4)", "tensor(uint4)")
REFUSED += ("tensor(int2)", "tensor(uint2)", "tensor(float4", "map(", "sparse_tensor")
"""Types of inputs and outputs, as onnxruntime writes them, that the Open Inference Protocol has no name for."""


@cache
def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return list(collect_testcases(None))


def options() -> ort.SessionOptions:
    found = ort.SessionOptions()
    found.log_severity_level = 4
    found.intra_op_num_threads = 1
    return found


def fed(case: Any, session: ort.InferenceSession) -> list[dict[str, Any]]:
    """The inputs of each of a test's runs."""
    wanted = {one.name for one in session.get_inputs()}
    names = [one.name for one in case.model.graph.input]
    return [
        {name: _array(value) for name, value in zip(names, inputs, strict=False) if name in wanted}
        for inputs, _ in case.data_sets
    ]


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "USO":
        return value.astype(object)
    return tensors.aligned(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value


def body(inputs: dict[str, Array]) -> tuple[bytes, int]:
    """A binary request, and the length of its JSON."""
    blobs = [
        packed(*(one if isinstance(one, bytes) else one.encode() for one in array.ravel()))
        if array.dtype == object
        else array.tobytes()
        for array in inputs.values()
    ]
    described = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": tensors.DATATYPES[array.dtype],
            "parameters": {"binary_data_size": len(blob)},
        }
        for (name, array), blob in zip(inputs.items(), blobs, strict=True)
    ]
    head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(blobs), len(head)


def same(found: Array, right: Any, labels: tuple[Any, ...]) -> bool:
    if isinstance(right, list):
        right = np.array([[row[label] for label in labels] for row in right], "f4")
    right = np.asarray(right)
    if right.dtype.kind in "OU":
        return found.shape == right.shape and [*found.ravel()] == [one.encode() for one in right.ravel()]
    return (found.shape, found.dtype, found.tobytes()) == (right.shape, right.dtype, right.tobytes())


def tried(case: Any, path: Path) -> str:
    """What came of a test: ``no kernel``, ``not run by onnxruntime``, ``refused: why``, ``same`` or what is wrong."""
    onnx.save(case.model, path)
    try:
        session = ort.InferenceSession(str(path), options(), providers=["CPUExecutionProvider"])
    except Exception as error:
        return "no kernel" if "locale" not in str(error) else "not run by onnxruntime"
    try:
        backend = worker.load(worker.WorkerPlan("onnx", str(path), "m", provider="cpu", threads=1, max_batch=8))
    except errors.LoadError as error:
        return f"refused: {error}"
    if unserved := [note for note in backend.spec.notes if "is not served" in note]:
        return f"refused: {unserved[0]}"
    names = [one.name for one in session.get_outputs()]
    labels = {one.name: one.labels for one in backend.spec.outputs}
    for inputs in fed(case, session):
        try:
            right = session.run(names, inputs)
        except Exception:
            return "not run by onnxruntime"
        request = protocol.parse(*body(inputs), backend.spec)
        found = backend.run(wire.Batch((), [request.inputs]))[0]
        protocol.render(request, "m", "1", found)
        for name, one in zip(names, right, strict=True):
            if not same(found[name], one, labels[name]):
                return f"{name} is {found[name]!r}, not {one!r}"
    return "same"


def test_each_operator_is_served_as_onnxruntime_runs_it_or_refused_with_a_reason(
    tmp_path: Path, long_form: bool
) -> None:
    chosen = cases()[:: 1 if long_form else EACH]
    found = {case.name: tried(case, tmp_path / "model.onnx") for case in chosen}
    kinds = Counter(one.partition(":")[0] for one in found.values())
    count("operator tests answered alike", kinds["same"])
    count("operator tests refused with a reason", kinds["refused"])
    wrong = {name: one for name, one in found.items() if one.partition(":")[0] not in _RIGHT}
    assert wrong == {}
    for name, one in found.items():
        if one.startswith("refused"):
            assert any(kind in one for kind in REFUSED), (name, one)
            assert any(mend in one for mend in MENDS), (name, one)
    assert kinds["same"] > len(chosen) * 0.75, kinds


_RIGHT = {"same", "no kernel", "not run by onnxruntime", "refused"}
MENDS = {maps.mend(kind) for kind in ("map(", "seq(", "optional(", "tensor(bfloat16)")}


def test_the_answer_does_not_depend_on_where_the_request_lies(tmp_path: Path) -> None:
    """Sums begin where a processor's vectors do: at another address they were put together in another order."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in
            (("x", ["n"]), ("y", [])))  # fmt: skip
    graph = onnx.helper.make_graph([onnx.helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], "sum", [x], [y])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m"
    )
    backend = worker.load(worker.WorkerPlan("onnx", str(tmp_path / "m"), "m", provider="cpu", threads=1))
    numbers = np.random.default_rng(3).normal(0, 1, 999).astype("f4")
    answers = set()
    for offset in range(64):
        room = np.zeros(numbers.nbytes + 64, "u1")
        lying = np.frombuffer(room[offset:].data, "f4", count=999)
        np.copyto(room[offset : offset + numbers.nbytes], numbers.view("u1"))
        answers.add(backend.run(wire.Batch((), [{"x": lying}]))[0]["y"].tobytes())
    assert len(answers) == 1
