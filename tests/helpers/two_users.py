"""Two users who have nothing in common, and requests of one that are about what is the other's.

Whatever alice has carries :data:`MARK` in its name, environment, command, output or password, and what bob asks for
instead, which nobody has, :data:`NOBODY` in the same places: texts of one length, so that answers can be compared byte
for byte.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from helpers.cloudml import put_trainer, signed
from helpers.models import times
from helpers.rig import wait_until
from helpers.wmla import BASE as WMLA
from helpers.wmla import BOUNDARY, PLUGIN, multipart, packed, part
from localml.config import Config
from localml.control.serving.gateway_process import stop
from localml.core.people.identity import Caller
from localml.core.people.rights import MemberRole
from localml.core.people.scopes import Scope
from localml.core.studies.tables import OVER, Trial, TrialState
from localml.dialects import DIALECTS
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform
from localml.server import Server

MARK, NOBODY = "qzalice", "qznoone"
SECRET = "qzsecret"
"""In what not even those may read who see the rest."""
READS = ("GET", "HEAD")
_VARIABLE = re.compile(r"<(?:\w+:)?(\w+)>")
_VOLATILE_TABLES = ("sample", "tally", "attempt", "lease", "log_file", "alembic", "sqlite", "series", "replica")
_VOLATILE = {"updated_at", "used_at", "state", "message", "active_at", "cleaned", "started_at", "attempt", "images"}


@dataclass(frozen=True)
class Operation:
    """What a dialect serves at a rule of its URL map."""

    dialect: str
    method: str
    rule: str
    endpoint: str

    def __str__(self) -> str:
        return f"{self.method} {self.rule}"


@dataclass(frozen=True)
class Answer:
    """An answer, and what was asked."""

    asked: str
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    def asked_for(self, names: Mapping[str, str]) -> tuple[int, dict[str, str], str]:
        """All of it but the time of day, as if each text of ``names`` had been spelled as its value is."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "date"}
        text = self.data.decode(errors="replace")
        for name in sorted(names, key=len, reverse=True):
            text = re.sub(rf"(?<![\w-]){re.escape(name)}\b", names[name], text)
        return self.status, headers, text

    @property
    def shown(self) -> str:
        """The text, without what is in the workspace that OpenPAI's users share."""
        text = self.data.decode(errors="replace")
        try:
            return json.dumps(_without_shared(json.loads(text)))
        except ValueError:
            return text


@dataclass(frozen=True)
class Form:
    """A body that is a form: its file, and fields, which are texts or sent as JSON."""

    file: bytes
    fields: Mapping[str, Any] = field(default_factory=dict)

    def encoded(self, things: Mapping[str, str]) -> bytes:
        """As it is sent."""
        texts = {name: filled(value, things) for name, value in self.fields.items()}
        said = {name: one if isinstance(one, str) else json.dumps(one) for name, one in texts.items()}
        fields = [part(name, text.encode()) for name, text in said.items()]
        return multipart(part("file", self.file, "model.modelDir.tar"), *fields)


@dataclass
class User:
    """Somebody with everything that the APIs take."""

    caller: Caller
    password: str
    token: str
    key: tuple[str, str]


@dataclass(frozen=True)
class Try:
    """A request of an operation: ``params`` (variable of the rule -> label of a thing, or a text), query, body.

    ``verdict``: what the wrong user is to find.

    * ``hidden``: the same as for a thing that nobody has;
    * ``used``: the same, where something of one's own is made with a thing of alice's, which her viewers may;
    * ``granted``: the same, where a pool is named that is not for everybody;
    * ``taken``: that there is one of this name, because names of buckets are unique over all users;
    * ``own``: an answer without a word of alice's;
    * ``busy``: a refusal without a word of alice's;
    * ``seen``: the thing, because everybody sees such things; ``refused``: that this is not for everybody to do.
    """

    verdict: str
    params: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    body: Any = None


def hidden(query: str = "", body: Any = None, **params: str) -> Try:
    return Try("hidden", params, query, body)


def used(body: Any) -> Try:
    return Try("used", body=body)


def own(query: str = "", body: Any = None, **params: str) -> Try:
    return Try("own", params, query, body)


def taken(query: str = "", body: Any = None, **params: str) -> Try:
    return Try("taken", params, query, body)


def seen(query: str = "", body: Any = None, **params: str) -> Try:
    return Try("seen", params, query, body)


Things = Mapping[str, str]


def filled(value: Any, things: Things) -> Any:
    """A body or text with ``{label}`` replaced; a text that is ``{#label}`` alone becomes a number."""
    if isinstance(value, Mapping):
        return {name: filled(one, things) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, things) for one in value]
    if not isinstance(value, str):
        return value
    if value.startswith("{#"):
        return int(things[value[2:-1]])
    return re.sub(r"{(\w+)}", lambda found: things[found[1]], value)


class World:
    """A running server with all that alice has, and those who want to know.

    Attributes:
        searches: whether studies are carried out; else nothing of theirs changes by itself.
    """

    searches = False

    def __init__(self, data: Path) -> None:
        config = Config(data, engine="fake", gpus="simulated:2", cpus=8, memory=16 << 30, port=0, gateway_port=0)
        self.server = Server(Platform(config, engine=FakeEngine()))
        self.server.start()
        self.platform = self.server.platform
        if not self.searches:
            self.platform.searching.driver.close()
        self.pool = urllib3.PoolManager(retries=False)
        self.admin = self._with_credentials(self.platform.identity.user("admin"), self.platform.credentials.password)
        self.alice, self.bob, self.vera = (self._user(name) for name in (MARK, "bob", "vera"))
        self.nobody: User | None = None
        self.ids: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.kept: dict[str, set[str]] = {}  # the last state that was looked at
        self.subjects: set[tuple[str, int]] = set()

    def _user(self, name: str) -> User:
        made = self.platform.identity.create_user(name, f"{name}-{SECRET}", org=f"{name}-org")
        return self._with_credentials(made, f"{name}-{SECRET}")

    def _with_credentials(self, caller: Caller, password: str) -> User:
        identity = self.platform.identity
        return User(
            caller,
            password,
            identity.create_token(caller, name=f"{caller.name}-tok"),
            identity.create_key(caller, name=f"{caller.name}-key"),
        )

    def scoped(self, user: User, scope: Scope) -> User:
        """The same user with a token that has this scope."""
        return User(user.caller, "", self.platform.identity.create_token(user.caller, scope=scope), user.key)

    def close(self) -> None:
        self.pool.clear()
        self.server.close()
        stop(self.platform.data, timeout=2)

    # -- requests --------------------------------------------------------------------------------

    def operations(self) -> list[Operation]:
        """All that is served, from the URL maps of the apps."""
        found: dict[tuple[str, str], Operation] = {}
        for prefix, factory in DIALECTS:
            dialect = factory.split(".")[2].partition(":")[0]
            app: Any = self.server.app.app(prefix)
            for rule in app.url_map.iter_rules():
                for method in sorted(rule.methods - {"OPTIONS"}):
                    found.setdefault((method, rule.rule), Operation(dialect, method, rule.rule, rule.endpoint))
        return list(found.values())

    def send(self, user: User | None, op: Operation, one: Try, things: Things, timeout: float = 30.0) -> Answer:
        """Send it as somebody; ``things``: label -> what stands for it."""
        path = _VARIABLE.sub(
            lambda found: filled(things.get(one.params[found[1]], one.params[found[1]]), things), op.rule
        )
        query = filled(one.query, things)
        body = b"" if one.body is None or op.method in READS else _body(one.body, things)
        if op.method in READS and "wait" in op.rule:
            query = query or "timeout=0"
        headers = self._headers(user, op.dialect, path, body)
        target = f"{path}?{query}" if query else path
        got = self.pool.request(
            op.method, self.server.url + target, body=body or None, headers=headers, timeout=timeout
        )
        return Answer(f"{op.method} {target} {body.decode(errors='replace')}", got.status, dict(got.headers), got.data)

    def _headers(self, user: User | None, dialect: str, path: str, body: bytes) -> dict[str, str]:
        form = body.startswith(f"--{BOUNDARY}".encode())
        said = f"multipart/form-data; boundary={BOUNDARY}" if form else "application/json"
        kind = {"Content-Type": said} if body else {}
        if user is None:
            return kind
        if dialect == "cloudml":
            return kind | signed(*user.key, path, body)
        if dialect == "mlbench":
            text = f"{user.caller.name}:{user.password or user.token}".encode()
            return kind | {"Authorization": "Basic " + base64.b64encode(text).decode()}
        return kind | {"Authorization": f"Bearer {user.token}"}

    # -- what there is ---------------------------------------------------------------------------

    def state(self) -> dict[str, set[str]]:
        """Table -> its rows, without what changes by itself."""
        with self.platform.db.read_raw() as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = {one: self._rows(connection, one) for one in tables if not any(v in one for v in _VOLATILE_TABLES)}
        buckets = self.platform.buckets.root
        found["buckets"] = {
            f"{path.relative_to(buckets)} {path.read_bytes()[:100] if path.is_file() else ''!r}"
            for path in buckets.rglob("*")
        }
        return found

    def _rows(self, connection: Any, table: str) -> set[str]:
        cursor = connection.execute(f'SELECT * FROM "{table}"')
        names = [one[0] for one in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
        if table == "event":  # of what alice has; what becomes of the others' own goes on by itself
            found = [row for row in found if (row["subject_kind"], row["subject_id"]) in self.subjects]
        return {repr({name: value for name, value in row.items() if name not in _VOLATILE}) for row in found}

    def unknown(self, things: Things) -> dict[str, str]:
        """What nobody has in place of each thing."""
        return {label: _other(text) for label, text in things.items()}

    def do(self, user: User, method: str, path: str, body: Any = None, dialect: str = "native") -> Any:
        """A request that must succeed; its JSON."""
        answer = self.send(user, Operation(dialect, method, path, ""), Try("", body=body), {})
        assert answer.status < 300, (answer.asked, answer.status, answer.data)
        return json.loads(answer.data or b"null")

    # -- alice's things --------------------------------------------------------------------------

    def furnish(self) -> None:
        """Make what alice has. Her jobs hold all GPUs, another one waits; a job of bob's waits behind it."""
        alice, team = self.alice, f"{MARK}-team"
        native = "/localml/v1"
        place = self.do(alice, "POST", f"{native}/workspaces", {"name": team})["id"]
        self.place = place
        self.do(alice, "PUT", f"{native}/workspaces/{place}/members/vera", {"role": "viewer"})
        self.platform.workspaces.set_member(alice.caller.org, "vera", MemberRole.VIEWER)
        self._put_objects(place)
        job = self.do(alice, "POST", f"{native}/workloads", self._job("job", gpu=2, pool=f"{MARK}-pool"))["id"]
        wait_until(lambda: self.platform.workloads.state(job) == "running")
        self.do(alice, "POST", f"{native}/workloads", self._job("next", gpu=2))
        mine = {"name": "bobs-job", "spec": {"roles": [{"command": ["run"], "resources": {"gpu": 2}}]}}
        self.bobs = str(self.do(self.bob, "POST", f"{native}/workloads", mine)["id"])
        book = {"name": f"{MARK}-lab", "workspace": team, "token": SECRET, "image": f"{MARK}-image"}
        lab = self.do(alice, "POST", f"{native}/notebooks", book)["id"]
        board = {"name": f"{MARK}-board", "workspace": team, "token": SECRET, "logdir": f"fds://{MARK}-bucket/logs"}
        shown = self.do(alice, "POST", f"{native}/tensorboards", board)["id"]
        model = {"name": f"{MARK}-model", "workspace": team, "source": f"fds://{MARK}-bucket/model"}
        self.do(alice, "POST", f"{native}/models", model)
        served = {"name": f"{MARK}-end", "workspace": team, "model": f"{MARK}-model", "ready_timeout": 1e6}
        end = self.do(alice, "POST", f"{native}/endpoints", served)["id"]
        study = self._study(job)
        tokens = self.do(alice, "GET", f"{native}/users/{MARK}/tokens")["tokens"]
        self._of_vendors()
        self._of_wmla()
        wait_until(lambda: bool(self.do(alice, "GET", "/api/pods/", dialect="mlbench")))
        self.ids = {
            **{"team": place, "job": str(job), "lab": str(lab), "board": str(shown), "end": str(end)},
            **{
                "study": str(study),
                "model": f"{MARK}-model:1",
                "token": tokens[0]["id"],
                "key": alice.key[0],
                "run": str(self.run["id"]),
            },
        }
        self.names = {label: f"{MARK}-{label}" for label in ("team", "job", "lab", "board", "end", "model", "study")}
        self.names |= {"token": f"{MARK}-tok", "key": f"{MARK}-key"}
        both = {
            **{"user": MARK, "org": alice.caller.org, "pool": f"{MARK}-pool", "bucket": f"{MARK}-bucket"},
            **{"number": str(job), "train": f"{MARK}-train", "dev": f"{MARK}-dev", "pai": f"{MARK}-pai"},
            **{"service": f"{MARK}-service", "tb": f"{MARK}-tb", "orgpool": f"cloudml/train/{alice.caller.org}"},
            "code": self._put_code(),
            **{"task": self.task["id"], "application": self.task["appId"]},
            **{"search": f"{MARK}-search", "algorithm": f"{MARK}-algorithm", "executor": "1"},
            "pod": self.do(alice, "GET", "/api/pods/", dialect="mlbench")[0]["name"],
        }
        self.ids, self.names = both | self.ids, both | {"run": self.ids["run"]} | self.names
        self._wait_for_rest()
        self.do(alice, "GET", f"/api/v1/jobs/{MARK}-pai/ssh", dialect="openpai")  # writes the public key's file, once
        with self.platform.db.read_raw() as connection:
            self.subjects = set(connection.execute("SELECT subject_kind, subject_id FROM event"))
        self.subjects.remove(("workload", int(self.bobs)))

    def _study(self, job: int) -> int:
        """One that is over, with a trial that the job was: what runs changes by itself."""
        trial = self._job("trial", gpu=0)["spec"]
        space = [{"name": MARK, "low": 0, "high": 1}]
        spec = {"space": space, "objective": {"metric": "loss"}, "max_trials": 3, "trial": trial}
        body = {"name": f"{MARK}-study", "workspace": f"{MARK}-team", "spec": spec}
        number = int(self.do(self.alice, "POST", "/localml/v1/studies", body)["id"])
        self.do(self.alice, "POST", f"/localml/v1/studies/{number}/stop")
        wait_until(lambda: self.platform.studies.get(number).state in OVER)
        params = {MARK: 0.5}
        trial_row = Trial(study_id=number, number=1, workload_id=job, params=params, asked=1, told=2, created_at=1.0)
        trial_row.state, trial_row.value = TrialState.COMPLETE, 1.0
        self.platform.db.write(lambda session: session.add(trial_row))
        return number

    def _job(self, name: str, *, gpu: float, **rest: Any) -> dict[str, Any]:
        env = {"FAKE_OUTPUT": f"{MARK} wrote this", "WORD": MARK}
        role = {"command": ["run", MARK], "env": env, "resources": {"gpu": gpu}}
        return {"name": f"{MARK}-{name}", "workspace": f"{MARK}-team", "spec": {"roles": [role]}, **rest}

    def _put_objects(self, workspace: str) -> None:
        buckets, bucket = self.platform.buckets, f"fds://{MARK}-bucket"
        made = {"name": f"{MARK}-bucket", "workspace": workspace}
        self.do(self.alice, "POST", "/localml/v1/buckets", made)
        put_trainer(buckets, f"{bucket}/trainer.tar.gz")
        for name, content in (("model/model.onnx", times(2)), ("note", MARK.encode()), ("logs/x", b"1")):
            with buckets.open(f"{bucket}/{name}", "wb") as file:
                file.write(content)

    def _put_code(self) -> str:
        """A folder of code in alice's own workspace and in her team's; the SHA-256 of it."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(MARK))
        digest = hashlib.sha256(file.getvalue()).hexdigest()
        for query in ("", f"?workspace={self.place}"):
            headers = self._headers(self.alice, "native", "", b"")
            target = f"{self.server.url}/localml/v1/code/sha256:{digest}{query}"
            assert self.pool.request("PUT", target, body=file.getvalue(), headers=headers).status == 201
        return digest

    def _of_vendors(self) -> None:
        alice, bucket = self.alice, f"fds://{MARK}-bucket"
        small = {"cpu_limit": "0.1", "memory_limit": "64M"}
        train = {"job_name": f"{MARK}-train", "module_name": "trainer.task", "trainer_uri": f"{bucket}/trainer.tar.gz"}
        self.do(alice, "POST", "/cloud_ml/v1/train", train | small, "cloudml")
        dev = {"dev_name": f"{MARK}-dev", "password": SECRET, "framework": "scikitlearn"}
        self.do(alice, "POST", "/cloud_ml/v1/dev", dev | small, "cloudml")
        board = {"tensorboard_name": f"{MARK}-tb", "logdir": f"{bucket}/logs"}
        self.do(alice, "POST", "/cloud_ml/v1/tensorboard", board, "cloudml")
        service = {"model_name": f"{MARK}-service", "model_version": "1", "model_uri": f"{bucket}/model"}
        self.do(alice, "POST", "/cloud_ml/v1/model", service, "cloudml")
        role = {"name": "main", "taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "run"}
        self.do(alice, "POST", "/api/v1/jobs", {"jobName": f"{MARK}-pai", "taskRoles": [role]}, "openpai")
        form = multipart(part("file", packed({f"{MARK}.py": MARK}))).decode()
        start = f"{WMLA}/execs?args=--exec-start+Python+--appName+{MARK}+--word+{MARK}"
        self.task = self.do(alice, "POST", start, form, "wmla")
        with self.platform.buckets.open(f"{self.task['workDir']}/{MARK}", "wb") as file:
            file.write(b"its result")
        self.run = self.do(alice, "POST", "/api/runs/", run_body(MARK), "mlbench")

    def _of_wmla(self) -> None:
        """A search, and an algorithm."""
        search = {
            "hpoName": f"{MARK}-search",
            "modelSpec": {"args": f"--exec-start Python --model-main main.py --word {MARK}"},
            "algoDef": {"algorithm": "Random", "objectiveMetric": "loss", "objective": "minimize", "maxJobNum": 1},
            "hyperParams": [{"name": MARK, "type": "Range", "dataType": "double", "minDbVal": 0, "maxDbVal": 1}],
        }
        model = packed({"main.py": MARK})
        self.do(self.alice, "POST", f"{WMLA}/hypersearch", Form(model, {"data": search}), "wmla")
        plugin = Form(packed({"optimizer.py": PLUGIN}), {"data": {"name": f"{MARK}-algorithm"}})
        self.do(self.alice, "POST", f"{WMLA}/hypersearch/algorithm/install", plugin, "wmla")

    def _wait_for_rest(self) -> None:
        """Until nothing changes any more by itself."""
        last, since = self.state(), time.monotonic()

        def rests() -> bool:
            nonlocal last, since
            now = self.state()
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since > 1.0

        wait_until(rests)


def run_body(name: str) -> dict[str, Any]:
    """A benchmark run of one small worker."""
    image = {"image_name": "custom_image", "custom_image_name": "x", "custom_image_command": name}
    size = {"num_workers": 1, "num_cpus": 0.1, "max_bandwidth": 1000, "gpu_enabled": "false", "light_target": "false"}
    return {"name": f"{name}-run", **size, "run_all_nodes": "false", **image, "backend": "GLOO"}


def _without_shared(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_shared(one) for one in value if not isinstance(one, dict) or one.get("workspace") != "openpai"]
    if isinstance(value, dict):
        return {name: _without_shared(one) for name, one in value.items()}
    return value


def _body(body: Any, things: Things) -> bytes:
    return body.encoded(things) if isinstance(body, Form) else _encoded(filled(body, things))


def _encoded(body: Any) -> bytes:
    return body.encode() or b"\n" if isinstance(body, str) else json.dumps(body).encode()


def _other(text: str) -> str:
    if MARK in text:
        return text.replace(MARK, NOBODY)
    return re.sub(r"[0-9a-f]", lambda found: "9" if found[0] != "9" else "8", text)
