"""What a server left on disk, read past it: the database as a plain file, and the logs."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

FINAL_EVENTS = ("Succeeded", "Failed", "Stopped")
_LEAVING = """
    select w.id, w.name, w.state from workload w
    where w.ended_at is null or w.cleaned = 0 or exists
        (select 1 from attempt a where a.workload_id = w.id and a.removed = 0)
"""
_OVERBOOKED = "select gpu, sum(fraction) from gpu_lease where released_at is null group by gpu having sum(fraction) > 1"
_IDLE_LEASES = """
    select l.gpu, a.name, a.state from gpu_lease l join attempt a on a.id = l.attempt_id
    where l.released_at is null and (a.state = 'ended' or a.exited_at is not null)
"""
_DOUBLES = """
    select workload_id, role, "index", count(*) from attempt where state != 'ended'
    group by workload_id, role, "index" having count(*) > 1
"""
_ENDS = f"""
    select w.name, w.state, count(e.id) from workload w left join event e
        on e.subject_kind = 'workload' and e.subject_id = w.id and e.reason in {FINAL_EVENTS}
    group by w.id having count(e.id) != 1 or max(e.reason) != upper(substr(w.state, 1, 1)) || substr(w.state, 2)
"""
_LOST = """
    select subject_id from event where subject_kind = 'workload' and reason = 'ContainerLost'
    and message != 'the supervisor was killed'
"""
"""Supervisors are killed by those who try this."""
_AFTER_END = f"""
    select w.name, e.reason from event e join workload w on e.subject_kind = 'workload' and w.id = e.subject_id
    where e.reason != 'Deleted' and e.id > (
        select min(f.id) from event f where f.subject_kind = 'workload'
        and f.subject_id = e.subject_id and f.reason in {FINAL_EVENTS})
"""
_NO_DETAIL = "select id, name from workload where id not in (select workload_id from workload_detail)"


class Records:
    """The records below one data directory. Reading never writes, so a later server finds all as it was left."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._ended: dict[int, tuple[Any, ...]] = {}

    def ask(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query."""
        path = self._data / "localml.db"
        if not path.exists() or path.stat().st_size == 0:
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            if not connection.execute("select 1 from sqlite_master where name = 'workload'").fetchone():
                return []
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, values)]

    def install(self) -> str:
        """The installation's id, which all its containers carry."""
        return str(self.ask("select value from meta where key = 'install'")[0]["value"])

    def workloads(self) -> list[dict[str, Any]]:
        return self.ask("select * from workload")

    def attempts(self, workload: int) -> list[dict[str, Any]]:
        return self.ask("select * from attempt where workload_id = ?", workload)

    def active(self) -> list[tuple[int, str]]:
        """Workloads that are not over."""
        return [(row["id"], row["name"]) for row in self.ask("select id, name from workload where ended_at is null")]

    def unfinished(self) -> list[dict[str, Any]]:
        """Workloads that are not over, or of which the engine may still hold something."""
        return self.ask(_LEAVING)

    def deleted(self) -> set[int]:
        return {row["id"] for row in self.ask("select id from workload where deleted_at is not null")}

    def log(self, workload: int, attempt: str, stream: str) -> bytes:
        """What was kept of one stream; nothing where there is no file."""
        path = self._data / "logs" / str(workload) / f"{attempt}.{stream}"
        return path.read_bytes() if path.exists() else b""

    def lost(self, acknowledged: Mapping[int, str]) -> list[str]:
        """Workloads that were taken and are not there, and such whose containers were lost."""
        names = {row["id"]: row["name"] for row in self.ask("select id, name from workload")}
        missing = [f"{name} ({number})" for number, name in acknowledged.items() if names.get(number) != name]
        return missing + [f"{names[row['subject_id']]}: its container was lost" for row in self.ask(_LOST)]

    def open_leases(self) -> list[str]:
        """Leases that nobody gave back, once everything is over."""
        return [str(row) for row in self.ask("select * from gpu_lease where released_at is null")]

    def check_after_death(self, acknowledged: Mapping[int, str]) -> None:
        """What holds at every moment."""
        names = {row["id"]: row["name"] for row in self.ask("select id, name from workload")}
        lost = {number: name for number, name in acknowledged.items() if names.get(number) != name}
        assert lost == {}, f"acknowledged and lost: {lost}"
        assert self.ask(_NO_DETAIL) == [], "half a workload"
        assert self.ask(_OVERBOOKED) == [], "a GPU with two owners"
        assert self.ask(_IDLE_LEASES) == [], "a lease of what has ended"
        assert self.ask(_DOUBLES) == [], "two live containers of one replica"
        self._check_ends()

    def _check_ends(self) -> None:
        """Nothing that was once over is anything else now."""
        columns = "id, state, cause, exit_code, message, ended_at, attempt"
        query = f"select {columns} from workload where ended_at is not null"
        now = {row["id"]: tuple(row.values()) for row in self.ask(query)}
        changed = {number: (was, now.get(number)) for number, was in self._ended.items() if now.get(number) != was}
        assert changed == {}, f"final states that changed: {changed}"
        self._ended = now

    def check_at_end(self) -> None:
        """What holds once everything is over and the server has stopped."""
        assert self.ask("pragma integrity_check") == [{"integrity_check": "ok"}]
        assert self.ask("pragma foreign_key_check") == []
        assert self.open_leases() == [], "leases left over"
        assert self.ask("select * from attempt where state != 'ended' or removed = 0") == [], "attempts left over"
        assert self.ask(_ENDS) == [], "workloads without exactly one end"
        assert self.ask(_AFTER_END) == [], "something happened after the end"
        lost = self.ask(f"select * from event where subject_kind = 'workload' and subject_id in ({_LOST})")
        assert lost == [], "containers were lost; all that happened to their workloads"
        for row in self.ask("select * from log_file"):
            size = (self._data / row["path"]).stat().st_size if row["size"] else row["size"]
            assert size == row["size"], f"{row['path']} has {size} bytes, not {row['size']}"
