"""Objects are written whole, read only from the tree, listed, copied and deleted."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from localml.core.errors import Code, LocalmlError
from localml.objects import Buckets
from localml.objects.files import AtomicFile, folder_handle


@pytest.fixture
def buckets(tmp_path: Path) -> Buckets:
    return Buckets(tmp_path / "tree")


def write(buckets: Buckets, uri: str, data: bytes = b"data") -> None:
    with buckets.open(uri, "wb") as file:
        file.write(data)


def read(buckets: Buckets, uri: str) -> bytes:
    with buckets.open(uri) as file:
        return file.read()


def failure(code: Code, field: str | None = "uri") -> object:
    return pytest.raises(LocalmlError, check=lambda e: (e.code, e.field) == (code, field))  # type: ignore[attr-defined]


def test_what_is_written_under_one_scheme_is_read_under_another(buckets: Buckets) -> None:
    write(buckets, "fds://b/new/folder/x")
    assert read(buckets, "/b/new/folder/x") == b"data"
    assert buckets.exists("obs://b/new")
    assert not buckets.exists("obs://b/else")


def test_an_object_appears_only_when_it_is_complete(buckets: Buckets) -> None:
    write(buckets, "s3://b/x", b"old")
    with buckets.open("s3://b/x", "wb") as file:
        file.write(b"new")
        file.flush()
        assert read(buckets, "s3://b/x") == b"old"
        assert [info.name for info in buckets.list("s3://b")] == ["x"]
    assert read(buckets, "s3://b/x") == b"new"


def test_a_failed_or_forgotten_write_leaves_what_was_there(buckets: Buckets) -> None:
    write(buckets, "s3://b/x", b"old")
    broken = buckets.open("s3://b/x", "wb")
    broken.write(b"half")
    with pytest.raises(ZeroDivisionError), broken:
        broken.write(bytes(1 // 0))
    forgotten = buckets.open("s3://b/x", "wb")
    forgotten.write(b"half")
    del forgotten
    assert read(buckets, "s3://b/x") == b"old"
    assert os.listdir(buckets.root / "b") == ["x"]


def test_a_folder_says_whether_it_is_new_and_may_be_open_to_all(buckets: Buckets) -> None:
    assert buckets.make_folder("s3://b/above/shared", shared=True)
    assert not buckets.make_folder("s3://b/above/shared")
    assert not buckets.make_folder("s3://b/above", shared=True)
    shared, above = (stat.S_IMODE((buckets.root / path).stat().st_mode) for path in ("b/above/shared", "b/above"))
    assert shared == 0o777 != above
    with buckets.open("s3://b/object", "wb"):
        pass
    with pytest.raises(LocalmlError, match="is a file"):
        buckets.make_folder("s3://b/object")


def test_a_write_onto_a_folder_is_refused_and_leaves_nothing(buckets: Buckets, tmp_path: Path) -> None:
    buckets.make_folder("s3://b/folder")
    with failure(Code.INVALID):
        buckets.open("s3://b/folder", "wb")
    with failure(Code.INVALID):
        buckets.open("s3://b/new/", "wb")
    with folder_handle(buckets.root, ("b",)) as handle:
        file = AtomicFile("folder", handle)
        with pytest.raises(IsADirectoryError):
            file.close()
        file.close()
    assert os.listdir(buckets.root / "b") == ["folder"]


def test_a_text_or_appending_mode_is_a_mistake_of_the_caller(buckets: Buckets) -> None:
    with pytest.raises(ValueError, match="'rb' or 'wb'"):
        buckets.open("s3://b/x", "a")  # type: ignore[arg-type]


def test_what_does_not_exist_is_not_found(buckets: Buckets, tmp_path: Path) -> None:
    for act in (buckets.open, buckets.stat, buckets.size, buckets.list, buckets.delete):
        with pytest.raises(LocalmlError, match="s3://b/none") as caught:
            act("s3://b/none")  # type: ignore[operator]
        assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(LocalmlError, match="does not exist"):
        buckets.get("s3://b/none", tmp_path / "x")
    with pytest.raises(LocalmlError, match="does not exist"):
        buckets.put(tmp_path / "none", "s3://b/x")


def test_reading_a_folder_or_below_an_object_is_refused(buckets: Buckets) -> None:
    write(buckets, "s3://b/x")
    for uri in ("s3://b", "s3://b/x/y"):
        with pytest.raises(LocalmlError) as caught:
            buckets.open(uri)
        assert caught.value.code == Code.INVALID


def test_a_pipe_that_somebody_left_does_not_hang_the_reader(buckets: Buckets) -> None:
    buckets.make_folder("s3://b")
    os.mkfifo(buckets.root / "b" / "pipe")
    with failure(Code.INVALID):
        buckets.open("s3://b/pipe")


def test_a_folder_swapped_for_a_link_after_the_check_is_not_followed(buckets: Buckets, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    buckets.make_folder("s3://b")
    (buckets.root / "b" / "folder").symlink_to(tmp_path / "secret")
    for create in (False, True):
        with pytest.raises(OSError), folder_handle(buckets.root, ("b", "folder"), create=create):  # noqa: PT011
            pass


def test_a_list_is_sorted_and_keeps_the_callers_uri(buckets: Buckets) -> None:
    for name in ("b.txt", "a/deep/x", "a/y"):
        write(buckets, f"obs://data/in/{name}")
    assert [(info.uri, info.is_folder, info.size) for info in buckets.list("obs://data//in/")] == [
        ("obs://data//in/a", True, 0),
        ("obs://data//in/b.txt", False, 4),
    ]
    assert [info.uri for info in buckets.list("/data/in", recursive=True)] == [
        "/data/in/a",
        "/data/in/a/deep",
        "/data/in/a/deep/x",
        "/data/in/a/y",
        "/data/in/b.txt",
    ]
    (only,) = buckets.list("obs://data/in/b.txt")
    assert only == buckets.stat("obs://data/in/b.txt")
    assert (only.name, buckets.size("obs://data"), buckets.size(only.uri)) == ("b.txt", 12, 4)


def test_links_are_listed_if_they_stay_inside_and_never_walked_in_circles(buckets: Buckets) -> None:
    write(buckets, "s3://b/real/x")
    folder = buckets.root / "b"
    for name, target in (("in", "real"), ("up", "."), ("out", "/etc"), ("gone", "nowhere"), ("loop", "loop")):
        (folder / name).symlink_to(target)
    assert [info.name for info in buckets.list("s3://b")] == ["in", "real", "up"]
    assert [info.uri for info in buckets.list("s3://b", recursive=True)][-2:] == ["s3://b/real/x", "s3://b/up"]
    assert buckets.size("s3://b") == 4


def test_a_folder_is_copied_in_and_out_with_progress(buckets: Buckets, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "big").write_bytes(os.urandom(3 << 20))
    (source / "sub" / "small").write_bytes(b"12345")
    (source / "alias").symlink_to("sub/small")
    steps: list[int] = []
    total = (3 << 20) + 10
    assert buckets.put(source, "fds://b/data/", progress=steps.append) == total
    assert (sum(steps), len(steps)) == (total, 5)
    assert buckets.get("fds://b/data", tmp_path / "back", progress=steps.append) == total
    assert (tmp_path / "back" / "big").read_bytes() == (source / "big").read_bytes()
    assert (tmp_path / "back" / "alias").read_bytes() == b"12345"
    assert (tmp_path / "back" / "sub" / "empty").is_dir()


def test_a_file_is_copied_to_a_name_or_into_a_folder(buckets: Buckets, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights")
    buckets.put(file, "s3://b/renamed")
    buckets.put(file, "s3://b/models/")
    assert read(buckets, "s3://b/renamed") == read(buckets, "s3://b/models/model.onnx") == b"weights"
    assert buckets.get("s3://b/renamed", tmp_path) == 7
    assert (tmp_path / "renamed").read_bytes() == b"weights"
    buckets.get("s3://b/renamed", tmp_path / "new" / "name")
    assert (tmp_path / "new" / "name").read_bytes() == b"weights"


def test_copying_in_refuses_circles_and_pipes(buckets: Buckets, tmp_path: Path) -> None:
    circle, odd = tmp_path / "circle", tmp_path / "odd"
    for folder in (circle, odd):
        folder.mkdir()
    (circle / "self").symlink_to(".")
    os.mkfifo(odd / "pipe")
    for folder in (circle, odd):
        with failure(Code.INVALID, "source"):
            buckets.put(folder, "s3://b/x", field="source")


def test_copying_out_refuses_links_that_leave_and_keeps_those_inside(buckets: Buckets, tmp_path: Path) -> None:
    write(buckets, "s3://b/run/ckpt-1/weights")
    write(buckets, "s3://b/other/x")
    run = buckets.root / "b" / "run"
    (run / "latest").symlink_to("ckpt-1")
    assert buckets.get("s3://b/run", tmp_path / "out") == 4
    assert (tmp_path / "out" / "latest" / "weights").read_bytes() == b"data"
    for target in ("/etc/hosts", "../other", "nowhere"):
        (run / "odd").unlink(missing_ok=True)
        (run / "odd").symlink_to(target)
        with failure(Code.INVALID):
            buckets.get("s3://b/run", tmp_path / "second")


def test_deleting_takes_folders_only_when_told_and_links_as_links(buckets: Buckets) -> None:
    write(buckets, "s3://b/keep/x")
    write(buckets, "s3://b/gone/x")
    (buckets.root / "b" / "link").symlink_to("keep")
    (buckets.root / "b" / "out").symlink_to("/etc")
    buckets.delete("s3://b/link")
    buckets.delete("s3://b/out")
    with failure(Code.WRONG_STATE):
        buckets.delete("s3://b/gone")
    buckets.delete("s3://b/gone", recursive=True)
    buckets.delete("s3://b/keep/x")
    assert [info.uri for info in buckets.list("s3://b", recursive=True)] == ["s3://b/keep"]
    buckets.delete("s3://b", recursive=True)
    assert os.listdir(buckets.root) == []
    assert Path("/etc").is_dir()


def test_two_writers_of_one_object_leave_one_whole_version(buckets: Buckets) -> None:
    versions = [bytes([letter]) * (1 << 20) for letter in b"abcd"]
    writers = [threading.Thread(target=write, args=(buckets, "s3://b/x", data)) for data in versions]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert read(buckets, "s3://b/x") in versions
    assert os.listdir(buckets.root / "b") == ["x"]
