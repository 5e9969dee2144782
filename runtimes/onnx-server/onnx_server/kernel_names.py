"""Names that the server and its workers share about Python kernels."""

from __future__ import annotations

DEFAULT_MODULE = "kernel"
