"""A server with things in every state, somebody who sends it whatever comes to mind, and whoever reads its log."""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.rig import wait_until
from helpers.two_users import MARK, User, World
from localml.core.errors import LocalmlError
from localml.core.studies.studies import StudyQuery
from localml.core.studies.tables import OVER, StudyState
from localml.core.work.states import TERMINAL
from localml.core.work.workloads import Query

PATIENCE_S = 60.0
"""Seconds in which every answer is complete, on a machine that does much else; what goes on for ever aside."""
_GLANCE_S = 0.2
_FOLLOWED = 1 << 16
_MOST_ROWS = 300
NATIVE = "/localml/v1"


@dataclass(frozen=True)
class Asked:
    """A request as it goes over the wire; ``endless``: its answer may go on for ever, so only its beginning is read."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    endless: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.target[:600]} {dict(self.headers)} {self.body[:1000]!r}"


@dataclass(frozen=True)
class Said:
    """Its answer; ``whole`` is false for the beginning of one that goes on."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    seconds: float
    whole: bool = True

    @property
    def kind(self) -> str:
        """Its media type."""
        return self.headers.get("content-type", "").partition(";")[0].strip()


class Log(logging.Handler):
    """What the server's log has of errors, and what threads die of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what is an error, or has an exception with it."""
        if record.levelno >= logging.ERROR or record.exc_info:
            self._found.append(logging.Formatter("%(name)s: %(message)s").format(record))

    def take(self) -> list[str]:
        """What came since the last time."""
        found, self._found = self._found, []
        return found

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear everything that is logged in this process."""
        before = threading.excepthook
        threading.excepthook = lambda args: self._found.append(f"a thread died: {args.exc_value!r}")
        logging.getLogger().addHandler(self)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self)
            threading.excepthook = before


class FuzzWorld(World):
    """The two users' server with jobs in all states besides, and a connection that stays open."""

    searches = True

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.log = Log()
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        self._drop()
        super().close()

    def furnish(self) -> None:
        """Besides what the two users' test has: jobs that ended well, badly, and without a start; with and without
        output, of several replicas, and one whose output was removed."""
        super().furnish()
        self.jobs = {
            "done": self._over("done", FAKE_SECONDS="0", FAKE_OUTPUT="one\ntwo\nthree"),
            "failed": self._over("failed", FAKE_SECONDS="0", FAKE_EXIT="3"),
            "gang": self._over("gang", 3, FAKE_SECONDS="0", FAKE_OUTPUT="a line\n"),
            "running": int(self.ids["job"]),
            "speaking": self._begun("speaking", FAKE_OUTPUT="half a li"),
            "queued": self._queued("queued"),
            "never": self._queued("never"),
            "pruned": self._over("pruned", FAKE_SECONDS="0", FAKE_OUTPUT="gone\n"),
        }
        self._stop(self.jobs["never"])
        for path in (self.platform.data / "logs").rglob("*"):
            if path.is_file() and f"{self.jobs['pruned']}" in path.relative_to(self.platform.data).parts:
                path.unlink()
        bucket = f"fds://{MARK}-bucket"
        self.things = {name: str(number) for name, number in self.jobs.items()}
        self.things |= {"note_uri": f"{bucket}/note", "folder_uri": f"{bucket}/model"}
        self.things |= {"trainer_uri": f"{bucket}/trainer.tar.gz", "paidone": f"{MARK}-paidone"}
        self._pai_done()
        self.things["searched"] = str(self._searched())
        self.seeds = {row.id for row in self.platform.workloads.page(Query(limit=1000)).items}

    def _pai_done(self) -> None:
        role = {"name": "main", "taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "run"}
        body = {"jobName": f"{MARK}-paidone", "taskRoles": [role], "jobEnvs": {"FAKE_SECONDS": "0"}}
        self.do(self.alice, "POST", "/api/v1/jobs", body, "openpai")

    def _searched(self) -> int:
        """A study whose trials ended, each with a value."""
        env = {"FAKE_SECONDS": "0", "FAKE_OUTPUT": "epoch=1 loss=0.5 acc=0.5\n"}
        role = {"command": ["run"], "env": env, "resources": {"cpu": 0.01, "memory": "4M"}}
        spec = {
            "space": [{"name": "lr", "low": 0, "high": 1}, {"name": "batch", "choices": [16, 32]}],
            "algorithm": {"name": "random"},
            "objective": {"metric": "loss"},
            "metrics": {"acc": "maximize"},
            "max_trials": 3,
            "trial": {"roles": [role]},
        }
        body = {"name": f"{MARK}-searched", "workspace": f"{MARK}-team", "spec": spec}
        number = int(self.do(self.alice, "POST", f"{NATIVE}/studies", body)["id"])
        wait_until(lambda: self.platform.studies.get(number).state == StudyState.COMPLETE)
        return number

    def _submit(self, name: str, count: int = 1, gpu: float = 0, **env: str) -> int:
        role = {"command": ["run"], "count": count, "env": env, "resources": {"cpu": 0.01, "memory": "4M", "gpu": gpu}}
        body = {"name": f"{MARK}-{name}", "workspace": f"{MARK}-team", "spec": {"roles": [role]}}
        return int(self.do(self.alice, "POST", f"{NATIVE}/workloads", body)["id"])

    def _over(self, name: str, count: int = 1, **env: str) -> int:
        number = self._submit(name, count, **env)
        wait_until(lambda: self.platform.workloads.get(number).row.state in TERMINAL)
        return number

    def _begun(self, name: str, **env: str) -> int:
        number = self._submit(name, **env)
        wait_until(lambda: self.platform.workloads.state(number) == "running")
        return number

    def _queued(self, name: str) -> int:
        return self._submit(name, gpu=2)

    def _stop(self, number: int) -> None:
        self.do(self.alice, "POST", f"{NATIVE}/workloads/{number}/stop")
        wait_until(lambda: self.platform.workloads.get(number).row.state in TERMINAL)

    def revive(self) -> None:
        """Give the users new credentials where what was sent took theirs, and remove most of what it made."""
        identity = self.platform.identity
        known = {one.name for one in identity.users()}
        for name in ("admin", MARK, "vera", "bob"):
            user: User = getattr(self, "alice" if name == MARK else name)
            if name not in known:
                identity.create_user(name, user.password, org=user.caller.org)
            if not self._known(user):
                made = self._with_credentials(identity.user(name), user.password)
                setattr(self, "alice" if name == MARK else name, made)
        self.tidy()

    def _known(self, user: User) -> bool:
        """Whether token and key are still good."""
        try:
            self.platform.identity.by_token(user.token)
            self.platform.identity.by_key(user.key[0])
        except LocalmlError:
            return False
        return True

    def tidy(self) -> None:
        """Delete what was submitted since, once it is much. Searches are stopped at once: each has a process."""
        active = [row for row in self.platform.studies.page(StudyQuery(limit=1000)).items if row.state not in OVER]
        for study in active:
            self.platform.studies.stop(study.id or 0, self.admin.caller, force=True)
        rows = [row for row in self.platform.workloads.page(Query(limit=1000)).items if row.id not in self.seeds]
        if len(rows) > _MOST_ROWS:
            for row in rows:
                self.platform.workloads.delete(row.id or 0, self.admin.caller)

    # -- the wire --------------------------------------------------------------------------------

    def exchange(self, asked: Asked) -> Said:
        """Send it as it stands and read the answer; once more on a new connection if the server has closed this one."""
        used = self._connection is not None
        try:
            return self._once(asked)
        except (ConnectionError, http.client.BadStatusLine):
            self._drop()
            if not used:
                raise
            return self._once(asked)
        except BaseException:
            self._drop()
            raise

    def _once(self, asked: Asked) -> Said:
        began = time.monotonic()
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
        connection = self._connection
        own_host = "Host" in asked.headers
        connection.putrequest(asked.method, asked.target, skip_host=own_host, skip_accept_encoding=True)
        for name, value in asked.headers.items():
            connection.putheader(name, value)
        if asked.body or asked.method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(asked.body)))
        connection.endheaders(asked.body or None)
        found = connection.getresponse()
        headers = {name.lower(): value for name, value in found.getheaders()}
        data, whole = self._beginning(found) if asked.endless else (found.read(), True)
        if not whole or found.will_close:
            self._drop()
        return Said(found.status, headers, data, time.monotonic() - began, whole)

    def _beginning(self, found: http.client.HTTPResponse) -> tuple[bytes, bool]:
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.settimeout(_GLANCE_S)
        data = b""
        try:
            while len(data) < _FOLLOWED:
                part = found.read1(_FOLLOWED)
                if not part:
                    found.read()  # so that it knows that it is over
                    return data, True
                data += part
        except TimeoutError:
            pass
        finally:
            if self._connection is not None and self._connection.sock is not None:
                self._connection.sock.settimeout(PATIENCE_S)
        return data, False

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def headers_of(self, user: User | None, dialect: str, target: str, body: bytes) -> dict[str, str]:
        """The credentials of a request as the dialect wants them."""
        if user is not None and dialect == "mlbench":
            return {"Authorization": f"Bearer {user.token}"}
        found = self._headers(user, dialect, target, body)
        found.pop("Content-Type", None)
        return found

    def healthy(self) -> bool:
        """Whether the server answers and its loop still ticks."""
        self.revive()
        answer = self.exchange(Asked("GET", "/healthz", {}))
        info: Any = self.do(self.admin, "GET", f"{NATIVE}/status")
        return answer.status == 200 and info["engine_up"]
