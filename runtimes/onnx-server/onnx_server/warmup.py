"""The first runs of a model: they warm it up, and they show whether its rows are independent of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_server.rows import join, split
from onnx_server.tensors import DTYPES, Array, objects
from onnx_server.wire import TensorSpec

Run = Callable[[dict[str, Array]], dict[str, Array]]
_SIZES = (1, 2, 8, 32, 64, 224, 256)
_ROWS = 8
_TOLERANCE = {"FP16": 5e-3, "FP32": 1e-5, "FP64": 1e-9}


@dataclass(frozen=True, slots=True)
class Probe:
    """What the first runs showed. ``note`` says why requests are not batched; empty where nothing is to be said."""

    batching: bool
    note: str = ""


def probe(
    run: Run,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    named: Sequence[tuple[str | None, str | None]],
    max_batch: int,
) -> Probe:
    """Warm a model up, and find out whether its requests may be put together.

    They may if the first size of every input and output varies, some output has fractions, and a run of several rows
    gives what runs of one row give. A model that, say, subtracts the mean of the batch has the right shapes, but mixes
    its callers' rows.

    Args:
        run: runs the model.
        named: names of the first dimensions of an input and an output, for each pair of them; None where unnamed.
        max_batch: rows that are run together at most; below 2 nothing is.
    """
    reason = _fixed(inputs, outputs, named)
    first = _warm(run, inputs)
    if first is None:
        return Probe(False, "requests are not batched: no input could be made up to try the model with")
    if max_batch < 2:
        return Probe(False)
    if reason:
        return Probe(False, f"requests are not batched: {reason}")
    if not any(output.datatype in _TOLERANCE for output in outputs):
        return Probe(False, "requests are not batched: labels alone do not show whether rows depend on each other")
    size, alone = first
    count = min(_ROWS, max_batch)
    rows = [made_up(inputs, size, seed=seed) for seed in range(count)]
    try:
        together = split(run(join(rows)), [1] * count)
        separate = [alone, *(run(row) for row in rows[1:])]
    except Exception as error:
        return Probe(False, f"requests are not batched: the model failed with {count} rows ({error})")
    for output in outputs:
        for one, other in zip(together, separate, strict=True):
            if not _alike(output.datatype, one[output.name], other[output.name]):
                return Probe(False, f"requests are not batched: rows of output '{output.name}' depend on each other")
    return Probe(True)


def _fixed(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], named: Sequence[tuple[str | None, str | None]]
) -> str:
    """Why the shapes alone forbid batching; empty where they don't."""
    if not inputs:
        return "the model has no inputs"
    for tensor in (*inputs, *outputs):
        if not tensor.shape or tensor.shape[0] != -1:
            return f"the first size of '{tensor.name}' does not vary"
    for one, other in named:
        if one and other and one != other:
            return f"the first sizes '{one}' and '{other}' are not the same"
    return ""


def _warm(run: Run, inputs: Sequence[TensorSpec]) -> tuple[int, dict[str, Array]] | None:
    """The first size of the varying dimensions that the model takes, and its answer."""
    varies = any(size == -1 for tensor in inputs for size in (tensor.shape or ())[1:])
    for size in _SIZES if varies else _SIZES[:1]:
        try:
            return size, run(made_up(inputs, size, seed=0))
        except Exception:  # another size may do; if none does, that is told
            continue
    return None


def made_up(inputs: Sequence[TensorSpec], size: int, seed: int) -> dict[str, Array]:
    """One row of random input; ``size`` stands for every size that varies, but the first."""
    random = np.random.default_rng(seed)
    arrays = {}
    for tensor in inputs:
        shape = [size if one == -1 else one for one in tensor.shape or ()]
        if tensor.shape and tensor.shape[0] == -1:
            shape[0] = 1
        arrays[tensor.name] = _random(random, tensor.datatype, tuple(shape), spread=seed % 2 == 1)
    return arrays


def _random(random: np.random.Generator, datatype: str, shape: tuple[int, ...], *, spread: bool) -> Array:
    if datatype == "BYTES":
        words = random.integers(0, 2, int(np.prod(shape)))
        return objects([(b"a", b"b")[word] for word in words], shape)
    if DTYPES[datatype].kind == "f":
        wide = random.normal(0, 4, shape) if spread else random.random(shape)
        return wide.astype(DTYPES[datatype])
    # Small numbers are safe as indexes into tables of which nothing is known.
    return random.integers(0, 2, shape).astype(DTYPES[datatype])


def _alike(datatype: str, one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if datatype not in _TOLERANCE:
        return bool((one == other).all())
    limit = _TOLERANCE[datatype]
    return bool(np.allclose(one, other, rtol=limit, atol=limit, equal_nan=True))
