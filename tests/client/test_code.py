"""A folder of code: what of it is packed, and that jobs run it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from helpers.rig import wait_until

from localml.client import ClientError
from localml.client.code import Packed, listed, pack
from localml.testing import Localml

MIB = 1 << 20


def make(folder: Path, **files: str) -> Path:
    """A folder with these files; ``__`` in a name stands for a slash, ``DOT`` for a dot at its start."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(folder: Path) -> set[str]:
    return {path for path in listed(folder).paths if not path.endswith("/")}


def test_what_git_ignores_stays_behind(tmp_path: Path) -> None:
    make(
        tmp_path, train="", DOTgitignore="*.bin\n/data/\n!keep.bin\n", a="", x="", sub__deep="",
    )  # fmt: skip
    for name in ("a.bin", "keep.bin", "sub/b.bin", ".git/config", "data/big", "sub/data/small", "__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names(tmp_path) == {".gitignore", "train", "a", "x", "keep.bin", "sub/deep", "sub/data/small"}


def test_a_folders_own_patterns_go_before_those_above_and_localmlignore_before_gitignore(tmp_path: Path) -> None:
    make(tmp_path, DOTgitignore="*.log\n*.tmp\n", DOTlocalmlignore="!wanted.tmp\nnotes\n", notes="", a="")
    for name in ("x.log", "wanted.tmp", "other.tmp", "sub/y.log", "sub/notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "sub" / ".gitignore").write_text("!y.log\n")
    found = names(tmp_path) - {".gitignore", ".localmlignore", "sub/.gitignore"}
    assert found == {"a", "wanted.tmp", "sub/y.log"}


def test_a_part_of_a_repository_has_the_patterns_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    make(tmp_path, DOTgitignore="/app/out/\n*.bin\nbuild/\n", app__main="", app__out__x="", build__x="")
    (tmp_path / "app" / "x.bin").write_text("")
    assert names(tmp_path / "app") == {"main"}
    assert names(tmp_path / "build") == {"x"}  # asked for by its name, so it is meant


def test_the_same_content_is_the_same_code_whenever_and_wherever(tmp_path: Path) -> None:
    one, two = (make(tmp_path / name, train="print()", sub__x="1") for name in ("one", "two"))
    os.utime(two / "train", (1, 1))
    with pack(one, MIB) as first, pack(two, MIB) as second:
        assert first.code == second.code
        assert (first.files, first.size) == (2, 8)
    (two / "train").chmod(0o755)
    with pack(two, MIB) as third:
        assert third.code != first.code


def test_links_that_lead_out_and_pipes_are_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "code", a="a")
    (folder / "in").symlink_to("a")
    (folder / "out").symlink_to("../elsewhere")
    (folder / "etc").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    with pack(folder, MIB) as packed:
        assert [one.split()[0] for one in packed.left_out] == ["etc", "out", "pipe"]
        with tarfile.open(fileobj=packed.file) as archive:
            assert archive.getnames() == ["a", "in"]


def test_too_much_is_refused_with_what_is_largest_and_what_to_do(tmp_path: Path) -> None:
    folder = make(tmp_path, train="x", data__a="x" * 5000, data__b="x" * 5000, weights="x" * 3000)
    with pytest.raises(ClientError) as refused, pack(folder, 4096):
        pass
    for words in ("12.7K in 4 files", "at most 4K", "data/ 9.77K, weights 2.93K", ".localmlignore", "--code-limit"):
        assert words in refused.value.message
    assert refused.value.code == "too_large"
    with pytest.raises(ClientError, match="is not a folder"), pack(folder / "train", 4096):
        pass


def test_a_job_runs_in_a_copy_of_the_folder(localml: Localml, tmp_path: Path) -> None:
    """What it writes there is its own: the folder, and the next job, are as they were."""
    folder = make(tmp_path / "code", sub__helper="hello", run="cat sub/helper; ls; touch made; test -x run && echo x\n")
    (folder / "run").chmod(0o755)
    for _ in range(2):
        done = localml.client.run(["sh", "./run"], code=folder, wait=True, timeout=60)
        assert (done.state, localml.client.text(done.id)) == ("succeeded", "hellorun\nsub\nx\n"), done.message
    deeper = localml.client.run(["cat", "helper"], code=str(folder), workdir="sub", wait=True, timeout=60)
    assert localml.client.text(deeper.id) == "hello"
    assert sorted(os.listdir(folder)) == ["run", "sub"]
    runs = localml.platform.data / "code" / "runs"
    localml.client.delete(deeper.id)
    wait_until(lambda: not list(runs.iterdir()))


def test_each_replica_has_a_copy_of_its_own(localml: Localml, tmp_path: Path) -> None:
    code = localml.client.send_code(make(tmp_path, a="x"))
    spec = {"roles": [{"command": ["sh", "-c", "mkdir mine && ls"], "count": 3}], "code": code}
    done = localml.client.wait(localml.client.submit(spec).id, 60)
    assert done.state == "succeeded", done.message


def test_the_same_code_is_sent_once(localml: Localml, tmp_path: Path) -> None:
    sent: list[bool] = []

    def tell(packed: Packed, new: bool) -> None:
        sent.append(new)

    folder = make(tmp_path, once="only this test has it")
    codes = {localml.client.send_code(folder, tell=tell) for _ in range(3)}
    assert (len(codes), sent) == (1, [True, False, False])
    assert localml.client.send_code(codes.pop(), tell=tell).startswith("sha256:")
    assert len(sent) == 3
