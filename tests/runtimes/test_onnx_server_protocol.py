"""What a client of the Open Inference Protocol sends and gets."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from helpers.onnx_bench import Server, binary, identity, lookup, matmul, packed, save, serving, tensor, unpack
from onnx import TensorProto

ROW = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
TYPES: dict[str, tuple[int, Any, list[Any]]] = {
    "BOOL": (TensorProto.BOOL, "?", [True, False]),
    "UINT8": (TensorProto.UINT8, "u1", [0, 255]),
    "UINT16": (TensorProto.UINT16, "<u2", [0, 65535]),
    "UINT32": (TensorProto.UINT32, "<u4", [0, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, "<u8", [0, 2**64 - 1]),
    "INT8": (TensorProto.INT8, "i1", [-128, 127]),
    "INT16": (TensorProto.INT16, "<i2", [-32768, 32767]),
    "INT32": (TensorProto.INT32, "<i4", [-(2**31), 2**31 - 1]),
    "INT64": (TensorProto.INT64, "<i8", [-(2**63), 2**63 - 1]),
    "FP16": (TensorProto.FLOAT16, "<f2", [-1.5, 65504.0]),
    "FP32": (TensorProto.FLOAT, "<f4", [0.10000000149011612, -3e38]),
    "FP64": (TensorProto.DOUBLE, "<f8", [0.1, -1e308]),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("onnx") / "matmul"
    save(folder, matmul())
    with serving(folder, "--max-body", "4K") as server:
        yield server


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("onnx") / "types"
    save(folder, identity({name: kind for name, (kind, _, _) in TYPES.items()}))
    with serving(folder) as server:
        yield server


def test_server_and_model_describe_themselves(server: Server) -> None:
    about = server.http.get("/v2").json()
    assert (about["name"], about["extensions"]) == ("onnx_server", ["binary_tensor_data"])
    assert server.http.get("/v2/health/live").json() == {"live": True}
    assert server.http.get("/v2/health/ready").json() == {"ready": True, "provider": "CPUExecutionProvider"}
    assert server.http.get("/v2/models/m/versions/1/ready").json()["ready"] is True
    about = server.http.get("/v2/models/m").json()
    assert (about["name"], about["versions"], about["platform"]) == ("m", ["1"], "onnxruntime_onnx")
    assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert about["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    assert (about["parameters"]["provider"], about["parameters"]["batching"]) == ("CPUExecutionProvider", True)


def test_answers_are_onnxruntimes_bit_for_bit(server: Server, tmp_path: Path) -> None:
    session = ort.InferenceSession(str(save(tmp_path / "m", matmul())), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(1).standard_normal((5, 4)).astype("f4")
    (expected,) = session.run(["y"], {"x": rows})
    by_json = server.infer(tensor("x", "FP32", rows), id="abc").json()
    assert (by_json["id"], by_json["model_name"], by_json["model_version"]) == ("abc", "m", "1")
    (output,) = by_json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [5, 3])
    assert np.array(output["data"], "f4").tobytes() == expected.tobytes()
    body, headers = binary({"x": ("FP32", [5, 4], rows.tobytes())}, parameters={"binary_data_output": True})
    described, data = unpack(server.http.post("/v2/models/m/infer", content=body, headers=headers))
    assert described["outputs"][0]["parameters"] == {"binary_data_size": 60}
    assert data == expected.tobytes()


def test_a_request_without_id_gets_none(server: Server) -> None:
    assert "id" not in server.infer(ROW).json()


def test_nested_data_is_the_same_as_flat(server: Server) -> None:
    assert server.infer(ROW | {"data": [[1, 2, 3, 4]]}).json() == server.infer(ROW).json()


def test_a_raw_body_is_the_only_inputs_data(server: Server) -> None:
    rows = np.arange(8, dtype="f4").reshape(2, 4)
    headers = {"Inference-Header-Content-Length": "0"}
    answer = server.http.post("/v2/models/m/infer", content=rows.tobytes(), headers=headers)
    described, data = unpack(answer)
    assert described["outputs"][0]["shape"] == [2, 3]
    by_json = server.infer(tensor("x", "FP32", rows)).json()["outputs"][0]["data"]
    assert data == np.array(by_json, "f4").tobytes()


def test_every_datatype_comes_back_as_it_went(types: Server) -> None:
    for datatype, (_, dtype, values) in TYPES.items():
        expected = np.array([values], dtype=dtype)
        name = f"x_{datatype}"
        others = [
            tensor(f"x_{other}", other, np.zeros((1, 2), TYPES[other][1])) for other in TYPES if other != datatype
        ]
        one = {"name": name, "datatype": datatype, "shape": [1, 2], "data": values}
        (output,) = types.infer(one, *others, outputs=[{"name": f"z_{datatype}"}]).json()["outputs"]
        assert (output["name"], output["datatype"]) == (f"z_{datatype}", datatype)
        assert np.array(output["data"], dtype=dtype).tobytes() == expected.tobytes()


def test_every_datatype_comes_back_in_binary_as_it_went(types: Server) -> None:
    data = {name: np.array(values, dtype).tobytes() for name, (_, dtype, values) in TYPES.items()}
    given = {f"x_{name}": (name, [1, 2], one) for name, one in data.items()}
    names = [f"y_{name}" for name in reversed(TYPES)]
    outputs = [{"name": name, "parameters": {"binary_data": name != "y_FP32"}} for name in names]
    body, headers = binary(given, outputs=outputs, parameters={"binary_data_output": True})
    described, found = unpack(types.http.post("/v2/models/m/infer", content=body, headers=headers))
    assert [output["name"] for output in described["outputs"]] == names
    assert found == b"".join(data[name[2:]] for name in names if name != "y_FP32")
    (as_json,) = [output["data"] for output in described["outputs"] if "data" in output]
    assert np.array(as_json, "<f4").tobytes() == data["FP32"]


def test_strings_come_back_as_they_went(tmp_path: Path) -> None:
    save(tmp_path / "m", identity({"": TensorProto.STRING}))
    texts = ["", "grün"]
    with serving(tmp_path / "m") as server:
        one = {"name": "x", "datatype": "BYTES", "shape": [2, 1], "data": texts}
        assert server.infer(one, outputs=[{"name": "y"}]).json()["outputs"][0]["data"] == texts
        data = packed(*(text.encode() for text in texts))
        body, headers = binary({"x": ("BYTES", [2, 1], data)}, parameters={"binary_data_output": True})
        assert unpack(server.http.post("/v2/models/m/infer", content=body, headers=headers))[1] == data + data
        body, headers = binary({"x": ("BYTES", [1, 1], packed(b"\xff"))})
        answer = server.http.post("/v2/models/m/infer", content=body, headers=headers)
        assert (answer.status_code, "UTF-8" in answer.json()["error"]) == (400, True)


def test_an_output_that_json_cannot_say_is_refused_and_binary_gives_it(tmp_path: Path) -> None:
    save(tmp_path / "m", identity({"": TensorProto.FLOAT}))
    data = struct.pack("<2f", float("nan"), float("-inf"))
    with serving(tmp_path / "m") as server:
        body, headers = binary({"x": ("FP32", [1, 2], data)})
        answer = server.http.post("/v2/models/m/infer", content=body, headers=headers)
        assert (answer.status_code, "binary_data" in answer.json()["error"]) == (400, True)
        body, headers = binary({"x": ("FP32", [1, 2], data)}, parameters={"binary_data_output": True})
        assert unpack(server.http.post("/v2/models/m/infer", content=body, headers=headers))[1] == data + data


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"name": "w"}, "no input 'w'; it has 'x'"),
        ({"datatype": "FP64"}, "takes FP32, not FP64"),
        ({"datatype": "FLOAT"}, "must be one of BOOL"),
        ({"shape": [1, 5]}, "takes shape [-1, 4], not [1, 5]"),
        ({"shape": [4]}, "takes shape [-1, 4], not [4]"),
        ({"shape": [-1, 4]}, "whole numbers from 0"),
        ({"shape": "1,4"}, "'shape' must be a list"),
        ({"shape": [2, 4]}, "wants 8 elements, 'data' has 4"),
        ({"data": [[1, 2], [3, 4]]}, "not nested as the shape"),
        ({"data": [1, 2, 3, "4"]}, "takes numbers, not '4'"),
        ({"data": [1, 2, 3, True]}, "takes numbers, not True"),
        ({"data": [1, 2, 3, None]}, "takes numbers, not None"),
        ({"data": [1, 2, 3, 1e39]}, "takes numbers from"),
        ({"data": None}, "'data' must be a list"),
        ({"parameters": {"binary_data_size": 16}}, "has both"),
        ({"parameters": 1}, "'parameters' must be an object"),
    ],
)
def test_a_bad_input_is_told_what_was_expected(server: Server, change: dict[str, Any], hint: str) -> None:
    answer = server.infer(ROW | change)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert hint in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,NaN]}]}', "NaN and infinity are none"),
        (json.dumps({"inputs": [ROW]}).encode()[:-5], "not JSON"),
        (b"", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "'inputs' must be a list"),
        (json.dumps({"inputs": [ROW, ROW]}).encode(), "given twice"),
        (json.dumps({"inputs": [ROW], "id": 7}).encode(), "'id' must be a string"),
        (json.dumps({"inputs": [ROW], "outputs": [{"name": "q"}]}).encode(), "no output 'q'; it has 'y'"),
        (json.dumps({"inputs": [ROW], "outputs": [{"name": "y"}] * 2}).encode(), "asked for twice"),
        (json.dumps({"inputs": [ROW], "parameters": {"binary_data_output": 1}}).encode(), "must be true or false"),
    ],
)
def test_a_bad_body_is_told_what_was_expected(server: Server, body: bytes, hint: str) -> None:
    answer = server.http.post("/v2/models/m/infer", content=body)
    assert answer.status_code == 400
    assert hint in answer.json()["error"]


@pytest.mark.parametrize(
    ("size", "cut", "header", "hint"),
    [
        (16, 4, None, "only 12 bytes are left"),
        (12, 0, None, "is 16 bytes, 'binary_data_size' is 12"),
        (16, -3, None, "16 bytes, but 19 follow"),
        (16, 0, "9999", "but the body has only"),
        (16, 0, "x", "must be a number of bytes"),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(
    server: Server, size: int, cut: int, header: str | None, hint: str
) -> None:
    body, headers = binary({"x": ("FP32", [1, 4], bytes(size))})
    body = body[: len(body) - cut] if cut > 0 else body + bytes(-cut)
    if header is not None:
        headers["Inference-Header-Content-Length"] = header
    answer = server.http.post("/v2/models/m/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert hint in answer.json()["error"]


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_taken(server: Server, coding: str, compress: Callable[[bytes], bytes]) -> None:
    plain = server.infer(ROW).json()
    body, headers = binary({"x": ("FP32", [1, 4], np.array([1, 2, 3, 4], "<f4").tobytes())})
    for content, more in ((json.dumps({"inputs": [ROW]}).encode(), {}), (body, headers)):
        told = {**more, "Content-Encoding": coding}
        answer = server.http.post("/v2/models/m/infer", content=compress(content), headers=told)
        assert answer.json()["outputs"] == plain["outputs"]


@pytest.mark.parametrize(
    ("coding", "body", "status", "words"),
    [
        ("br", b"x", 415, "'br' is not taken; gzip and deflate are"),
        ("gzip", b"{}", 400, "not compressed as Content-Encoding says"),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9], 400, "cut short"),
        ("deflate", zlib.compress(bytes(1 << 20)), 413, "uncompressed, the body has more than the 4096"),
    ],
)
def test_a_compressed_body_that_cannot_be_read_is_told(
    server: Server, coding: str, body: bytes, status: int, words: str
) -> None:
    answer = server.http.post("/v2/models/m/infer", content=body, headers={"Content-Encoding": coding})
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_a_body_that_is_too_large_is_refused_however_it_comes(server: Server) -> None:
    declared = server.http.post("/v2/models/m/infer", content=b" " * 5000)
    assert (declared.status_code, "at most 4096" in declared.json()["error"]) == (413, True)
    chunked = server.http.post("/v2/models/m/infer", content=iter([b" " * 3000, b" " * 3000]))
    assert (chunked.status_code, "4096" in chunked.json()["error"]) == (413, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/m/versions/9/infer", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/m/versions/9", 404),
        ("GET", "/v2/repository", 404),
        ("GET", "/", 404),
        ("GET", "/v2/models/m/infer", 405),
        ("DELETE", "/v2/models/m", 405),
    ],
)
def test_what_is_not_there_is_told_as_json(server: Server, method: str, path: str, status: int) -> None:
    answer = server.http.request(method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert ("allow" in answer.headers) == (status == 405)


def test_only_the_faulty_request_fails(tmp_path: Path) -> None:
    save(tmp_path / "m", lookup())
    with serving(tmp_path / "m") as server:
        bad = server.infer({"name": "i", "datatype": "INT64", "shape": [1], "data": [9]})
        assert (bad.status_code, "does not take these inputs" in bad.json()["error"]) == (400, True)
        good = server.infer({"name": "i", "datatype": "INT64", "shape": [1], "data": [3]})
        assert good.json()["outputs"][0]["data"] == [6.0, 7.0]


@pytest.mark.parametrize("number", ["3.4028235e+38", "-3.4028235e+38", "1"])
def test_the_greatest_numbers_are_taken_as_the_server_writes_them(server: Server, number: str) -> None:
    body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [{number}, 0, 0, 0]}}]}}'
    assert server.http.post("/v2/models/m/infer", content=body).status_code == 200


@pytest.mark.parametrize("number", ["3.5e+38", "1e999", "1" + "0" * 400])
def test_numbers_that_fp32_does_not_hold_are_refused(server: Server, number: str) -> None:
    body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [{number}, 0, 0, 0]}}]}}'
    answer = server.http.post("/v2/models/m/infer", content=body)
    assert answer.status_code == 400, answer.text


def test_a_header_length_of_thousands_of_digits_is_refused(server: Server) -> None:
    headers = {"Inference-Header-Content-Length": "1" * 5000}
    assert server.http.post("/v2/models/m/infer", content=b"{}", headers=headers).status_code == 400
