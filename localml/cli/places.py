"""What a path on the command line means: ``/abs/path`` is one of this machine, always."""

from __future__ import annotations

import os

from localml.core.errors import invalid
from localml.core.home import expanded


def object_uri(text: str, what: str) -> str:
    """An object URI; ``what`` is the argument that it was given as.

    Raises:
        LocalmlError: ``INVALID`` for a path of this machine.
    """
    if text.startswith(("/", ".", "~")):
        bucket = f"; in the buckets it is fds:/{text}" if text.startswith("/") else ""
        raise invalid(what, f"{text} is a path of this machine{bucket}")
    return text


def mount_source(text: str) -> str:
    """The source of a mount as the server takes it: a path of this machine as such, all others as they are."""
    if text.startswith((".", "~", "/")):
        return f"file://{os.path.abspath(expanded(text, '--mount'))}"
    return text
