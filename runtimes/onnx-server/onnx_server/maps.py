"""Outputs that are maps: what scikit-learn's classifiers give as probabilities unless they are exported without.

Each row is a map from the class to its probability (``ZipMap``). It is served as a tensor with a column for each class,
and the classes' names beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_server.errors import RequestError
from onnx_server.tensors import Array

DATATYPES = {
    "seq(map(int64,tensor(float)))": "FP32",
    "seq(map(string,tensor(float)))": "FP32",
}
"""Types of outputs (as onnxruntime writes them) that are served as tensors, with their datatypes."""
Label = str | int


class Columns:
    """Makes tensors of one model's maps; the classes of each output are known from its first run on."""

    def __init__(self) -> None:
        self._labels: dict[str, tuple[Label, ...]] = {}

    def labels(self, output: str) -> tuple[Label, ...]:
        """The classes of an output, in the columns' order; empty while they are not known."""
        return self._labels.get(output, ())

    def tensor(self, output: str, rows: Sequence[Mapping[Label, float]]) -> Array:
        """A row for each map.

        Raises:
            RequestError: the maps have different keys.
        """
        labels = self._labels.get(output)
        if labels is None:
            if not rows:
                return np.zeros((0, 0), np.float32)
            labels = self._labels[output] = tuple(rows[0])
        try:
            found = np.array([[row[label] for label in labels] for row in rows], np.float32)
        except KeyError:
            found = np.zeros((0, 0), np.float32)
        if any(len(row) != len(labels) for row in rows) or found.size != len(rows) * len(labels):
            raise RequestError(500, f"output '{output}' holds maps with different keys, which make no tensor")
        return found.reshape(len(rows), len(labels))


def mend(kind: str) -> str:
    """What makes an input or output of a type servable that the protocol has none for."""
    if "map(" in kind:
        return "export the part of the pipeline that takes and gives tensors"
    if "seq(" in kind:
        return "make it a tensor in the model, with ConcatFromSequence or SequenceAt"
    if "optional(" in kind:
        return "give it a value in the model, with OptionalGetElement"
    return "cast it in the model, to FLOAT or another type that the protocol has"
