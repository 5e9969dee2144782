"""What people bring on their first day, from the command line: text models, scikit-learn's classifiers, large bodies,
files that are no ONNX models, input from a pipe."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import urllib3
from helpers.models import serving_server, times
from helpers.public_models import ALL, Public
from onnx import TensorProto, helper

from localml.testing import Localml

Cli = Callable[..., Any]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCPATH", str(tmp_path_factory.mktemp("locales")))  # the system has none
        with serving_server(tmp_path_factory.mktemp("serve")) as running:
            yield running


@pytest.fixture
def serve(command: Cli, served: Localml, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("LOCALML_DATA", str(served.platform.data))
    return command


@pytest.fixture
def piped(serve: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command with these bytes on its standard input."""

    def call(data: bytes, *arguments: str) -> Any:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return serve(*arguments)

    return call


def test_a_text_pipeline_is_served_and_tells_the_names_of_its_classes(serve: Cli, tmp_path: Path) -> None:
    ALL["text_classifier"]().save(tmp_path / "spam")
    made = serve("serve", str(tmp_path / "spam"), "--name", "spam")
    assert (made.code, made.err) == (0, ""), made.out
    asked = serve("predict", "spam", '["Win a FREE prize now"]')
    assert asked.code == 0, asked.err
    assert "output_label BYTES[1]\n" in asked.out
    assert "output_probability FP32[1,2]  ham, spam\n" in asked.out
    assert serve("rm", "spam").code == 0


def test_probabilities_of_a_default_export_are_served(serve: Cli, tmp_path: Path) -> None:
    path = ALL["logistic_regression"]().save(tmp_path / "iris")
    assert serve("serve", str(path), "--name", "iris").code == 0
    shown = {one["name"]: one for one in serve("models", "--json").json["models"]}["iris"]["versions"][0]
    assert [(one["name"], one["datatype"]) for one in shown["outputs"]] == [
        ("output_label", "INT64"),
        ("output_probability", "FP32"),
    ]
    found = serve("predict", "iris", "[[1, 2, 3, 4], [4, 3, 2, 1]]", "--json").json["outputs"]
    assert [one["shape"] for one in found] == [[2], [2, 3]]
    assert json.loads(found[1]["parameters"]["class_labels"]) == [0, 1, 10]
    assert serve("rm", "iris").code == 0


def test_a_refusal_is_told_to_its_end(serve: Cli, tmp_path: Path) -> None:
    texts = [helper.make_tensor_value_info(name, TensorProto.STRING, ["n"]) for name in "xy"]
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="tr_TR.UTF-8")
    graph = helper.make_graph([node], "turkish", texts[:1], texts[1:])
    Public(graph, lambda _: []).save(tmp_path / "turkish")
    failed = serve("serve", str(tmp_path / "turkish"), "--timeout", "120")
    assert failed.code == 1
    words = "the locale 'tr_TR.UTF-8', which this system lacks; install it, or export the model"
    assert words in failed.out
    assert serve("rm", "turkish").code == 0


def test_an_output_that_is_not_served_is_told(serve: Cli, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    parts = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("SplitToSequence", ["x"], ["parts"])]
    Public(helper.make_graph(nodes, "parts", [x], [y, parts]), lambda _: []).save(tmp_path / "parts")
    made = serve("serve", str(tmp_path / "parts"))
    assert made.code == 0
    assert "output 'parts' is no tensor and is not served; make it one in the model" in made.out
    assert serve("rm", "parts").code == 0


@pytest.mark.parametrize("name", ["model.joblib", "net.pt2", "net.safetensors"])
def test_a_frameworks_own_file_ends_with_the_line_that_makes_it_servable(serve: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80weights")
    refused = serve("serve", str(tmp_path / name))
    assert refused.code == 1
    assert "onnx" in refused.err
    assert "kernel.py" in refused.err
    assert "Traceback" not in refused.err


def test_input_comes_from_a_pipe(serve: Cli, piped: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "double.onnx").write_bytes(times(2.0))
    assert serve("serve", str(tmp_path / "double.onnx")).code == 0
    array = io.BytesIO()
    np.save(array, np.array([[1, 2], [3, 4]], "f4"))
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
    for data in (b"[[1, 2], [3, 4]]", json.dumps({"inputs": [tensor]}).encode(), b"a,b\n1,2\n3,4\n", array.getvalue()):
        for source in ([], ["-"], ["@-"]):
            asked = piped(data, "predict", "double", *source, "--json")
            assert asked.code == 0, asked.err
            assert asked.json["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]
    empty = piped(b"", "predict", "double")
    assert (empty.code, "nothing came on standard input" in empty.err) == (1, True)
    bad = piped(b"[1,", "predict", "double")
    assert (bad.code, "stdin.json is not JSON" in bad.err) == (1, True)
    assert serve("rm", "double").code == 0


def test_an_endpoint_takes_bodies_beyond_64_mib(serve: Cli, served: Localml, tmp_path: Path) -> None:
    (tmp_path / "large.onnx").write_bytes(times(2.0))
    assert serve("serve", str(tmp_path / "large.onnx")).code == 0
    rows = (65 << 20) // 8
    head = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": {"binary_data_size": rows * 8}}
    text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}})
    endpoint = served.client.endpoint("large")
    assert endpoint.infer_url is not None
    answer = urllib3.request(
        "POST",
        endpoint.infer_url,
        body=text.encode() + np.ones((rows, 2), "f4").tobytes(),
        headers={**served.client._http.authorization, "Inference-Header-Content-Length": str(len(text))},
        timeout=120,
    )
    assert answer.status == 200, answer.data[:300]
    assert answer.data.endswith(np.full((rows, 2), 2.0, "f4").tobytes())
    assert serve("rm", "large").code == 0


def test_onnx_is_what_was_written(tmp_path: Path) -> None:
    """The helper's models are ones that ONNX's own checker takes."""
    for name, make in ALL.items():
        onnx.checker.check_model(str(make().save(tmp_path / name)))
