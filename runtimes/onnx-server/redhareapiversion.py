"""Which version of the elastic inference kernel's interface this is."""

from __future__ import annotations

__version__ = version = "1.0"
