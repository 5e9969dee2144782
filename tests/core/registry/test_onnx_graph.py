"""Reading what a model takes and gives from the file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.models import times
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from localml.core.registry.onnx_graph import DATATYPES, NotOnnx, read_graph


def test_names_types_and_shapes_with_open_sizes(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(times(2.0))
    found = read_graph(tmp_path / "m.onnx")
    assert found.inputs == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert found.outputs == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]


def test_weights_that_old_files_list_as_inputs_are_none(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "w", "y")]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", values[:2], values[2:], [weight])
    onnx.save(helper.make_model(graph, ir_version=3), tmp_path / "m.onnx")
    assert [one["name"] for one in read_graph(tmp_path / "m.onnx").inputs] == ["x"]


def test_weights_in_other_files_are_told_with_their_size(tmp_path: Path) -> None:
    weights = [onnx.numpy_helper.from_array(np.ones(size, np.float32), f"w{size}") for size in (1000, 2000)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w1000"], ["y"])], "g", values[:1], values[1:], weights)
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    size = (tmp_path / "weights.bin").stat().st_size
    assert size >= 12_000
    assert read_graph(tmp_path / "m.onnx").external == {"weights.bin": size}


_VALUES = st.lists(
    st.tuples(
        st.sampled_from(sorted(DATATYPES)), st.lists(st.one_of(st.integers(0, 2**40), st.text("abc", min_size=1)))
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(_VALUES, st.integers(0, 3000))
def test_any_graph_is_read_as_the_onnx_package_reads_it(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[int, list[Any]]], weight: int
) -> None:
    infos = [helper.make_tensor_value_info(f"t{number}", kind, shape) for number, (kind, shape) in enumerate(values)]
    weights = [onnx.numpy_helper.from_array(np.zeros(weight, np.float32), "w")]
    graph = helper.make_graph([helper.make_node("Identity", ["t0"], ["t0"])], "g", infos, infos, weights)
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    onnx.save(helper.make_model(graph), path)
    found = read_graph(path)
    assert found.inputs == found.outputs
    for one, (number, (kind, shape)) in zip(found.inputs, enumerate(values), strict=True):
        assert one["name"] == f"t{number}"
        assert one["datatype"] == DATATYPES[kind]
        assert one["shape"] == [size if isinstance(size, int) else -1 for size in shape]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\x3a\x05abc", times(2.0)[:40]])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(NotOnnx):
        read_graph(tmp_path / "m.onnx")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 120))
def test_damaged_files_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    good = times(2.0)
    path = tmp_path_factory.mktemp("bad") / "m.onnx"
    path.write_bytes(good[:at] + noise + good[at + len(noise) :])
    try:
        read_graph(path)
    except NotOnnx:
        pass
