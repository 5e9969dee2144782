"""Several workers that train one network together: each learns from its share, and all average their gradients.

--exec-start distPyTorch --model-main main.py --numWorker 2
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits

EPOCHS = 5


def main() -> None:
    """Train; the first worker leaves the result."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")  # by MASTER_ADDR, RANK and WORLD_SIZE
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    inputs, truth = torch.tensor(x / 16, dtype=torch.float32)[rank::size], torch.tensor(y)[rank::size]
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    if torch.cuda.is_available():
        inputs, truth, net = inputs.cuda(), truth.cuda(), net.cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(inputs), truth)
        loss.backward()
        for one in net.parameters():
            dist.all_reduce(one.grad)
            one.grad /= size
        optimizer.step()
        losses.append(loss.item())
    # all have the same weights, though each has seen its share alone
    total = torch.tensor([sum(one.abs().sum().item() for one in net.parameters())])
    sums = [torch.zeros(1) for _ in range(size)]
    if not torch.cuda.is_available():
        dist.all_gather(sums, total)
    print(f"worker {rank} of {size}: loss={losses[-1]:.4f}", flush=True)
    if rank == 0:
        found = {"workers": size, "losses": losses, "weights": [float(one) for one in sums]}
        Path(os.environ["RESULT_DIR"], "together.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Gloo's threads outlive their group (PyTorch 2.13), and now and then abort Python while it ends
