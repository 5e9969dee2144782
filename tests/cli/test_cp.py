"""What ``cp`` copies: all of a folder, or it says what it left out and exits with 1."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localml.testing import Localml

Cli = Callable[..., Any]


def uris(cli: Cli, uri: str) -> list[str]:
    """All that is below a folder of objects, without its beginning."""
    found = cli("ls", "-r", uri, "--json").json["objects"]
    return [one["uri"].removeprefix(uri) + "/" * one["is_folder"] for one in found]


@pytest.mark.parametrize("target", ["fds://whole", "fds://whole/", "s3://whole"])
def test_a_file_for_a_bucket_goes_into_it(cli: Cli, localml: Localml, tmp_path: Path, target: str) -> None:
    (tmp_path / "word.txt").write_text("hello")
    done = cli("cp", str(tmp_path / "word.txt"), target)
    assert (done.code, done.err) == (0, f"1 file(s), 5 bytes: {tmp_path}/word.txt -> {target}\n")
    assert uris(cli, "fds://whole") == ["/word.txt"]
    assert (localml.platform.data / "buckets" / "whole").is_dir()
    cli("buckets", "delete", "whole", "-r")


def test_a_file_for_a_folder_goes_into_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_text("hello")
    path = str(tmp_path / "word.txt")
    for target in ("fds://into/folder/first", "fds://into/folder", "fds://into/new"):
        assert cli("cp", path, target).code == 0
    assert uris(cli, "fds://into") == ["/folder/", "/folder/first", "/folder/word.txt", "/new"]


def test_no_request_makes_a_file_of_a_bucket(localml: Localml) -> None:
    for uri in ("fds://none", "hdfs://host:9000", "s3://none"):
        with pytest.raises(Exception, match="names a bucket, and no object in it") as refused:
            localml.client.put(uri, b"words")
        assert refused.value.field == "uri"  # type: ignore[attr-defined]
    assert "none" not in [one.name for one in localml.client.buckets()]


def test_links_are_followed_and_empty_folders_kept(cli: Cli, tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    (source / "empty" / "deep").mkdir(parents=True)
    (elsewhere / "inner").mkdir(parents=True)
    (elsewhere / "inner" / "a").write_text("a")
    (source / "linked").symlink_to(elsewhere)
    (source / "file").symlink_to(elsewhere / "inner" / "a")
    done = cli("cp", str(source), "fds://links/x")
    assert (done.code, done.err) == (0, f"2 file(s), 2 bytes: {source} -> fds://links/x\n")
    names = ["/empty/", "/empty/deep/", "/file", "/linked/", "/linked/inner/", "/linked/inner/a"]
    assert uris(cli, "fds://links/x") == names
    assert cli("cp", "fds://links/x", str(tmp_path / "back")).code == 0
    assert sorted("/" + str(one.relative_to(tmp_path / "back")) for one in (tmp_path / "back").rglob("*")) == [
        one.rstrip("/") for one in names
    ]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with all that cannot be copied, and one file that can."""
    folder = tmp_path / "odd"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "fine").write_text("fine")
    (folder / "in" / "around").symlink_to(folder)
    (folder / "broken").symlink_to("nowhere")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    (folder / os.fsdecode(b"latin-\xe9")).write_text("x")
    (folder / ".localml-part-1").write_text("x")
    return folder


LEFT_OUT = {
    "broken": "a link that leads nowhere",
    "circle": "Too many levels of symbolic links",
    "in/around": "a link to a folder that it lies in",
    "pipe": "a pipe",
    "socket": "a socket",
    "latin-\\xe9": "its name is not UTF-8",
    ".localml-part-1": "uri: names that start with '.localml-part-' are kept for files being written",
}


def test_what_is_left_out_is_named(cli: Cli, odd: Path) -> None:
    done = cli("cp", str(odd), "fds://odd/x")
    assert done.code == 1
    assert uris(cli, "fds://odd/x") == ["/in/", "/in/fine"]
    lines = done.err.splitlines()
    assert sorted(lines[:-1]) == sorted(f"left out: {odd}/{name}: {why}" for name, why in LEFT_OUT.items())
    assert lines[-1] == f"1 file(s), 4 bytes: {odd} -> fds://odd/x; 7 left out"
    found = cli("cp", str(odd), "fds://odd/x", "--json")
    assert found.code == 1
    assert {one["path"].removeprefix(f"{odd}/"): one["reason"] for one in found.json["left_out"]} == LEFT_OUT


def test_a_model_of_which_something_would_be_left_out_is_not_registered(cli: Cli, odd: Path) -> None:
    done = cli("register", "odd", str(odd))
    assert (done.code, f"{odd}/broken: a link that leads nowhere" in done.err) == (1, True)
    assert "odd" not in cli("models").out


def test_links_that_cross_make_no_copy_without_end(cli: Cli, tmp_path: Path) -> None:
    """Twelve folders, each of which has links to all: 12! ways, if each were gone."""
    folders = [tmp_path / "crossed" / f"f{number}" for number in range(12)]
    for folder in folders:
        folder.mkdir(parents=True)
    for folder in folders:
        for other in folders:
            (folder / other.name).symlink_to(other)
    done = cli("cp", str(tmp_path / "crossed"), "fds://crossed/x", "--json")
    assert done.code == 1
    assert {one["reason"] for one in done.json["left_out"]} == {
        "a link to a folder that it lies in",
        "a link to a folder that was copied 16 times by now",
    }


def test_a_file_that_grows_or_shrinks_while_it_is_sent(cli: Cli, tmp_path: Path, localml: Localml) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1000)
    with path.open("rb") as file, path.open("ab") as writer:
        sizes = _Sizes(file, lambda: writer.write(b"y" * 50_000) and writer.flush())
        assert localml.client.put("fds://moving/grows", sizes) == 1000  # type: ignore[arg-type]
    path.write_bytes(b"x" * 100_000)
    with path.open("rb") as file:
        sizes = _Sizes(file, lambda: os.truncate(path, 10))
        with pytest.raises(Exception, match="became shorter while it was read: 100000 bytes were announced"):
            localml.client.put("fds://moving/shrinks", sizes)  # type: ignore[arg-type]
    assert uris(cli, "fds://moving") == ["/grows"]


class _Sizes:
    """A file to which something happens before its first byte is read."""

    def __init__(self, file: Any, then: Callable[[], object]) -> None:
        self.file, self.then = file, then
        self.fileno, self.tell = file.fileno, file.tell

    def read(self, size: int = -1) -> bytes:
        self.then()
        self.then = lambda: None
        return bytes(self.file.read(size))


@pytest.fixture
def tree(localml: Localml) -> Path:
    """What a job left in a bucket: a link to the newest run, one that leads out, one to nowhere, a pipe."""
    localml.client.put("fds://runs/out/run2/weights", b"w" * 10)
    folder = localml.platform.data / "buckets" / "runs" / "out"
    for name, target in {"latest": "run2", "away": "/etc", "broken": "nowhere", "run2/up": ".."}.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    return folder


def test_links_in_a_bucket_are_followed_out_and_what_is_left_out_named(cli: Cli, tree: Path, tmp_path: Path) -> None:
    done = cli("cp", "fds://runs/out", str(tmp_path / "back"))
    assert done.code == 1
    assert (tmp_path / "back" / "latest" / "weights").read_bytes() == b"w" * 10
    lines = done.err.splitlines()
    assert sorted(lines[:-1]) == [
        "left out: fds://runs/out/away: a link that leads out of its bucket",
        "left out: fds://runs/out/broken: a link that leads nowhere",
        "left out: fds://runs/out/latest/up: a link to a folder that it lies in",
        "left out: fds://runs/out/pipe: neither a file nor a folder",
        "left out: fds://runs/out/run2/up: a link to a folder that it lies in",
    ]
    assert lines[-1] == f"2 file(s), 20 bytes: fds://runs/out -> {tmp_path}/back; 5 left out"


def test_what_is_there_keeps_its_kind_its_mode_and_its_neighbours(cli: Cli, localml: Localml, tmp_path: Path) -> None:
    """A link is written through, a pipe (or /dev/stdout) is written to, and no name of the user's is used."""
    localml.client.put("fds://kinds/new", b"new")
    target, link, pipe, part = (tmp_path / name for name in ("target", "link", "pipe", "target.part"))
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    part.write_bytes(b"mine")
    assert cli("cp", "fds://kinds/new", str(link)).code == 0
    assert (link.is_symlink(), target.read_bytes(), target.stat().st_mode & 0o777) == (True, b"new", 0o600)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert cli("cp", "fds://kinds/new", str(pipe)).code == 0
        assert (os.read(reader, 10), pipe.is_fifo()) == (b"new", True)
    finally:
        os.close(reader)
    assert part.read_bytes() == b"mine"
    assert cli("cp", "fds://kinds/new", "/dev/full").err == "error: /dev/full: No space left on device\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "pipe", "target", "target.part"]


def test_where_one_file_cannot_be_written_the_others_are(cli: Cli, localml: Localml, tmp_path: Path) -> None:
    for name in ("a", "sub/b", "z"):
        localml.client.put(f"fds://inways/x/{name}", name.encode())
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "sub").write_bytes(b"a file")
    done = cli("cp", "fds://inways/x", str(tmp_path / "out"))
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[-1] == f"1 file(s), 1 bytes: fds://inways/x -> {tmp_path}/out; 3 left out"
    assert f"left out: fds://inways/x/a: {tmp_path}/out/a: Is a directory" in lines
    assert (tmp_path / "out" / "z").read_bytes() == b"z"
    assert cli("cp", "fds://inways/x/a", str(tmp_path / "out" / "a" / "b" / "c")).code == 0
    assert cli("cp", "fds://inways/x", str(tmp_path / "out" / "z")).err == f"error: {tmp_path}/out/z: File exists\n"


def test_pipes_beside_files_of_a_container_hold_up_no_copy(cli: Cli, localml: Localml, tmp_path: Path) -> None:
    there, here, begun = (tmp_path / name for name in ("there", "here", "begun"))
    there.mkdir()
    (there / "file").write_text("words")
    (there / "abroad").symlink_to("/etc/hostname")
    (there / "link").symlink_to("file")
    os.mkfifo(there / "pipe")
    os.mkfifo(begun)
    job = localml.client.run(["sh", "-c", f"echo > {begun}; exec sleep 600"])
    begun.read_bytes()
    done = cli("cp", f"id/{job.id}:{there}", str(here))
    assert done.code == 1
    assert f"left out: {there}/pipe: neither a file nor a folder\n" in done.err
    assert f"left out: {there}/abroad: Symlink target is an absolute path\n" in done.err
    assert sorted(one.name for one in here.iterdir()) == ["file", "link"]
    missing = cli("cp", f"id/{job.id}:{there}/nope", str(here)).err
    assert missing == f"error: {there}/nope: No such file or directory\n"
    refused = cli("cp", str(there), f"id/{job.id}:{tmp_path}/into")
    assert (refused.code, f"{there}/pipe is neither a file nor a folder" in refused.err) == (1, True)
    assert not (tmp_path / "into").exists()
    localml.client.delete(job.id)
