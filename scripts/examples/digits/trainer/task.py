"""Train the classifier and leave model, metrics and test data in the output folder.

    python -m trainer.task --epochs 30 --output-uri fds://models/digits

Output: ``model.onnx`` (input ``x``: float32 [N, 64]; outputs ``label`` and ``probabilities``), ``metrics.json``,
``test.npz`` (the held-out images) and TensorBoard events below ``events/``. The same arguments give the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from tensorboardX import SummaryWriter

from trainer.data import CLASSES, Digits, load


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="trainer.task", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=0.005)
    parser.add_argument("--hidden", type=int, default=64, help="units of the hidden layer")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--alpha", type=float, default=1e-4, help="L2 penalty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output-uri",
        default=os.environ.get("LOCALML_OUTPUT_URI", "output"),
        help="folder for the results: an object URI or a path (default: LOCALML_OUTPUT_URI, else ./output)",
    )
    given = parser.parse_args(words)
    for name in ("epochs", "hidden", "batch_size"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if given.learning_rate <= 0:
        parser.error("--learning-rate must be greater than 0")
    return given


def train(given: argparse.Namespace, digits: Digits, events: SummaryWriter) -> tuple[MLPClassifier, list[Any]]:
    """Learn for so many epochs, with one line and one set of events for each; returns model and history."""
    model = MLPClassifier(
        hidden_layer_sizes=(given.hidden,),
        learning_rate_init=given.learning_rate,
        batch_size=min(given.batch_size, len(digits.train.y)),
        alpha=given.alpha,
        random_state=given.seed,
    )
    history = []
    for epoch in range(1, given.epochs + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.partial_fit(digits.train.x, digits.train.y, classes=CLASSES)
        values = {
            "loss": float(model.loss_),
            "validation_loss": float(
                log_loss(digits.validation.y, model.predict_proba(digits.validation.x), labels=CLASSES)
            ),
            "train_accuracy": float(model.score(digits.train.x, digits.train.y)),
            "validation_accuracy": float(model.score(digits.validation.x, digits.validation.y)),
        }
        for name, value in values.items():
            events.add_scalar(name, value, epoch)
        events.flush()
        line = " ".join(f"{name}={value:.4f}" for name, value in values.items())
        print(f"epoch={epoch}/{given.epochs} {line}", flush=True)
        history.append({"epoch": epoch, **values})
    return model, history


def save(uri: str, model: MLPClassifier, metrics: dict[str, Any], digits: Digits) -> None:
    """Write model, metrics and held-out images into the output folder."""
    onnx = to_onnx(
        model,
        initial_types=[("x", FloatTensorType([None, digits.test.x.shape[1]]))],
        options={id(model): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 1},
    )
    with fsspec.open(f"{uri}/model.onnx", "wb") as file:
        file.write(onnx.SerializeToString())
    with fsspec.open(f"{uri}/metrics.json", "w") as file:
        json.dump(metrics, file, indent=2)
    with fsspec.open(f"{uri}/test.npz", "wb") as file:
        np.savez_compressed(file, x=digits.test.x, y=digits.test.y)
    with fsspec.open(f"{uri}/test.json", "w") as file:
        json.dump({"x": digits.test.x.tolist(), "y": digits.test.y.tolist()}, file)


@contextmanager
def event_folder(uri: str) -> Iterator[str]:
    """A local folder for TensorBoard events: the output folder itself where it is one, so that they are seen as they
    come; else one whose files are copied there at the end."""
    filesystem, folder = fsspec.url_to_fs(f"{uri}/events")
    if isinstance(filesystem, LocalFileSystem):
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        yield local
        filesystem.put(f"{local}/", folder, recursive=True)


def main() -> None:
    """Train, save, and say how good the model is on images that it has never seen."""
    given = arguments()
    uri = given.output_uri.rstrip("/")
    digits = load()
    with event_folder(uri) as folder, SummaryWriter(folder) as events:
        model, history = train(given, digits, events)
    accuracy = float(model.score(digits.test.x, digits.test.y))
    save(uri, model, {"accuracy": accuracy, "arguments": vars(given), "epochs": history}, digits)
    print(f"accuracy={accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
