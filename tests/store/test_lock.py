"""One server for each data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from localml.client.errors import ClientError
from localml.client.transport import find_server
from localml.core.errors import Code, LocalmlError
from localml.store.lock import DataLock, holder, read_info


def test_the_second_server_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    lock = DataLock(tmp_path)
    lock.publish({"url": "http://127.0.0.1:1"})
    with pytest.raises(LocalmlError, match=rf"in use by process {os.getpid()} \(http://127.0.0.1:1\)") as caught:
        DataLock(tmp_path)
    assert caught.value.code is Code.CONFLICT
    assert holder(tmp_path) == {"pid": os.getpid(), "url": "http://127.0.0.1:1"}
    lock.release()
    assert holder(tmp_path) is None
    DataLock(tmp_path).release()


def test_a_server_starts_although_somebody_asks_just_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DataLock(tmp_path).release()
    with (tmp_path / "server.lock").open("r+") as asker:
        fcntl.flock(asker, fcntl.LOCK_SH)
        monkeypatch.setattr("localml.store.lock.sleep", lambda _: fcntl.flock(asker, fcntl.LOCK_UN))
        DataLock(tmp_path).release()


def test_a_server_that_starts_or_ends_is_there_but_has_no_note(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text('{"pid": 1, "url": "x"}')
    lock = DataLock(tmp_path)
    assert holder(tmp_path) == {}, "the note of one that died is not its own"
    with pytest.raises(ClientError, match="starts or ends just now"):
        find_server(tmp_path)
    lock.release()
    with pytest.raises(ClientError, match=f"no server runs on {tmp_path}"):
        find_server(tmp_path)


def test_the_note_of_a_server_that_died_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text('{"pid": 1, "url": "x"}')
    assert read_info(tmp_path) is not None
    assert holder(tmp_path) is None
    (tmp_path / "server.json").write_text("{half")
    assert read_info(tmp_path) is None
    DataLock(tmp_path).release()
