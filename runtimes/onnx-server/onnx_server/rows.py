"""Putting requests together along the first dimension, and taking their answers apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_server.errors import RequestError
from onnx_server.tensors import Array


def rows_of(inputs: Mapping[str, Array]) -> int:
    """Rows of a request; 0 where it has none or its inputs differ, so that it must run by itself."""
    counts = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return counts.pop() if len(counts) == 1 else 0


def join(items: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One request of all items' rows, in their order."""
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}


def split(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """Each item's own rows of the answer.

    Raises:
        RequestError: an output has not as many rows as went in.
    """
    total = sum(rows)
    for name, array in outputs.items():
        if not array.ndim or array.shape[0] != total:
            raise RequestError(500, f"output '{name}' has shape {list(array.shape)} for {total} rows")
    answers = []
    start = 0
    for count in rows:
        answers.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return answers
