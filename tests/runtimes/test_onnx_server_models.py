"""Models of the shapes that are public: each answer is onnxruntime's, bit for bit, as JSON and as binary data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from helpers.counts import count
from helpers.onnx_bench import Server, binary, packed, save, serving, spawn, unpack, wait_for
from helpers.public_models import ALL, Public
from onnx import TensorProto, helper

pytestmark = pytest.mark.timeout(300)
Array = np.ndarray[Any, Any]
NUMBERS = {name: str(number) for number, name in enumerate(ALL, 1)}
"""Each model is a version of its own of one served model."""
DTYPES = {"FP32": "<f4", "FP16": "<f2", "INT64": "<i8", "BOOL": "?"}
KINDS = {np.dtype(kind): name for name, kind in DTYPES.items()} | {np.dtype("O"): "BYTES"}
UNICODE = Path("/usr/lib/locale/C.utf8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("public") / "m"
    for name, make in ALL.items():
        make().save(found / NUMBERS[name])
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as running:
        wait_for(lambda: len(running.metadata()["versions"]) == len(ALL), "all of them")
        yield running


@pytest.fixture(params=list(ALL))
def public(request: pytest.FixtureRequest) -> tuple[str, Public]:
    return request.param, ALL[request.param]()


def expected(path: Path, model: Public, inputs: dict[str, Array]) -> dict[str, Array]:
    """What onnxruntime says; of maps their values, in the order of the classes."""
    session = _session(path)
    names = [one.name for one in session.get_outputs()]
    found = dict(zip(names, session.run(names, inputs), strict=True))
    return {
        name: np.array([[row[label] for label in model.labels] for row in one], "f4").reshape(-1, len(model.labels))
        if isinstance(one, list)
        else np.asarray(one)
        for name, one in found.items()
    }


def _session(path: Path) -> ort.InferenceSession:
    """Another program's; the test's own may lack the locale that the served one makes do without."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    before = os.environ.get("LOCPATH")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("en_US", "en_US.UTF-8"):
            link = path.parent / "locales" / name
            if not link.exists() and UNICODE.is_dir():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(UNICODE)
        patch.setenv("LOCPATH", before or str(path.parent / "locales"))
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def as_json(inputs: dict[str, Array]) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": KINDS[one.dtype], "shape": list(one.shape), "data": one.ravel().tolist()}
        for name, one in inputs.items()
    ]


def raw(array: Array) -> bytes:
    if array.dtype.kind == "O":
        return packed(*(one.encode() for one in array.ravel()))
    return array.tobytes()


def test_it_answers_as_onnxruntime_does(server: Server, folder: Path, public: tuple[str, Public]) -> None:
    name, model = public
    version, path = NUMBERS[name], folder / NUMBERS[name] / "model.onnx"
    requests = model.requests(np.random.default_rng(2026))
    for inputs in requests:
        wanted = expected(path, model, inputs)
        answer = server.infer(*as_json(inputs), version=version)
        assert answer.status_code == 200, answer.text
        told = {one["name"]: one for one in answer.json()["outputs"]}
        assert set(told) == set(wanted)
        body, headers = binary(
            {key: (KINDS[one.dtype], list(one.shape), raw(one)) for key, one in inputs.items()},
            parameters={"binary_data_output": True},
        )
        described, data = unpack(
            server.http.post(f"/v2/models/m/versions/{version}/infer", content=body, headers=headers)
        )
        for one in described["outputs"]:
            size = one["parameters"]["binary_data_size"]
            found, data = data[:size], data[size:]
            right, listed = wanted[one["name"]], told[one["name"]]
            assert (one["shape"], listed["shape"]) == (list(right.shape), list(right.shape)), one["name"]
            assert found == raw(right), one["name"]
            kind = "O" if listed["datatype"] == "BYTES" else DTYPES[listed["datatype"]]
            assert raw(np.array(listed["data"], kind)) == raw(right), one["name"]
        assert not data
    count("requests tried", 2 * len(requests))
    count("bytes of output", sum(len(raw(one)) for one in wanted.values()))


@pytest.mark.parametrize("name", [name for name, make in ALL.items() if make().labels])
def test_probabilities_come_with_the_names_of_their_classes(server: Server, name: str) -> None:
    model = ALL[name]()
    inputs = model.requests(np.random.default_rng(1))[0]
    about = server.http.get(f"/v2/models/m/versions/{NUMBERS[name]}").json()
    described = {one["name"]: one for one in about["outputs"]}["output_probability"]
    assert (described["datatype"], described["shape"]) == ("FP32", [-1, len(model.labels)])
    assert json.loads(described["parameters"]["class_labels"]) == list(model.labels)
    answer = server.infer(*as_json(inputs), version=NUMBERS[name]).json()
    label, chances = (
        {one["name"]: one for one in answer["outputs"]}[f"output_{key}"] for key in ("label", "probability")
    )
    assert json.loads(chances["parameters"]["class_labels"]) == list(model.labels)
    assert model.labels[int(np.argmax(chances["data"]))] == label["data"][0]
    assert sum(chances["data"]) == pytest.approx(1.0)


def normalizer(locale: str = "") -> Any:
    """y = x in lower case, by the rules of a locale; onnxruntime's own is en_US.UTF-8."""
    texts = [helper.make_tensor_value_info(name, TensorProto.STRING, ["n"]) for name in "xy"]
    settings = {"locale": locale} if locale else {}
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", **settings)
    return helper.make_graph([node], "normalizer", texts[:1], texts[1:])


@pytest.mark.skipif(not UNICODE.is_dir(), reason="this C library has no C.UTF-8")
@pytest.mark.parametrize("locale", ["", "en_US", "de_DE.UTF-8"])
def test_a_text_model_is_served_on_a_system_without_its_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    monkeypatch.setenv("LOCPATH", str(tmp_path))  # a system that has no locale at all
    save(tmp_path / "m", normalizer(locale))
    with serving(tmp_path / "m") as server:
        texts = ["Straße ÄÖÜ", "ÉCOLE ΣΊΣΥΦΟΣ ЖУК", "plain"]
        answer = server.infer({"name": "x", "datatype": "BYTES", "shape": [3], "data": texts})
        assert answer.json()["outputs"][0]["data"] == ["straße äöü", "école σίσυφοσ жук", "plain"]
        assert "Exception" not in server.log, "the tries before are nobody's business"


def test_one_whose_rules_are_its_own_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Turkish the small letter of I has no dot."""
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    save(tmp_path / "m", normalizer("tr_TR.UTF-8"))
    server = spawn(tmp_path / "m", tmp_path / "log")
    assert server.process.wait(60) == 1
    last = server.log.strip().splitlines()[-1]
    assert "the locale 'tr_TR.UTF-8', which this system lacks; install it" in last


def test_what_the_protocol_has_no_type_for_is_refused_with_what_to_do(tmp_path: Path) -> None:
    number = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    words = helper.make_value_info("x", helper.make_map_type_proto(TensorProto.STRING, number))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    node = helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b"])
    graph = helper.make_graph([node], "dict", [words], [y])
    Public(graph, lambda _: [], (), (("ai.onnx.ml", 3),)).save(tmp_path / "m")
    server = spawn(tmp_path / "m", tmp_path / "log")
    assert server.process.wait(60) == 1
    last = server.log.strip().splitlines()[-1]
    assert "input 'x' is map(string,tensor(float))" in last
    assert "export the part of the pipeline that takes and gives tensors" in last
