"""Train a small network on scikit-learn's digits, as a task, or as a trial of a search.

--exec-start scikit-learn --model-main main.py --epochs 20

A search gives its values in ``config.json`` (``learning_rate``, ``hidden``, ``alpha``, ``epochs``); options go before
them. It leaves ``model.onnx`` (input ``x``: float32 [N, 64], from 0 to 1), ``model.pkl`` for ``kernel.py``,
``val_dict_list.json`` with ``loss`` and ``accuracy`` for each epoch, and some images that it did not learn from in
``test.json`` (``x`` from 0 to 16). The same values give the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

CLASSES = np.arange(10)
WHITE = 16
TESTED = 50


def arguments() -> argparse.Namespace:
    """The options; what is not given is what ``config.json`` says."""
    given = json.loads(Path("config.json").read_text()) if Path("config.json").is_file() else {}
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=int(given.get("epochs", 20)))
    parser.add_argument("--learning-rate", type=float, default=float(given.get("learning_rate", 0.005)))
    parser.add_argument("--hidden", type=int, default=int(given.get("hidden", 32)))
    parser.add_argument("--alpha", type=float, default=float(given.get("alpha", 1e-4)))
    return parser.parse_args()


def train(given: argparse.Namespace, x: Any, y: Any) -> tuple[MLPClassifier, list[dict[str, Any]]]:
    """The model, and what it was like after each epoch on images that it did not learn from."""
    x_train, x_rest, y_train, y_rest = train_test_split(x / WHITE, y, test_size=0.3, random_state=0)
    model = MLPClassifier((given.hidden,), learning_rate_init=given.learning_rate, alpha=given.alpha, random_state=0)
    history = []
    for step in range(1, given.epochs + 1):
        model.partial_fit(x_train, y_train, classes=CLASSES)
        loss = float(log_loss(y_rest, model.predict_proba(x_rest), labels=CLASSES))
        history.append({"step": step, "loss": loss, "accuracy": float(model.score(x_rest, y_rest))})
        print(f"epoch={step}/{given.epochs} loss={loss:.4f} accuracy={history[-1]['accuracy']:.4f}", flush=True)
    return model, history


def main() -> None:
    """Train, and leave the model and its metrics."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x.astype(np.float32), y, test_size=TESTED, random_state=0)
    model, history = train(arguments(), x, y)
    result = Path(os.environ["RESULT_DIR"])
    options = {id(model): {"zipmap": False}}
    types = [("x", FloatTensorType([None, 64]))]
    onnx = to_onnx(model, initial_types=types, options=options, target_opset={"": 17, "ai.onnx.ml": 1})
    (result / "model.onnx").write_bytes(onnx.SerializeToString())
    (result / "model.pkl").write_bytes(pickle.dumps(model))
    (result / "test.json").write_text(json.dumps({"x": x_test.tolist(), "y": y_test.tolist()}))
    (result / "val_dict_list.json").write_text(json.dumps(history))


if __name__ == "__main__":
    main()
