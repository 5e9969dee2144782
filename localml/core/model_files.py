"""What the files of a model are, and which runtime serves them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localml.core.errors import invalid
from localml.core.onnx_graph import NotOnnx, read_graph

ONNX, PYTHON, WMLA_KERNEL = "onnx", "python", "wmla-kernel"
MODEL_FILE = "model.onnx"
SERVER_RUNTIME = "onnx-server"
KERNELS = frozenset({PYTHON, WMLA_KERNEL})
"""Formats that are a user's own code."""
_SERVED = KERNELS | {ONNX}


@dataclass(frozen=True, slots=True)
class Described:
    """A model's format, the runtime that serves it (empty: none of ours, so it takes a custom image), and its inputs
    and outputs where the files tell them."""

    format: str
    runtime: str
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None


def describe(folder: Path, format: str = "") -> Described:
    """Find out what a folder holds: an ONNX model, a Python kernel (``kernel.py``), or a ``model.json`` that names the
    kernel of a WMLA inference service. A single ONNX file is renamed to ``model.onnx``.

    Args:
        format: what the caller says that it is; another one than ours is taken unread.

    Raises:
        LocalmlError: ``INVALID`` when it is nothing of that, or a damaged ONNX file.
    """
    found = format or _guess(folder)
    if found == ONNX:
        return _onnx(folder)
    return Described(found, SERVER_RUNTIME if found in _SERVED else "")


def _guess(folder: Path) -> str:
    if _names_kernel(folder / "model.json"):
        return WMLA_KERNEL
    if any(folder.glob("*.onnx")):
        return ONNX
    if (folder / "kernel.py").is_file():
        return PYTHON
    names = ", ".join(sorted(one.name for one in folder.iterdir())[:5]) or "nothing"
    raise invalid("source", f"holds no model: {MODEL_FILE}, kernel.py or model.json are looked for, there is {names}")


def _names_kernel(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "kernel_path" in found


def _onnx(folder: Path) -> Described:
    path = folder / MODEL_FILE
    if not path.is_file():
        others = sorted(folder.glob("*.onnx"))
        if len(others) != 1:
            names = ", ".join(one.name for one in others) or "none"
            raise invalid("source", f"must hold {MODEL_FILE} or one other *.onnx file, not {names}")
        others[0].rename(path)
    try:
        graph = read_graph(path)
    except NotOnnx as error:
        raise invalid("source", str(error)) from error
    return Described(ONNX, SERVER_RUNTIME, graph.inputs, graph.outputs)
