"""The parts of onnx_server by themselves: rows are never mixed up, tensors survive every form."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from helpers.onnx_bench import ROOT, matmul, save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

sys.path.insert(0, str(ROOT))
from onnx_server import batcher, cpus, errors, link, rows, sources, tensors, wire, worker

DATATYPES = [name for name in tensors.DTYPES if name != "BYTES"]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def any_array(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from(list(tensors.DTYPES)))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        count = int(np.prod(shape))
        words = draw(st.lists(st.text(max_size=5), min_size=count, max_size=count))
        return datatype, tensors.objects([word.encode() for word in words], shape)
    dtype = tensors.DTYPES[datatype]
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return datatype, draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(dtype, **finite)))


@given(any_array())
def test_tensors_survive_json_binary_and_the_wire(given_array: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = given_array
    flat = tensors.to_json("t", array)
    data = flat.tolist() if isinstance(flat, np.ndarray) else flat
    forms = [
        tensors.from_json("t", datatype, array.shape, data),
        tensors.from_binary("t", datatype, array.shape, memoryview(tensors.to_binary(array))),
        tensors.thaw(tensors.freeze({"t": array}))["t"],
    ]
    for found in forms:
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        assert tensors.to_binary(found) == tensors.to_binary(array)


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_messages_survive_being_cut_anywhere(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(wire.pack(message) for message in messages)
    unpacker, found = wire.Unpacker(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += unpacker.feed(stream[:cut])
        stream = stream[cut:]
    assert found == messages


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 3))
def test_joined_rows_come_apart_as_they_were(counts: list[int], width: int) -> None:
    items = [{"x": np.full((count, width), at)} for at, count in enumerate(counts)]
    for item, found in zip(items, rows.split(rows.join(items), counts), strict=True):
        assert np.array_equal(item["x"], found["x"])


class Model:
    """Stands for a worker: answers each item with itself, later; notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.busy = False
        self.dies = False

    def run(self, batch: wire.Batch, done: Any) -> None:
        assert not self.busy, "a worker takes one batch at a time"
        self.busy = True
        self.batches.append(batch.items)

        def finish() -> None:
            self.busy = False
            done(link.WorkerDied("SIGSEGV") if self.dies else list(batch.items))

        asyncio.get_running_loop().call_soon(finish)


requests = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5), st.booleans()), min_size=1, max_size=40)


@given(requests, st.integers(1, 6), st.sampled_from([0.0, 0.001]))
@settings(deadline=None)
def test_batches_hold_equal_shapes_and_no_more_rows_than_allowed(
    asked: list[tuple[str, int, bool]], max_batch: int, delay: float
) -> None:
    async def scenario() -> None:
        model = Model()
        queue = batcher.Batcher(model.run, max_batch, delay, len(asked), lambda count: None)
        answers = []
        for number, (shape, count, pause) in enumerate(asked):
            answers.append((number, queue.submit((), shape, (number, shape, count), count)))
            if pause:
                await asyncio.sleep(0)
        for number, answer in answers:
            assert (await answer)[0] == number
        for batch in model.batches:
            assert len({shape for _, shape, _ in batch}) == 1
            assert len(batch) == 1 or sum(count for _, _, count in batch) <= max_batch
        assert sorted(item[0] for batch in model.batches for item in batch) == list(range(len(asked)))
        await queue.drained()
        assert queue.waiting == 0

    asyncio.run(scenario())


def test_a_single_client_never_waits_for_company() -> None:
    async def scenario() -> float:
        queue = batcher.Batcher(Model().run, 8, 60.0, 10, lambda count: None)
        start = time.monotonic()
        for number in range(50):
            await queue.submit((), "a", number, 1)
        return time.monotonic() - start

    assert asyncio.run(scenario()) < 60.0


def test_all_requests_of_a_batch_hear_of_their_workers_death() -> None:
    async def scenario() -> None:
        model = Model()
        queue = batcher.Batcher(model.run, 8, 0.0, 10, lambda count: None)
        model.dies = True
        answers = [queue.submit((), "a", number, 1) for number in range(3)]
        for found in await asyncio.gather(*answers, return_exceptions=True):
            assert isinstance(found, errors.RequestError)
            assert (found.status, "SIGSEGV" in found.message) == (503, True)

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ort.InferenceSession]:
    path = str(save(tmp_path_factory.mktemp("onnx") / "m", matmul()))
    plan = worker.WorkerPlan("onnx", path, "m", provider="cpu", max_batch=32)
    return worker.load(plan), ort.InferenceSession(path, providers=["CPUExecutionProvider"])


@given(
    st.lists(
        arrays.arrays("f4", st.tuples(st.integers(1, 4), st.just(4)), elements=st.floats(-9, 9, width=32)),
        min_size=1,
        max_size=6,
    )
)
@settings(deadline=None)
def test_batched_answers_are_those_of_single_requests(
    backend: tuple[Any, ort.InferenceSession], items: list[np.ndarray[Any, Any]]
) -> None:
    served, raw = backend
    found = served.run(wire.Batch((), [{"x": item} for item in items]))
    (together,) = raw.run(["y"], {"x": np.concatenate(items)})
    assert np.concatenate([one["y"] for one in found]).tobytes() == together.tobytes()
    for item, one in zip(items, found, strict=True):
        assert np.allclose(one["y"], raw.run(["y"], {"x": item})[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("quota", "count"), [("max 100000", None), ("50000 100000", 1), ("", None)])
def test_a_containers_cpu_limit_is_kept(tmp_path: Path, quota: str, count: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    everything = cpus.available_cpus(tmp_path / "missing")
    assert cpus.available_cpus(tmp_path / "cpu.max") == (count or everything)


def test_versions_are_folders_named_by_numbers(tmp_path: Path) -> None:
    for name in ("9", "10", "latest"):
        save(tmp_path / name, matmul())
    (tmp_path / "11").mkdir()
    assert list(sources.scan(tmp_path)) == ["10", "9"]


def test_several_models_in_a_folder_need_a_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path, matmul()).rename(tmp_path / f"{name}.onnx")
    (source,) = sources.scan(tmp_path).values()
    with pytest.raises(errors.LoadError, match=r"several models \(a.onnx, b.onnx\)"):
        sources.what(source.folder, "")
    (tmp_path / "b.onnx").unlink()
    assert sources.what(source.folder, "") == ("onnx", tmp_path / "a.onnx")


def test_the_package_never_imports_localml() -> None:
    for path in (ROOT / "onnx_server").rglob("*.py"):
        assert re.search(r"^\s*(?:import|from)\s+localml", path.read_text(), re.MULTILINE) is None, path
