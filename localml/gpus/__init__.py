"""The machine's GPUs: which there are, what they do, and whether they are sound."""

from localml.gpus.inventory import Gpu, GpuProcess, GpuUsage, Inventory, NoInventory, SimulatedInventory
from localml.gpus.selection import open_inventory

__all__ = [
    "Gpu",
    "GpuProcess",
    "GpuUsage",
    "Inventory",
    "NoInventory",
    "SimulatedInventory",
    "open_inventory",
]
