"""The trained model as a kernel of elastic inference: deploy it with ``kernel.py`` and the weight ``model.pkl``.

It takes ``{"id": ..., "inputs": [{"name": "x", "shape": [N, 64], "datatype": "FP32", "data": [...]}]}``. The attribute
``scale`` is what pixels are divided by.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import redhareapiversion  # noqa: F401
from redhareapi import Kernel


class Digits(Kernel):
    """Says which digit each image shows."""

    def on_kernel_start(self, kernel_context: Any) -> None:
        """Load the weight that the description names."""
        told = json.loads(kernel_context.get_model_description())
        attributes = {one["key"]: one["value"] for one in told["attributes"]}
        self.scale = float(attributes.get("scale", 1))
        self.model = pickle.loads(Path(told["model_path"], told["weight_path"]).read_bytes())
        Kernel.log_info(f"{told['name']} is ready")

    def on_task_invoke(self, task_context: Any) -> None:
        """Answer this request, and those that wait behind it."""
        while task_context is not None:
            given = json.loads(task_context.get_input_data())
            data = np.array(given["inputs"][0]["data"], np.float32).reshape(-1, 64) / self.scale
            digits = self.model.predict(data).tolist()
            output = {"name": "digit", "datatype": "INT64", "shape": [len(digits)], "data": digits}
            task_context.set_output_data(json.dumps({"id": given.get("id"), "outputs": [output]}))
            task_context = task_context.next()


if __name__ == "__main__":
    Digits().run()
