"""Starting elastic inference kernels of Watson Machine Learning Accelerator (see ``redhareapi``)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from onnx_server import wire
from onnx_server.errors import LoadError
from onnx_server.worker import WorkerPlan

DESCRIPTION_FILE = "model.json"


def description(folder: Path) -> dict[str, Any] | None:
    """The model's description of a folder; None where it has none that names a kernel.

    Raises:
        LoadError: the file is not a JSON object.
    """
    file = folder / DESCRIPTION_FILE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise LoadError(f"{file} must be a JSON object")
    return found if "kernel_path" in found else None


def leads_out(folder: Path) -> bool:
    """Whether the description names files outside its folder by their place relative to it.

    Raises:
        LoadError: the file is not a JSON object.
    """
    found = description(folder) or {}
    return any(".." in Path(str(found.get(key, ""))).parts for key in ("kernel_path", "weight_path"))


def kernel_command(plan: WorkerPlan) -> tuple[list[str], str, dict[str, str]]:
    """How a kernel's process is started.

    Returns:
        Command, working folder, and environment variables to add.

    Raises:
        LoadError: the description or the kernel's file is missing.
    """
    folder = Path(plan.path)
    found = description(folder)
    if found is None:
        raise LoadError(f"{folder / DESCRIPTION_FILE} must name the kernel's file in 'kernel_path'")
    kernel = folder / str(found["kernel_path"])
    if not kernel.is_file():
        raise LoadError(f"the kernel's file {kernel} does not exist")
    told = {"name": plan.name, "weight_path": "", "attributes": [], **found, "model_path": str(folder)}
    variables = {
        wire.MODEL_DESCRIPTION: json.dumps(told),
        "REDHARE_MODEL_NAME": str(told["name"]),
        "REDHARE_MODEL_PATH": str(folder),
        "MSD_POD_NAME": f"{plan.name}-0",
    }
    return [sys.executable, str(kernel)], str(folder), variables
