"""The caller's home directory, which not everybody has: a uid that no account has, without ``HOME``."""

from __future__ import annotations

from pathlib import Path

from localml.core.errors import invalid


def home(setting: str) -> Path:
    """The home directory.

    Args:
        setting: what may be given instead.

    Raises:
        LocalmlError: ``INVALID`` naming the setting, when there is none.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise invalid(setting, "must be given: you have no home directory here (HOME is not set)") from None


def expanded(path: Path | str, setting: str) -> Path:
    """A path with its ``~`` written out.

    Raises:
        LocalmlError: ``INVALID`` naming the setting, when there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise invalid(setting, f"{path} names a home directory that there is not") from None
