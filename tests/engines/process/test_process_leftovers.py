"""What a server that died in the middle of making or removing a replica leaves behind goes with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from localml.engines.base import Phase, ReplicaPlan
from localml.engines.process.engine import ProcessEngine
from localml.engines.process.folder import ReplicaDir

HALF_MADE = """
import os, sys
from pathlib import Path
from localml.engines.base import ReplicaPlan
from localml.engines.process.folder import Launch, ReplicaDir
ReplicaDir._move_in = lambda self, new: os.abort()
ReplicaDir(Path(sys.argv[1])).create(ReplicaPlan("job", "none"), {"localml.install": "i"}, Launch(("true",), {}, "/"))
"""


def _names(root: Path) -> list[str]:
    return [name for name in os.listdir(root) if not name.startswith((".supervisor-", ".zygote-", ".pipes-", ".box-"))]


def test_a_removal_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    engine = ProcessEngine(tmp_path, "i")
    engine.start(ReplicaPlan("job", "none", ("true",)))
    engine._wait_ended("job")
    ReplicaDir(tmp_path / "job").forget()  # the first step; here the server died
    engine.close()
    after = ProcessEngine(tmp_path, "i")
    assert after.inspect("job").phase is Phase.GONE
    after.remove("job")
    after.close()
    assert _names(tmp_path) == []


def test_removing_leaves_another_installations_replica_alone(tmp_path: Path) -> None:
    other, engine = ProcessEngine(tmp_path, "other"), ProcessEngine(tmp_path, "i")
    other.start(ReplicaPlan("job", "none", ("true",)))
    engine.remove("job")
    assert other.inspect("job").phase is not Phase.GONE
    other.remove("job")
    other.close()
    engine.close()


def test_a_folder_that_was_never_finished_goes_with_the_next_start(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", HALF_MADE, tmp_path / "job"], stderr=subprocess.DEVNULL, check=False)
    assert len(_names(tmp_path)) == 1
    ProcessEngine(tmp_path, "i").close()
    assert _names(tmp_path) == []


def test_a_folder_that_a_living_process_makes_is_left_to_it(tmp_path: Path) -> None:
    new = ReplicaDir(tmp_path / "job").beside()
    new.path.mkdir()
    ProcessEngine(tmp_path, "i").close()
    assert _names(tmp_path) == [new.path.name]
