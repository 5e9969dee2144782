"""What every dialect needs: the app factory, wire formats, errors, logs as text. Nothing here knows a vendor."""

from localml.dialects.kit.app import Dialect, make_app
from localml.dialects.kit.context import caller, known_caller, platform
from localml.dialects.kit.operations import Operations

__all__ = ["Dialect", "Operations", "caller", "known_caller", "make_app", "platform"]
