"""Train a small network on digits with PyTorch.

--exec-start PyTorch --model-main main.py --epochs 5
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits


def main() -> None:
    """Train, and leave the weights and the metrics of each epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = load_digits(return_X_y=True)
    inputs, truth = torch.tensor(x / 16, dtype=torch.float32, device=device), torch.tensor(y, device=device)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    history = []
    for step in range(1, given.epochs + 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(inputs), truth)
        loss.backward()
        optimizer.step()
        history.append({"step": step, "loss": float(loss)})
        print(f"epoch={step}/{given.epochs} loss={float(loss):.4f}", flush=True)
    result = Path(os.environ["RESULT_DIR"])
    torch.save(net.state_dict(), result / "net.pt")
    (result / "val_dict_list.json").write_text(json.dumps(history))


if __name__ == "__main__":
    main()
