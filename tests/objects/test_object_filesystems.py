"""Libraries that speak fsspec open the platforms' URIs directly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import fsspec
import pytest
from fsspec.registry import _registry

from localml.core.errors import LocalmlError
from localml.objects import Buckets
from localml.objects.filesystems import register_fsspec


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with mock.patch.dict(_registry):
        register_fsspec(tmp_path)
        yield tmp_path


@pytest.mark.parametrize("uri", ["fds://b/k/x.csv", "obs://b/k/x.csv", "s3://b/k/x.csv", "hdfs://host:9000/k/x.csv"])
def test_an_object_is_written_and_read_back(root: Path, uri: str) -> None:
    with fsspec.open(uri, "wb") as file:
        file.write(b"1,2")
    with fsspec.open(uri, "rb") as file:
        assert file.read() == b"1,2"
    assert Buckets(root).path(uri).read_bytes() == b"1,2"


def test_folders_are_listed_globbed_and_removed(root: Path) -> None:
    fs = fsspec.filesystem("obs")
    for name in ("a.txt", "b.txt", "c.bin"):
        fs.pipe(f"obs://data/in/{name}", b"x")
    assert sorted(fs.ls("obs://data/in", detail=False)) == ["data/in/a.txt", "data/in/b.txt", "data/in/c.bin"]
    assert sorted(fs.glob("obs://data/in/*.txt")) == ["data/in/a.txt", "data/in/b.txt"]
    fs.rm("obs://data/in", recursive=True)
    assert not fs.exists("obs://data/in")
    assert not (root / "data" / "in").exists()


def test_the_rules_of_uris_hold_here_too(root: Path) -> None:
    (root / "b").mkdir()
    (root / "b" / "out").symlink_to("/etc")
    for uri in ("fds://b/../../etc/hosts", "fds://b/out/hosts"):
        with pytest.raises(LocalmlError), fsspec.open(uri) as file:
            file.read()
    with pytest.raises(FileNotFoundError), fsspec.open("fds://b/none") as file:
        file.read()


def test_a_new_root_replaces_the_old_one(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    fsspec.filesystem("fds").pipe("fds://b/x", b"old")
    register_fsspec(tmp_path_factory.mktemp("second"))
    assert not fsspec.filesystem("fds").exists("fds://b/x")
