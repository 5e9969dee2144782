"""What is answered to requests that are nearly right, and to questions of the protocol's further parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.onnx_bench import Server, matmul, save, serving, tensor, wait_for
from onnx import TensorProto, helper


def added() -> onnx.GraphProto:
    """y = a + b, where both are to have as many rows."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "aby"]
    return helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "added", tensors[:2], tensors[2:])


def pairs() -> onnx.GraphProto:
    """y = a b, rows of a by columns of b, whose inner sizes nothing but the run compares."""
    a = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", "k"])
    b = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["l", "m"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])
    return helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "pairs", [a, b], [y])


def reshaped() -> onnx.GraphProto:
    """y[3, -1] = x, which takes a multiple of three elements."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, "k"])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [3, -1])
    return helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "reshaped", [x], [y], [shape])


@pytest.mark.parametrize(
    ("graph", "sizes", "fits"),
    [
        (added(), {"a": (3, 2), "b": (4, 2)}, {"a": (3, 2), "b": (3, 2)}),
        (pairs(), {"a": (2, 3), "b": (4, 2)}, {"a": (2, 3), "b": (3, 2)}),
        (reshaped(), {"x": (4,)}, {"x": (6,)}),
    ],
    ids=["rows", "inner sizes", "elements"],
)
def test_sizes_that_do_not_go_together_are_the_callers_fault(
    tmp_path: Path, graph: onnx.GraphProto, sizes: dict[str, tuple[int, ...]], fits: dict[str, tuple[int, ...]]
) -> None:
    def sent(shapes: dict[str, tuple[int, ...]]) -> list[dict[str, object]]:
        return [tensor(name, "FP32", np.ones(shape, "f4")) for name, shape in shapes.items()]

    save(tmp_path / "m", graph)
    with serving(tmp_path / "m") as server:
        assert server.infer(*sent(fits)).status_code == 200  # a model that takes nothing at all is at fault itself
        refused = server.infer(*sent(sizes))
        assert refused.status_code == 400, refused.text
        said = refused.json()["error"]
        assert said.startswith("the model does not take these inputs (")
        for name, shape in sizes.items():
            assert f"'{name}' {list(shape)}" in said
        assert server.infer(*sent(fits)).status_code == 200, "the others are not touched by it"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("onnx") / "m"
    for number in (1, 2):
        save(folder / str(number), matmul(number))
    (folder / "3").mkdir()
    (folder / "3" / "model.onnx").write_bytes(b"\x01no model")
    with serving(folder) as running:
        wait_for(lambda: len(running.http.post("/v2/repository/index").json()) == 3, "all versions")
        yield running


def test_the_index_of_the_repository_is_told_to_post(server: Server) -> None:
    """As Triton's clients ask: ``InferenceServerClient.get_model_repository_index``."""
    for body in (b"", b"{}"):
        found = server.http.post("/v2/repository/index", content=body)
        assert found.status_code == 200, found.text
        assert [(one["name"], one["version"], one["state"]) for one in found.json()] == [
            ("m", "1", "READY"),
            ("m", "2", "READY"),
            ("m", "3", "UNAVAILABLE"),
        ]
        assert [bool(one["reason"]) for one in found.json()] == [False, False, True]
    ready = server.http.post("/v2/repository/index", content=json.dumps({"ready": True})).json()
    assert [one["version"] for one in ready] == ["1", "2"]
    for bad in (b"[", b"[]", b'{"ready": 1}'):
        assert server.http.post("/v2/repository/index", content=bad).status_code == 400


@pytest.mark.parametrize("method", ["load", "unload"])
def test_loading_is_not_for_callers(server: Server, method: str) -> None:
    answer = server.http.post(f"/v2/repository/models/m/{method}")
    assert (answer.status_code, "localml rollout" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/v2/repository/index", 405, "POST"),
        ("POST", "/v2", 405, "GET"),
        ("DELETE", "/v2/models/m", 405, "GET"),
        ("PUT", "/v2/models/m/versions/1/ready", 405, "GET"),
        ("GET", "/v2/models/m/infer", 405, "POST"),
        ("POST", "/v2/nothing", 404, None),
        ("POST", "/nothing", 404, None),
        ("POST", "/v2/models/other", 404, None),
        ("GET", "/v2/models/m/versions/9", 404, None),
    ],
)
def test_a_wrong_method_is_told_the_right_one_and_a_wrong_path_that_nothing_is_there(
    server: Server, method: str, path: str, status: int, allowed: str | None
) -> None:
    answer = server.http.request(method, path)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allowed), answer.text
