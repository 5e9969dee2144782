"""Talking to a localml server from Python.

>>> with Client.connect() as client:                            # doctest: +SKIP
...     done = client.run(["python", "train.py"], gpus=1, wait=True)
...     print(done.state, client.text(done.id))

The names are imported when they are first asked for: the command line uses single modules of this package, and starts
with no more than these.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localml.client.client import Client
    from localml.client.errors import ClientError
    from localml.client.metrics import Compared, Metric, Report
    from localml.client.names import Thing
    from localml.client.serving import Endpoint, Model, ModelVersion
    from localml.client.studies import Algorithm, Study, StudyPage, Trial
    from localml.client.types import Event, Gpu, LogPiece, ObjectInfo, Output, Page, Pool, Reason, Replica, Workload

__all__ = [
    "Algorithm",
    "Client",
    "ClientError",
    "Compared",
    "Endpoint",
    "Event",
    "Gpu",
    "LogPiece",
    "Metric",
    "Model",
    "ModelVersion",
    "ObjectInfo",
    "Output",
    "Page",
    "Pool",
    "Reason",
    "Replica",
    "Report",
    "Study",
    "StudyPage",
    "Thing",
    "Trial",
    "Workload",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("localml.client.client"), name)
