"""Output that was carried away is not kept twice while its replica runs."""

import logging
import os
from pathlib import Path

import pytest
from helpers.engine_kits import ProcessKit, wait_until

from localml.engines.process import io as process_io

_SIZE = 4 << 20
_SCRIPT = f"head -c {_SIZE} /dev/urandom; printf behind; sleep 600"


def _room(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_its_room_is_given_back_while_the_replica_runs_on(process_kit: ProcessKit, tmp_path: Path) -> None:
    plan = process_kit.plan(_SCRIPT + " & head -c 5 /dev/zero >&2; wait")
    process_kit.engine.start(plan)
    [path] = tmp_path.rglob(f"{plan.name}/stdout")
    wait_until(lambda: path.stat().st_size == _SIZE + 6, "all of its output")
    os.sync()
    assert _room(path) >= _SIZE
    process_kit.engine.carried(plan.name, {"stdout": _SIZE + 3, "stderr": 5})
    assert _room(path) <= 8192
    assert path.stat().st_size == _SIZE + 6
    chunks = process_kit.engine.logs(plan.name, {"stdout": _SIZE, "stderr": 5}, follow=False)
    assert b"".join(chunk.data for chunk in chunks) == b"behind"


def test_a_file_system_without_holes_keeps_it_and_says_so_once(
    process_kit: ProcessKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process_io, "punch", lambda fd, offset, length: False)
    plan = process_kit.plan("head -c 100000 /dev/zero")
    process_kit.run(plan)
    with caplog.at_level(logging.WARNING, "localml.engines"):
        process_kit.engine.carried(plan.name, {"stdout": 50_000})
        process_kit.engine.carried(plan.name, {"stdout": 100_000})
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "this file system gives no room back before a replica is removed"
    ]
    assert process_kit.output(plan.name)["stdout"] == bytes(100_000)
