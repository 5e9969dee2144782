"""How variants of an endpoint share the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlmodel import Session

from localml.core.serving.specs import VariantState
from localml.core.serving.tables import Variant


def reweighed(shares: Mapping[int, float], taken: float) -> dict[int, float]:
    """Shares beside a variant that takes ``taken`` percent: as they are if there is room for it, else scaled down."""
    total = sum(shares.values())
    left = max(0.0, 100.0 - taken)
    if total <= left + 1e-6:
        return dict(shares)
    return {key: round(left * share / total, 6) if total else 0.0 for key, share in shares.items()}


def give_share(session: Session, serving: Sequence[Variant], chosen: Variant, weight: float) -> None:
    """Give a variant that serves another share; with 100 it replaces all others."""
    others = [one for one in serving if one is not chosen]
    chosen.weight = weight
    session.add(chosen)
    shares = reweighed({one.id or 0: one.weight for one in others}, weight)
    total = sum(shares.values())
    for one in others:
        if weight >= 100:
            one.state, one.message = VariantState.RETIRING, f"{chosen.name} took over"
        else:
            # what the chosen one gives up goes to the others, in proportion
            share = shares[one.id or 0]
            one.weight = round(share * (100.0 - weight) / total, 6) if total else (100.0 - weight) / len(others)
        session.add(one)
    if not others:
        chosen.weight = 100.0
