"""A folder of objects as a zip that is made while it is sent."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.people import add_workspaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localml.core.buckets.records import BucketRecords
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.people.rights import MemberRole
from localml.objects import Buckets, BucketsFor
from localml.objects.zips import zip_blocks
from localml.store.database import Database
from localml.store.schema import prepare

ME = Caller(1, "me", False, "mine", "", {"mine": MemberRole.OWNER})
OUT = "s3://results/out"
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20
)


@pytest.fixture
def view(tmp_path: Path) -> Iterator[BucketsFor]:
    database = Database(prepare(tmp_path))
    add_workspaces(database, "mine")
    yield BucketsFor(Buckets(tmp_path / "buckets"), BucketRecords(database, ManualClock()), ME)
    database.close()


def put(view: BucketsFor, name: str, content: bytes) -> None:
    with view.open(f"{OUT}/{name}", "wb") as file:
        file.write(content)


def unzipped(view: BucketsFor) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(b"".join(zip_blocks(view, OUT)))) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES.filter(lambda name: name not in (".", "..")), st.binary(max_size=300), max_size=5))
def test_every_name_and_every_byte_is_there(view: BucketsFor, files: dict[str, bytes]) -> None:
    view.make_folder(OUT)
    view.delete(OUT, recursive=True)
    put(view, "first", b"")
    for name, content in files.items():
        put(view, f"deep/er/{name}", content)
    assert unzipped(view) == {"first": b""} | {f"deep/er/{name}": content for name, content in files.items()}


def test_links_to_objects_are_their_content_and_what_leads_out_is_left_out(view: BucketsFor, tmp_path: Path) -> None:
    put(view, "a", b"1")
    folder = tmp_path / "buckets" / "results" / "out"
    (folder / "again").symlink_to("a")
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / "nowhere").symlink_to("b")
    os.mkfifo(folder / "pipe")
    assert unzipped(view) == {"a": b"1", "again": b"1"}


def test_what_grows_or_goes_meanwhile_harms_nothing(view: BucketsFor, tmp_path: Path) -> None:
    folder = tmp_path / "buckets" / "results" / "out"
    put(view, "a", os.urandom(1 << 20))
    put(view, "b", b"gone")
    put(view, "c", b"first")
    blocks = zip_blocks(view, OUT)
    head = next(blocks)
    (folder / "b").unlink()
    with (folder / "c").open("ab") as file:
        file.write(b" and more")
    with zipfile.ZipFile(io.BytesIO(head + b"".join(blocks))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a", "c"]
        assert archive.read("c") == b"first"


def test_old_and_far_away_times_are_as_near_as_a_zip_has_them(view: BucketsFor, tmp_path: Path) -> None:
    for name, seconds in (("old", 0), ("new", 5_000_000_000)):
        put(view, name, b"")
        os.utime(tmp_path / "buckets" / "results" / "out" / name, (seconds, seconds))
    with zipfile.ZipFile(io.BytesIO(b"".join(zip_blocks(view, OUT)))) as archive:
        assert [one.date_time[0] for one in archive.infolist()] == [2107, 1980]


def test_no_folder_and_an_empty_one_are_told_before_anything_is_sent(view: BucketsFor) -> None:
    view.make_folder("s3://results/empty")
    for name in ("none", "empty"):
        with pytest.raises(LocalmlError) as found:
            zip_blocks(view, f"s3://results/{name}")
        assert found.value.code is Code.NOT_FOUND


def test_what_is_pressed_already_is_not_pressed_again(view: BucketsFor) -> None:
    put(view, "random", os.urandom(1 << 20))
    put(view, "text", b"a line of a log\n" * 10_000)
    with zipfile.ZipFile(io.BytesIO(b"".join(zip_blocks(view, OUT)))) as archive:
        sizes = {one.filename: one.compress_size / one.file_size for one in archive.infolist()}
    assert 1 <= sizes["random"] < 1.001
    assert sizes["text"] < 0.1


def test_a_large_result_takes_no_more_memory_than_a_small_one(view: BucketsFor) -> None:
    put(view, "large", os.urandom(1 << 20) * 32)
    tracemalloc.start()
    try:
        sent = sum(map(len, zip_blocks(view, OUT)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent > 32 << 20
    assert peak < 4 << 20


@pytest.mark.long
def test_objects_and_archives_beyond_4_gib_have_64_bit_sizes(view: BucketsFor, tmp_path: Path) -> None:
    put(view, "last", b"x")
    size = (4 << 30) + 12345
    with (tmp_path / "buckets" / "results" / "out" / "huge").open("wb") as file:
        file.truncate(size)
    target = tmp_path / "huge.zip"
    with target.open("wb") as file:
        for block in zip_blocks(view, OUT):
            file.write(block)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert archive.getinfo("huge").file_size == size
        assert archive.read("last") == b"x"
