"""What the files of a model are, and which runtime serves them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localml.core.errors import invalid
from localml.core.registry.advice import advice
from localml.core.registry.onnx_graph import NotOnnx, read_graph

ONNX, PYTHON, WMLA_KERNEL = "onnx", "python", "wmla-kernel"
MODEL_FILE, KERNEL_FILE, WMLA_FILE = "model.onnx", "kernel.py", "model.json"
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
        LocalmlError: ``INVALID`` when it is nothing of that, a damaged ONNX file, or when files it names are missing.
    """
    found = format or _guess(folder)
    if found == ONNX:
        return _onnx(folder)
    if found == WMLA_KERNEL:
        _check_wmla_kernel(folder)
    return Described(found, SERVER_RUNTIME if found in _SERVED else "")


def _guess(folder: Path) -> str:
    if _kernel_path(folder) is not None:
        return WMLA_KERNEL
    if any(folder.glob("*.onnx")):
        return ONNX
    if (folder / KERNEL_FILE).is_file():
        return PYTHON
    found = sorted(one.name for one in folder.iterdir())
    if words := advice(found):
        raise invalid("source", words)
    names = ", ".join(found[:5]) or "nothing"
    raise invalid(
        "source", f"holds no model: {MODEL_FILE}, {KERNEL_FILE} or {WMLA_FILE} are looked for, there is {names}"
    )


def _kernel_path(folder: Path) -> str | None:
    """What ``model.json`` names as the kernel's file; None where it does not, or there is none."""
    try:
        found = json.loads((folder / WMLA_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return str(found["kernel_path"]) if isinstance(found, dict) and "kernel_path" in found else None


def _check_wmla_kernel(folder: Path) -> None:
    kernel = _kernel_path(folder)
    if kernel is None:
        raise invalid("source", f"must hold {WMLA_FILE}, which names the kernel's file in 'kernel_path'")
    if not _holds(folder, kernel):
        raise invalid("source", f"{WMLA_FILE} names the kernel '{kernel}', which is missing")


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
    for name, size in graph.external.items():
        _check_weights(folder, name, size)
    return Described(ONNX, SERVER_RUNTIME, graph.inputs, graph.outputs)


def _check_weights(folder: Path, name: str, size: int) -> None:
    """Refuse a model whose weights are not there; onnxruntime would, when it is served."""
    if not _holds(folder, name):
        raise invalid(
            "source", f"has weights in the file '{name}', which is missing; register the folder that has both"
        )
    there = (folder / name).stat().st_size
    if there < size:
        raise invalid("source", f"has {size} bytes of weights in '{name}', which has {there}")


def _holds(folder: Path, name: str) -> bool:
    """Whether a file of this name is in the folder or below; one outside does not count."""
    try:
        path = (folder / name).resolve()
        return path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):  # no name of a file
        return False
