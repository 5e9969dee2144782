"""What belongs to the request at hand: the platform it is for, and who calls."""

from __future__ import annotations

from typing import cast

from flask import current_app, g

from localml.core.people.identity import Caller
from localml.platform import Platform

EXTENSION = "localml"


def platform() -> Platform:
    """The platform that the app was made for."""
    return cast(Platform, current_app.extensions[EXTENSION])


def caller() -> Caller:
    """Who calls, as the dialect's ``authenticate`` found out. Operations that are open have no caller."""
    return cast(Caller, g.caller)


def known_caller() -> Caller | None:
    """The same for operations that are open: None for who has said nothing."""
    return cast("Caller | None", g.get("caller"))
