"""Which provider really runs a model, and what is made of that."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers.onnx_bench import ROOT, matmul, mixing, save, serving, tensor
from onnx import TensorProto, helper

sys.path.insert(0, str(ROOT))
from onnx_server import onnx_backend, worker

CPU, CUDA = onnx_backend.CPU, onnx_backend.CUDA


def folded() -> onnx.GraphProto:
    """y = 1 + 2, whatever x is: optimization leaves no node of it."""
    return helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        "folded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("a", TensorProto.FLOAT, [1], [1]), helper.make_tensor("b", TensorProto.FLOAT, [1], [2])],
    )


def plan(folder: Path, graph: onnx.GraphProto, **options: object) -> worker.WorkerPlan:
    return worker.WorkerPlan("onnx", str(save(folder / "m", graph)), "m", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("registered", "nodes", "used"),
    [
        ([CUDA, CPU], {CUDA: 12, CPU: 1}, CUDA),
        ([CUDA, CPU], {CPU: 13}, CPU),
        ([CUDA, CPU], {}, CPU),
        ([CPU], {CPU: 1}, CPU),
        ([CPU], {}, CPU),
        ([CUDA, CPU], None, CUDA),
    ],
)
def test_the_provider_is_the_one_that_has_nodes_to_run(
    registered: list[str], nodes: dict[str, int] | None, used: str
) -> None:
    assert onnx_backend.provider_used(registered, nodes) == used


@pytest.mark.parametrize(
    ("available", "registered", "nodes", "why"),
    [
        ([CUDA, CPU], [CUDA, CPU], {CUDA: 12, CPU: 1}, ""),
        ([CUDA, CPU], [CUDA, CPU], {CUDA: 1}, ""),
        ([CUDA, CPU], [CUDA, CPU], {}, ""),
        ([CUDA, CPU], [CUDA, CPU], None, ""),
        ([CUDA, CPU], [CUDA, CPU], {CPU: 13}, f"it can run none of the model's nodes (13 run on {CPU})"),
        ([CUDA, CPU], [CPU], {CPU: 13}, "could not start it on this machine"),
        ([CPU], [CPU], {CPU: 13}, f"this onnxruntime offers {CPU}"),
    ],
)
def test_one_node_on_cuda_is_enough_and_none_is_told(
    available: list[str], registered: list[str], nodes: dict[str, int] | None, why: str
) -> None:
    found = onnx_backend.why_not_cuda(available, registered, nodes)
    assert why in found
    assert bool(found) == bool(why)


def test_the_nodes_that_are_told_are_those_that_run(tmp_path: Path) -> None:
    _, used, nodes, notes = onnx_backend.open_session(plan(tmp_path, mixing()))
    assert (used, nodes, notes) == (CPU, {CPU: 2}, [])
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = ort.InferenceSession(str(tmp_path / "m" / "model.onnx"), options, providers=[CPU])
    session.run(None, {"x": np.ones((1, 2), "f4")})
    events = json.loads(Path(session.end_profiling()).read_text())
    assert [event["args"]["provider"] for event in events if event["name"].endswith("_kernel_time")] == [CPU] * 2


def test_inner_graphs_count(tmp_path: Path) -> None:
    branch = [
        helper.make_graph(
            [helper.make_node(kind, ["x"], [name])], name, [], [helper.make_empty_tensor_value_info(name)]
        )
        for kind, name in (("Neg", "then"), ("Abs", "else"))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["s"], keepdims=0),
            helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
            helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1]),
        ],
        "choice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    session, _, nodes, _ = onnx_backend.open_session(plan(tmp_path, graph))
    assert nodes == {CPU: 5}
    assert session.run(None, {"x": np.array([1, 2], "f4")})[0].tolist() == [-1, -2]


def test_metadata_tells_how_many_nodes_run_where(tmp_path: Path) -> None:
    save(tmp_path / "m", matmul())
    with serving(tmp_path / "m") as server:
        about = server.metadata()["parameters"]
        assert (about["provider"], about["nodes"]) == (CPU, {CPU: 1})


def test_a_model_of_which_no_node_is_left_is_served(tmp_path: Path) -> None:
    save(tmp_path / "m", folded())
    with serving(tmp_path / "m") as server:
        about = server.metadata()["parameters"]
        assert (about["provider"], about["nodes"]) == (CPU, {})
        answer = server.infer(tensor("x", "FP32", np.zeros(2, "f4"))).json()
        assert answer["outputs"][0]["data"] == [3.0]


def test_an_onnxruntime_that_does_not_tell_is_served_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ort.InferenceSession.__base__, "get_provider_graph_assignment_info")
    _, used, nodes, notes = onnx_backend.open_session(plan(tmp_path, matmul()))
    assert (used, nodes) == (CPU, None)
    assert "does not tell" in notes[0]


class Session(ort.InferenceSession):  # type: ignore[misc]
    """Stands for a session on a machine with CUDA, which took none of the model's nodes."""

    def __init__(self, path: str, options: ort.SessionOptions, providers: list[object]) -> None:
        super().__init__(path, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]


@pytest.fixture
def useless_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)


@pytest.mark.usefixtures("useless_cuda")
def test_a_model_that_cuda_can_run_nothing_of_is_refused_unless_the_cpu_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(onnx_backend.LoadError, match=r"none of the model's nodes \(1 run on CPU.*--allow-cpu-fallback"):
        onnx_backend.open_session(plan(tmp_path, matmul(), provider="cuda"))
    _, used, _, notes = onnx_backend.open_session(plan(tmp_path, matmul(), provider="cuda", allow_cpu_fallback=True))
    assert (used, "served on the CPU" in notes[0]) == (CPU, True)


@pytest.mark.usefixtures("useless_cuda")
def test_a_model_without_nodes_is_not_refused_for_want_of_cuda(tmp_path: Path) -> None:
    _, used, nodes, notes = onnx_backend.open_session(plan(tmp_path, folded(), provider="cuda"))
    assert (used, nodes, notes) == (CPU, {}, [])
