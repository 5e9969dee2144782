"""How many replicas an endpoint wants for what the gateway says of its load. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from localml.core.serving.specs import EndpointSpec


@dataclass(frozen=True, slots=True)
class Load:
    """What the gateway says of an endpoint: requests in flight and held, and when one was last seen."""

    busy: float = 0.0
    active_at: float | None = None
    waking: bool = False


def scaled(spec: EndpointSpec, scale: int, load: Load, enough_since: float | None, now: float) -> int:
    """How many replicas are wanted for a load.

    Args:
        enough_since: since when fewer than there are would have been enough; None if they would not.
    """
    limits = spec.scaling
    wanted = math.ceil(min(load.busy / limits.target, limits.maximum))
    if scale == 0:
        return limits.clamp(wanted) if limits.minimum > 0 or load.waking or load.busy > 0 else 0
    if limits.minimum == 0 and load.busy == 0 and now - (load.active_at or now) >= limits.idle:
        return 0
    wanted = limits.clamp(wanted)
    if wanted >= scale:
        return wanted
    return wanted if enough_since is not None and now - enough_since >= limits.cooldown else scale
