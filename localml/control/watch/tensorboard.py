"""Asking a TensorBoard of ours when somebody last used it; the other side is ``localml_tensorboard.gate``."""

from __future__ import annotations

import http.client
import json
import math
from dataclasses import dataclass
from typing import Any

from localml.control.asking import ask
from localml.control.watch.jupyter import TIMEOUT_S
from localml.core.errors import Code, LocalmlError

ACTIVITY_PATH = "/localml/activity"
"""Requests for it do not count as use."""


@dataclass(frozen=True, slots=True)
class Use:
    """When a TensorBoard was used. Times in epoch seconds.

    ``busy``: it works on a request now. ``last``: when the last request came or was answered; ``started`` without any.
    """

    busy: bool
    started: float
    last: float


def last_use(base: str, token: str) -> Use | None:
    """When it was used; None when it does not tell, as those of other makers do not.

    Args:
        base: such as ``http://127.0.0.1:6006``.
        token: of that TensorBoard; empty when it needs none.

    Raises:
        LocalmlError: ``UNAVAILABLE`` when it does not answer.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        status, body = ask(f"{base}{ACTIVITY_PATH}", seconds=TIMEOUT_S, headers=headers)
    except (OSError, http.client.HTTPException) as error:
        raise LocalmlError(Code.UNAVAILABLE, f"the TensorBoard does not answer: {error}") from error
    if status >= 500:
        raise LocalmlError(Code.UNAVAILABLE, f"the TensorBoard answers {status}")
    return _use(body) if status == 200 else None


def _use(body: bytes) -> Use | None:
    try:
        found: Any = json.loads(body)
        use = Use(found["in_flight"] > 0, float(found["started"]), float(found["last_activity"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return use if math.isfinite(use.started) and math.isfinite(use.last) else None
