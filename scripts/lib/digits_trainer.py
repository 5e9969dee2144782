"""A small network on scikit-learn's digits, over pipes: ``{"lr", "momentum", "alpha", "hidden", "epochs", "seed"}`` as
a line of JSON is answered with its loss on digits that it has not seen.
"""

from __future__ import annotations

import json
import sys
import warnings

from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

_TRAINED, _TESTED = 500, 500
_WORST = 10.0
"""What stands for the loss of a network that was lost on the way."""


def main() -> None:
    """Answer until the pipe is closed."""
    warnings.simplefilter("ignore")
    inputs, labels = load_digits(return_X_y=True)
    inputs = inputs / 16.0
    for line in sys.stdin:
        one = json.loads(line)
        network = MLPClassifier(
            (one["hidden"],),
            solver="sgd",
            batch_size=50,
            learning_rate_init=one["lr"],
            momentum=one["momentum"],
            alpha=one["alpha"],
            max_iter=one["epochs"],
            random_state=one["seed"],
            n_iter_no_change=10_000,
        )
        try:
            network.fit(inputs[:_TRAINED], labels[:_TRAINED])
            found = network.predict_proba(inputs[_TRAINED : _TRAINED + _TESTED])
            loss = float(log_loss(labels[_TRAINED : _TRAINED + _TESTED], found, labels=range(10)))
        except ValueError:  # its weights have become infinite
            loss = _WORST
        print(json.dumps(min(loss, _WORST)), flush=True)


if __name__ == "__main__":
    main()
