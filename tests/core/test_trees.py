"""Folders that somebody made to be in the way: they are deleted all the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localml.core.trees import remove_tree

DEPTH = 1200


def deep(top: Path) -> None:
    """Folders that lie in each other, with a file and a link at the bottom."""
    handle = os.open(top, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=handle)
        deeper = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = deeper
    os.symlink("/", "link", dir_fd=handle)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)


def test_folders_that_lie_thousands_deep_in_each_other_go(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        deep(tmp_path / name)
    remove_tree(tmp_path / "one")
    handle = os.open(tmp_path, os.O_RDONLY)
    remove_tree("two", dir_fd=handle)
    os.close(handle)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_no_more_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remove_tree(tmp_path / "missing")


def test_links_are_deleted_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    deep(tmp_path / "gone")
    remove_tree(tmp_path / "gone")
    assert (tmp_path / "kept" / "file").exists()
    assert not (tmp_path / "gone").exists()
