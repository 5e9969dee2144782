"""Small ONNX models, and an environment of the process engine that serves them with this interpreter's packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx import TensorProto, helper

from localml.core.catalog import load_catalog, runtimes_dir
from localml.engines.runtimes.environments import Environments
from localml.testing import Localml, start


def times(factor: float, *, name: str = "x", width: int = 2) -> bytes:
    """A model whose output ``y`` is its input ``x`` [n, width] times a factor."""
    shape = ["n", width]
    graph = helper.make_graph(
        [helper.make_node("Mul", [name, "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def serving_environment(cache: Path) -> None:
    """Make ``cache`` hold the environment of the runtime ``onnx-server``, without installing anything."""
    environments = Environments(cache, runtimes_dir())
    folder = environments._place(load_catalog().runtime("onnx-server"))
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    source = runtimes_dir() / "onnx-server"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{source}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".localml-ready").touch()


@contextmanager
def serving_server(folder: Path, gpus: str = "simulated:2") -> Iterator[Localml]:
    """A server of the process engine that can serve models."""
    cache = folder / "cache"
    serving_environment(cache)
    before = os.environ.get("LOCALML_CACHE")
    os.environ["LOCALML_CACHE"] = str(cache)
    try:
        running = start(folder / "data", gpus)
    finally:
        if before is None:
            del os.environ["LOCALML_CACHE"]
        else:
            os.environ["LOCALML_CACHE"] = before
    try:
        yield running
    finally:
        running.close()
