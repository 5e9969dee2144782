"""Whatever an archive holds, nothing is written outside of its folder, and bad bytes never cause another error."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from localml.core.errors import Code, LocalmlError
from localml.objects import ArchiveInfo, Limits, inspect_archive, unpack

SMALL = Limits(files=200, size=1 << 20)
PARTS = ["a", "b", "c", "..", ".", "", "dest", "victim", "é", "A"]
TYPES = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE]

paths = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join)
targets = paths | st.sampled_from(["/", "..", "../victim", "../victim/x", "a/../../victim", ".", "a/b/../.."])
tar_entries = st.lists(st.tuples(paths, st.sampled_from(TYPES), targets, st.binary(max_size=8)), max_size=8)
zip_entries = st.lists(
    st.tuples(paths, st.sampled_from([0, 0o100644, 0o120777, 0o040755, 0o010644]), targets, st.binary(max_size=8)),
    max_size=8,
)


def make_tar(entries: list[tuple[str, bytes, str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, kind, target, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            entry.size = len(data) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def make_zip(entries: list[tuple[str, int, str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w") as archive:
        warnings.simplefilter("ignore")
        for name, mode, target, data in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, target.encode() if mode == 0o120777 else data)
    return packed.getvalue()


def unpack_in_a_box(data: bytes) -> None:
    """Unpack into a folder beside files of somebody else, then look at everything around it."""
    with tempfile.TemporaryDirectory() as folder:
        box = Path(folder).resolve() / "box"
        victim = box / "victim"
        victim.mkdir(parents=True)
        (victim / "x").write_bytes(b"untouched")
        dest = box / "dest"
        looked = outcome(lambda: inspect_archive(io.BytesIO(data), SMALL))
        done = outcome(lambda: unpack(io.BytesIO(data), dest, SMALL))
        assert done == looked
        if isinstance(done, ArchiveInfo):
            assert sorted(os.listdir(box)) == ["dest", "victim"]
            assert sorted(os.listdir(dest)) == sorted(done.top_names)
            assert all(Path(os.path.realpath(path)).is_relative_to(dest) for path in dest.rglob("*"))
        else:
            assert done[0] in (Code.INVALID, Code.TOO_LARGE)
            assert os.listdir(box) == ["victim"]
        assert os.listdir(victim) == ["x"]
        assert (victim / "x").read_bytes() == b"untouched"
        assert (victim / "x").stat().st_nlink == 1


def outcome(act: Callable[[], ArchiveInfo]) -> ArchiveInfo | tuple[Code, str]:
    try:
        return act()
    except LocalmlError as error:
        return error.code, error.message


@given(entries=tar_entries)
@settings(max_examples=200, deadline=None)
def test_no_tar_writes_outside_of_its_folder(entries: list[tuple[str, bytes, str, bytes]]) -> None:
    unpack_in_a_box(make_tar(entries))


@given(entries=zip_entries)
@settings(max_examples=100, deadline=None)
def test_no_zip_writes_outside_of_its_folder(entries: list[tuple[str, int, str, bytes]]) -> None:
    unpack_in_a_box(make_zip(entries))


GOOD_TAR = make_tar([("a/b", tarfile.REGTYPE, "", b"x" * 8), ("c", tarfile.SYMTYPE, "a/b", b""), ("d", b"0", "", b"y")])
GOOD = [
    GOOD_TAR[:4096],
    gzip.compress(GOOD_TAR),
    bz2.compress(GOOD_TAR),
    lzma.compress(GOOD_TAR),
    make_zip([("a/b", 0o100644, "", b"x" * 8), ("c", 0o120777, "a/b", b"")]),
]
changes = st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=6)


@given(data=st.sampled_from(GOOD), changed=changes, end=st.integers(0, 4096))
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_are_refused_or_harmless(data: bytes, changed: list[tuple[int, int]], end: int) -> None:
    damaged = bytearray(data)
    for place, value in changed:
        damaged[place % len(damaged)] = value
    unpack_in_a_box(bytes(damaged[:end] if end < 1000 else damaged))


@given(
    data=st.binary(max_size=2000), magic=st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0"])
)
@settings(max_examples=100, deadline=None)
def test_bytes_that_only_begin_like_an_archive_are_refused(data: bytes, magic: bytes) -> None:
    unpack_in_a_box(magic + data)


@given(changed=changes)
@settings(max_examples=200, deadline=None)
def test_a_tar_header_with_a_right_checksum_and_odd_values_is_refused_or_harmless(
    changed: list[tuple[int, int]],
) -> None:
    block = bytearray(GOOD_TAR[:512])
    for place, value in changed:
        block[place % 512] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    unpack_in_a_box(bytes(block) + GOOD_TAR[512:])
