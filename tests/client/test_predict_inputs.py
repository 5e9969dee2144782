"""Files that become inference requests: what the model gets is what the file shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from localml.client.predict_inputs import Request, request_of, request_of_text
from localml.core.errors import LocalmlError

NUMPY = {"FP32": "f4", "FP64": "f8", "INT8": "i1", "INT32": "i4", "INT64": "i8", "UINT8": "u1", "BOOL": "?"}


def wanted(datatype: str, *shape: int) -> list[dict[str, Any]]:
    return [{"name": "x", "datatype": datatype, "shape": list(shape)}]


def sent(request: Request) -> np.ndarray[Any, Any]:
    """The only tensor of a request, by the protocol's binary extension or as JSON."""
    head = json.loads(request.body[: request.header_length])
    (tensor,) = head["inputs"]
    if request.header_length is None:
        return np.array(tensor["data"]).reshape(tensor["shape"])
    raw = request.body[request.header_length :]
    assert tensor["parameters"]["binary_data_size"] == len(raw)
    return np.frombuffer(raw, NUMPY[tensor["datatype"]]).reshape(tensor["shape"])


PIXELS = np.arange(4 * 6 * 3, dtype="u1").reshape(4, 6, 3)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_a_picture_is_sent_as_rows_of_pixels(picture: Path) -> None:
    assert np.array_equal(sent(request_of(picture, wanted("UINT8", -1, 4, 6, 3))), PIXELS[None])
    assert np.array_equal(sent(request_of(picture, wanted("UINT8", 4, 6, 3))), PIXELS)


def test_a_picture_is_sent_channel_by_channel_and_as_fractions(picture: Path) -> None:
    found = sent(request_of(picture, wanted("FP32", -1, 3, -1, -1)))
    assert found.dtype == np.float32
    assert np.allclose(found, PIXELS.transpose(2, 0, 1)[None] / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "given"), [((-1, 64), (1, 64)), ((-1, 1, 8, 8), (1, 1, 8, 8)), ((1, 8, 8), (1, 8, 8))]
)
def test_a_picture_is_scaled_and_grey_where_the_model_wants_that(
    tmp_path: Path, shape: tuple[int, ...], given: tuple[int, ...]
) -> None:
    Image.new("RGB", (32, 16), (51, 51, 51)).save(tmp_path / "flat.png")
    found = sent(request_of(tmp_path / "flat.png", wanted("FP32", *shape)))
    assert found.shape == given
    assert np.allclose(found, 51 / 255)


@pytest.mark.parametrize(
    ("datatype", "white", "greatest"), [("FP32", 16.0, 16.0), ("FP32", 255, 255), ("UINT8", None, 255)]
)
def test_a_picture_has_the_values_that_the_model_was_trained_on(
    picture: Path, datatype: str, white: float | None, greatest: float
) -> None:
    found = sent(request_of(picture, wanted(datatype, -1, 4, 6, 3), white=white))
    assert np.allclose(found, PIXELS[None] / 255 * greatest)


def test_texts_come_from_tables_and_arrays(tmp_path: Path) -> None:
    words = [["a", "bä"], ["", "drei, vier"]]
    (tmp_path / "in.csv").write_text('a,bä\n"","drei, vier"\n')
    np.save(tmp_path / "in.npy", np.array(words))
    np.save(tmp_path / "bytes.npy", np.char.encode(np.array(words), "utf-8"))
    for name in ("in.csv", "in.npy", "bytes.npy"):
        request = request_of(tmp_path / name, wanted("BYTES", -1, 2))
        (tensor,) = json.loads(request.body)["inputs"]
        assert (tensor["shape"], np.reshape(tensor["data"], (2, 2)).tolist()) == ([2, 2], words), name


def test_texts_for_numbers_and_numbers_for_texts_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "numbers.npy", np.array([[1, 2]]))
    with pytest.raises(LocalmlError, match="holds texts, the model takes FP32"):
        request_of(tmp_path / "texts.npy", wanted("FP32", -1, 2))
    with pytest.raises(LocalmlError, match="holds numbers, the model takes BYTES"):
        request_of(tmp_path / "numbers.npy", wanted("BYTES", -1, 2))


@pytest.mark.parametrize(
    ("text", "inputs", "shape"),
    [
        ("[5, 3, 1]", wanted("FP32", -1, 3), [1, 3]),
        ("[[5, 3, 1]]", wanted("FP32", -1, 3), [1, 3]),
        ("[5, 3]", wanted("FP32", -1), [2]),
        ('["good film"]', wanted("BYTES", -1, 1), [1, 1]),
        ('"good film"', wanted("BYTES", -1, 1), [1, 1]),
        ('"good film"', wanted("BYTES", -1), [1]),
        ("7", wanted("INT64", 1), [1]),
        ("7", wanted("INT64"), []),
        ("[5, 3]", wanted("FP32", -1, 3), [2]),  # the server says what is wrong with it
    ],
)
def test_one_row_of_json_is_a_batch_of_one(text: str, inputs: list[dict[str, Any]], shape: list[int]) -> None:
    (tensor,) = json.loads(request_of_text(text, inputs).body)["inputs"]
    found = json.loads(text)
    assert (tensor["shape"], tensor["data"]) == (shape, found if isinstance(found, list) else [found])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (-1, 7), (-1, 5, 6, 7)])
def test_a_picture_that_does_not_fit_is_told_with_the_shape(picture: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(LocalmlError) as failure:
        request_of(picture, wanted("FP32", *shape))
    assert str(list(shape)) in failure.value.message


@pytest.mark.parametrize(
    ("name", "content", "datatype", "words"),
    [
        ("in.csv", b"1,2\n\xff\xfe,3\n", "FP32", "in UTF-8"),
        ("in.csv", b"1,x\n2,3\n", "FP32", "line 1: 'x' is no number"),
        ("in.csv", b"1,nan\n", "INT64", "nan is no whole number"),
        ("in.csv", b"1,inf\n", "INT64", "inf is no whole number"),
        ("in.csv", b"1.7,2\n", "INT64", "1.7 is no whole number"),
        ("in.csv", b"300,2\n", "UINT8", "does not fit UINT8"),
        ("in.csv", b"1e300,2\n", "FP32", "does not fit FP32"),
        ("in.json", b"[" * 100_000, "FP32", "is not JSON"),
    ],
)
def test_values_that_would_change_on_the_way_are_refused(
    tmp_path: Path, name: str, content: bytes, datatype: str, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LocalmlError) as failure:
        request_of(tmp_path / name, wanted(datatype, -1, 2))
    assert words in failure.value.message


def test_a_table_with_names_and_excels_mark_keeps_all_its_rows(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes("\ufeff1,2\n3,4\n".encode())
    assert sent(request_of(tmp_path / "in.csv", wanted("FP32", -1, 2))).tolist() == [[1, 2], [3, 4]]
    (tmp_path / "in.csv").write_bytes("\ufeffa,b\n3,4\n".encode())
    assert sent(request_of(tmp_path / "in.csv", wanted("FP32", -1, 2))).tolist() == [[3, 4]]


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(LocalmlError, match=r"big\.png cannot be read as a picture"):
        request_of(tmp_path / "big.png", wanted("FP32", -1, 64))


@pytest.mark.parametrize("name", ["in.png", "in.csv", "in.npy", "in.json", "in.txt", "none.npy"])
def test_a_file_that_is_not_what_its_name_says_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    for made in ("in.png", "in.csv", "in.npy", "in.json", "in.txt"):
        (tmp_path / made).write_bytes(b"1,2\nx,y\n")
    with pytest.raises(LocalmlError) as failure:
        request_of(tmp_path / name, wanted("FP32", -1, 4))
    assert name in failure.value.message


@given(
    array=st.sampled_from(["f2", "f4", "f8", "i1", "i4", "i8", "u1", ">f4", ">i8"]).flatmap(
        lambda dtype: arrays.arrays(
            np.dtype(dtype),
            arrays.array_shapes(min_dims=2, max_dims=4, max_side=5),
            elements=st.integers(0, 100),
        )
    ),
    rows=st.booleans(),
)
def test_an_array_arrives_as_it_was_saved(
    array: np.ndarray[Any, Any], rows: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("npy") / "in.npy"
    np.save(path, array if rows else np.asfortranarray(array))  # as what a table's to_numpy gives often is
    shape = [-1, *array.shape[1:]]
    found = sent(request_of(path, wanted("FP64", *shape)))
    assert np.array_equal(found, array.astype("f8"))
