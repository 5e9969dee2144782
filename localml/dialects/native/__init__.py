"""localml's own API at ``/localml/v1``: the smallest dialect, used by the command line, the client and the UI."""

from localml.dialects.native.app import create_app

__all__ = ["create_app"]
