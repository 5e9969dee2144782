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


def taken_over(
    shares: Mapping[int, float], new: Mapping[int, float], leaves: Mapping[int, float] | None
) -> dict[int, float]:
    """Shares once variants that came together (``new``) have theirs.

    Args:
        leaves: what those before them keep; one that is not there ends. None scales them down in proportion.
    """
    if leaves is None:
        return reweighed(shares, sum(new.values())) | dict(new)
    found = {key: leaves[key] for key in shares if key in leaves} | dict(new)
    total = sum(found.values())  # less than 100 if one that was to stay has ended meanwhile
    return {key: round(100.0 * share / total, 6) if total else 0.0 for key, share in found.items()}


def give_shares(session: Session, live: Sequence[Variant], shares: Mapping[int, float]) -> None:
    """Give variants that serve other shares, all at once; one that is left out ends."""
    for one in live:
        if (share := shares.get(one.id or 0)) is not None:
            one.weight = share
        else:
            one.state, one.message = VariantState.RETIRING, "the others took over"
        session.add(one)


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
