"""The 1,797 images of 8 x 8 pixels that scikit-learn ships, cut into three parts that never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 0
CLASSES = np.arange(10)


@dataclass(frozen=True)
class Part:
    """Images as rows of 64 float32 values between 0 and 1, and the digit that each shows."""

    x: Any
    y: Any


@dataclass(frozen=True)
class Digits:
    """60 % to learn from, 20 % to watch the learning, 20 % held out until the end."""

    train: Part
    validation: Part
    test: Part


def load() -> Digits:
    """Load the images; the parts have the same share of every digit and are the same in every run."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype(np.float32)
    x_train, x_rest, y_train, y_rest = train_test_split(x, y, test_size=0.4, stratify=y, random_state=SPLIT_SEED)
    x_validation, x_test, y_validation, y_test = train_test_split(
        x_rest, y_rest, test_size=0.5, stratify=y_rest, random_state=SPLIT_SEED
    )
    return Digits(Part(x_train, y_train), Part(x_validation, y_validation), Part(x_test, y_test))
