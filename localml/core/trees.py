"""Deleting folders that others filled, however deep they lie in each other."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(
    path: str | Path, *, dir_fd: int | None = None, onerror: Callable[[Callable[..., Any], str, Any], Any] | None = None
) -> None:
    """Delete a folder and all that is in it, as :func:`shutil.rmtree` does, which gives up where folders lie a thousand
    deep in each other: those are lifted to the top then, a level at a time.

    Raises:
        OSError: something cannot be deleted.
    """
    try:
        shutil.rmtree(path, onerror=onerror, dir_fd=dir_fd)
    except RecursionError:
        top = os.open(path, _FOLDER, dir_fd=dir_fd)
        try:
            while names := os.listdir(top):
                for name in names:
                    _remove_or_lift(name, top)
        finally:
            os.close(top)
        os.rmdir(path, dir_fd=dir_fd)


def _remove_or_lift(name: str, top: int) -> None:
    """Delete what is in a folder; folders in it that are not empty become the top's."""
    with suppress(IsADirectoryError):
        os.unlink(name, dir_fd=top)
        return
    handle = os.open(name, _FOLDER, dir_fd=top)
    try:
        for inner in os.listdir(handle):
            try:
                os.unlink(inner, dir_fd=handle)
            except IsADirectoryError:
                os.rename(inner, secrets.token_hex(16), src_dir_fd=handle, dst_dir_fd=top)
    finally:
        os.close(handle)
    os.rmdir(name, dir_fd=top)
