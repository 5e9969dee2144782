"""Installed algorithms: what is taken, what is refused, what is left behind."""

from __future__ import annotations

import io
import tarfile
from functools import partial
from pathlib import Path

import pytest
from helpers.rig import ME, Rig
from sqlmodel import Session

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.studies.installed import Algorithms, Installation
from localml.core.studies.tables import Study, StudyState
from localml.objects.archives import Limits, unpack

OPTIMIZER = b"""from plugins.core.base_plugin_opt import BasePluginOptimizer
class PluginOptimizer(BasePluginOptimizer):
    pass
"""
USER = Caller(2, "ann", False, "w", "default")


def packed(files: dict[str, bytes], mode: str = "w:gz") -> io.BytesIO:
    """A tar of files; gzipped, as the vendor's notebook makes it, though it is called .tar there."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    packed.seek(0)
    return packed


@pytest.fixture
def algorithms(tmp_path: Path) -> Algorithms:
    return open_again(Rig(tmp_path), tmp_path)


def open_again(rig: Rig, data: Path) -> Algorithms:
    found = Algorithms(rig.db, rig.clock, data, unpack=partial(unpack, limits=Limits(files=100, size=1 << 20)))
    found.rig = rig  # type: ignore[attr-defined]
    return found


def failing(algorithms: Algorithms, new: Installation) -> LocalmlError:
    with pytest.raises(LocalmlError) as caught:
        algorithms.install(new)
    return caught.value


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("top", ["", "mine/"])
def test_an_uploaded_tar_is_kept_with_the_optimizer_at_its_top(algorithms: Algorithms, mode: str, top: str) -> None:
    files = {f"{top}optimizer.py": OPTIMIZER, f"{top}helper.py": b"x = 1"}
    row = algorithms.install(Installation("mine", ME, packed(files, mode), settings={"condaEnv": "a"}))
    folder = algorithms.folder(row)
    assert sorted(path.name for path in folder.iterdir()) == ["helper.py", "optimizer.py"]
    assert (row.uploaded, row.log_level, row.settings, row.owner) == (True, "INFO", {"condaEnv": "a"}, ME.name)
    assert [one.name for one in algorithms.page()] == ["mine"]
    algorithms.delete("mine")
    assert algorithms.page() == []
    assert list(folder.parent.iterdir()) == []


def test_a_folder_of_the_server_is_copied_for_administrators_alone(algorithms: Algorithms, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "optimizer.py").write_bytes(OPTIMIZER)
    assert failing(algorithms, Installation("mine", USER, path=str(source))).code is Code.FORBIDDEN
    row = algorithms.install(Installation("mine", ME, path=str(source)))
    (source / "optimizer.py").write_bytes(b"changed")
    assert (algorithms.folder(row) / "optimizer.py").read_bytes() == OPTIMIZER


@pytest.mark.parametrize(
    ("name", "files", "code", "words"),
    [
        ("mine", {"other.py": OPTIMIZER}, Code.INVALID, "optimizer.py"),
        ("mine", {"a/b/optimizer.py": OPTIMIZER}, Code.INVALID, "optimizer.py"),
        ("mine", {"optimizer.py": b"class Other: pass"}, Code.INVALID, "PluginOptimizer"),
        ("mine", {"../optimizer.py": OPTIMIZER}, Code.INVALID, "optimizer.py"),
        ("mine", {"optimizer.py": OPTIMIZER, "big": bytes(2 << 20)}, Code.TOO_LARGE, "big"),
        ("Tpe", {"optimizer.py": OPTIMIZER}, Code.CONFLICT, "built-in"),
        ("a b", {"optimizer.py": OPTIMIZER}, Code.INVALID, "name"),
        ("..", {"optimizer.py": OPTIMIZER}, Code.INVALID, "name"),
    ],
)
def test_what_is_no_algorithm_is_refused_and_leaves_nothing(
    algorithms: Algorithms, tmp_path: Path, name: str, files: dict[str, bytes], code: Code, words: str
) -> None:
    error = failing(algorithms, Installation(name, ME, packed(files)))
    assert error.code is code
    assert words in error.message
    assert algorithms.page() == []
    assert not (tmp_path / "algorithms").exists() or list((tmp_path / "algorithms").iterdir()) == []


@pytest.mark.parametrize("path", ["relative", "/etc/hostname", "/nowhere", "/"])
def test_a_path_that_is_no_algorithm_is_refused(algorithms: Algorithms, path: str) -> None:
    assert failing(algorithms, Installation("mine", ME, path=path)).field == "path"
    assert failing(algorithms, Installation("mine", ME)).field == "path"


def test_a_folder_around_the_server_s_own_data_is_refused(algorithms: Algorithms, tmp_path: Path) -> None:
    (tmp_path / "optimizer.py").write_bytes(OPTIMIZER)
    assert "own data" in failing(algorithms, Installation("mine", ME, path=str(tmp_path))).message


def test_bytes_that_are_no_archive_are_refused(algorithms: Algorithms) -> None:
    assert failing(algorithms, Installation("mine", ME, io.BytesIO(b"no archive"))).code is Code.INVALID


def test_a_name_is_taken_once(algorithms: Algorithms) -> None:
    algorithms.install(Installation("mine", ME, packed({"optimizer.py": OPTIMIZER})))
    assert failing(algorithms, Installation("mine", ME, packed({"optimizer.py": OPTIMIZER}))).code is Code.CONFLICT
    assert len(algorithms.page()) == 1


@pytest.mark.parametrize("state", [StudyState.RUNNING, StudyState.COMPLETE])
def test_one_that_a_study_uses_stays(algorithms: Algorithms, state: StudyState) -> None:
    algorithms.install(Installation("mine", ME, packed({"optimizer.py": OPTIMIZER})))
    ended = 2.0 if state is StudyState.COMPLETE else None
    common = {"dialect": "native", "workspace": "w", "owner": "me", "pool": "root", "spec": "{}", "seed": 1}

    def act(session: Session) -> None:
        times = {"created_at": 1.0, "updated_at": 1.0, "ended_at": ended}
        session.add(Study(name="s", algorithm="mine", state=state, **common, **times))

    algorithms.rig.db.write(act)  # type: ignore[attr-defined]
    if ended is not None:
        algorithms.delete("mine")
        return
    with pytest.raises(LocalmlError, match="'s'") as caught:
        algorithms.delete("mine")
    assert caught.value.code is Code.WRONG_STATE
    assert algorithms.folder(algorithms.get("mine")).is_dir()


def test_what_is_not_there_or_built_in_is_not_deleted(algorithms: Algorithms) -> None:
    for name, code in (("nothing", Code.NOT_FOUND), ("Random", Code.FORBIDDEN)):
        with pytest.raises(LocalmlError) as caught:
            algorithms.delete(name)
        assert caught.value.code is code


def test_the_next_start_removes_what_a_killed_one_left(algorithms: Algorithms, tmp_path: Path) -> None:
    algorithms.install(Installation("mine", ME, packed({"optimizer.py": OPTIMIZER})))
    (tmp_path / "algorithms" / ".staged-1").mkdir()
    (tmp_path / "algorithms" / "gone-2").mkdir()
    again = open_again(algorithms.rig, tmp_path)  # type: ignore[attr-defined]
    assert list((tmp_path / "algorithms").iterdir()) == [again.folder(again.get("mine"))]
