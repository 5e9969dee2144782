"""A removed user, a changed password and a revoked key end every token, session and followed stream within a second."""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.cloudml import over, put_trainer, signed
from helpers.http_socket import Talk
from helpers.native import Http, sh
from helpers.openpai import PaiClient
from helpers.people import common_bucket, tree_of
from helpers.rig import wait_until

from localml.client import Client
from localml.client.errors import ClientError
from localml.client.transport import find_server
from localml.config import Config
from localml.control.serving.gateway_process import stop
from localml.core.people.credentials import CREDENTIALS_NAME
from localml.core.people.rights import MemberRole
from localml.core.serving.routes_table import read_routes, token_hash
from localml.core.work.workloads import Query
from localml.platform import Platform
from localml.server import Server

WITHIN_S = 1.0
BUSY_S = 10.0
"""What is waited for at most, because the machine that tests may be busy."""
TRAINER = "fds://code/trainer.tar.gz"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("revocation")
    config = Config(
        data / "data",
        port=0,
        gateway_port=0,
        engine="fake",
        gpus="none",
        cpus=64,  # each user has a job that runs
        threads=4,
        cache=data / "cache",
    )
    one = Server(Platform(config))
    one.start()
    yield one
    one.close()
    stop(config.data, timeout=2)


@pytest.fixture(autouse=True)
def _no_guesser(monkeypatch: pytest.MonkeyPatch) -> None:
    """All users of these tests come from one address, and many with passwords that are good for nothing any more."""
    monkeypatch.setattr("localml.core.people.attempts.FREE_OF_ADDRESS", 10_000)


@pytest.fixture
def admin(server: Server) -> Iterator[Client]:
    """As the command line on this machine finds it."""
    with Client(*find_server(server.platform.data)) as client:
        yield client


class User:
    """A user with a job that runs, and every way in."""

    def __init__(self, server: Server, admin: Client) -> None:
        self.server = server
        self.name = f"user{next(_numbers)}"
        made = admin.create_user(self.name, "secret")
        self.token, self.access, self.secret = made["token"], made["access_key"], made["secret_key"]
        pai = PaiClient(over(server.url))
        self.jwt = str(pai.login(self.name, "secret").token)
        mine = Http(server.url, self.ways["token"])
        self.job = mine("POST", "/workloads", {"spec": sh("sleep 600"), "name": "long"}).json["id"]
        mine.close()

    @property
    def ways(self) -> dict[str, dict[str, str]]:
        basic = base64.b64encode(f"{self.name}:secret".encode()).decode()
        by_token = base64.b64encode(f"{self.name}:{self.token}".encode()).decode()
        return {
            "token": {"Authorization": f"Bearer {self.token}"},
            "password": {"Authorization": f"Basic {basic}"},
            "token as password": {"Authorization": f"Basic {by_token}"},
        }

    def gets_in(self) -> set[str]:
        """By which credentials."""
        found = set()
        for name, headers in self.ways.items():
            http = Http(self.server.url, headers)
            found |= {name} if http("GET", "/workloads").status == 200 else set()
            http.close()
        send = over(self.server.url)
        target = "/cloud_ml/v1/train"
        found |= {"key"} if send("GET", target, signed(self.access, self.secret, target), b"").status == 200 else set()
        pai = PaiClient(send, self.jwt)
        found |= {"jwt"} if pai.put("/jobs/none/executionType", {"value": "STOP"}).status == 500 else set()
        return found

    def opens(self, headers: dict[str, str]) -> dict[str, Talk]:
        """Everything that lasts."""
        path = f"/localml/v1/workloads/{self.job}"
        lines = {
            "bytes": (f"GET {path}/logs?follow=true", {}),
            "events": (f"GET {path}/logs", {"Accept": "text/event-stream"}),
            "wait": (f"GET {path}/wait?timeout=60", {}),
        }
        talks = {}
        for kind, (line, more) in lines.items():
            talk = talks[kind] = Talk(self.server.port)
            talk.ask(line, *(f"{name}: {value}" for name, value in (headers | more).items()))
            if kind != "wait":
                assert talk.head().status == 200
        return talks


@pytest.fixture
def user(server: Server, admin: Client) -> User:
    return User(server, admin)


EVERY = {"token", "password", "token as password", "key", "jwt"}
CHANGES: dict[str, tuple[Callable[[Client, str], Any], set[str]]] = {
    "removed": (lambda admin, name: admin.people.remove_user(name), set()),
    "a new password": (lambda admin, name: admin.people.set_password(name, "new"), set()),
    "ended": (lambda admin, name: admin.people.end_credentials(name), {"password"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_ends_every_credential_and_all_that_was_begun_with_it(
    server: Server, admin: Client, user: User, change: str
) -> None:
    assert user.gets_in() == EVERY
    act, stays = CHANGES[change]
    open_talks = {way: user.opens(headers) for way, headers in user.ways.items()}
    wait_until(lambda: _waiting(server) >= 9)
    act(admin, user.name)
    began = time.monotonic()
    assert user.gets_in() == stays
    for way, talks in open_talks.items():
        if way not in stays:
            _all_end(talks, began)
        for talk in talks.values():
            talk.close()


def _waiting(server: Server) -> int:
    return sum(len(each) for each in list(server.platform.feed._watchers.values()))


def _broken_off(talk: Talk) -> bool:
    """Wait for a connection's end: true when the answer does not come to its own."""
    try:
        return not talk.file.read().endswith(b"0\r\n\r\n")
    except ConnectionResetError:
        return True


def _all_end(talks: dict[str, Talk], began: float, status: int = 401) -> None:
    """Waits are refused, streams break off: an end would say that they are whole."""
    assert talks.pop("wait").answer().status == status
    for talk in talks.values():
        assert _broken_off(talk)
    assert time.monotonic() - began < BUSY_S


def test_followed_streams_end_within_a_second(server: Server, admin: Client, user: User) -> None:
    """The best of a few tries: others may use the machine at the moment."""
    best = BUSY_S
    for _ in range(5):
        token = admin.create_token(user.name, name="one")
        talks = user.opens({"Authorization": f"Bearer {token}"})
        wait_until(lambda: _waiting(server) >= 3)
        began = time.monotonic()
        admin.people.revoke_token(user.name, "one")
        _all_end(talks, began)
        best = min(best, time.monotonic() - began)
        if best < WITHIN_S:
            return
    raise AssertionError(f"took {best} s")


def test_a_revoked_token_or_key_ends_alone(server: Server, admin: Client, user: User) -> None:
    token = admin.create_token(user.name, name="ci")
    ended, goes_on = user.opens({"Authorization": f"Bearer {token}"}), user.opens(user.ways["token"])
    began = time.monotonic()
    admin.people.revoke_token(user.name, "ci")
    _all_end(ended, began)
    assert user.gets_in() == EVERY
    made = admin.people.create_key(user.name, name="laptop")
    assert [one.name for one in admin.people.keys(user.name)] == ["", "laptop"]
    admin.people.revoke_key(user.name, user.access)
    assert user.gets_in() == EVERY - {"key"}
    user.access, user.secret = made["access_key"], made["secret_key"]
    assert user.gets_in() == EVERY
    admin.stop(user.job)
    assert goes_on["wait"].answer().status == 200
    assert list(goes_on["events"].chunks())[-1].startswith(b"event: end")
    assert b"".join(goes_on["bytes"].chunks()) == b""


def test_who_follows_through_the_vendors_api_is_cut_off_with_the_key(server: Server, admin: Client, user: User) -> None:
    common_bucket(server.platform, "code")
    put_trainer(server.platform.buckets, TRAINER)
    base = "/cloud_ml/v1/train"
    body = {"job_name": f"j{user.name}", "module_name": "trainer.task", "trainer_uri": TRAINER}
    data = json.dumps(body).encode()
    send = over(server.url)
    assert send("POST", base, signed(user.access, user.secret, base, data), data).status == 200
    path = f"{base}/{body['job_name']}/logs"
    talk = Talk(server.port)
    talk.ask(
        f"GET {path}?follow=True",
        *(f"{name}: {value}" for name, value in signed(user.access, user.secret, path).items()),
    )
    assert talk.head().status == 200
    admin.people.revoke_key(user.name, user.access)
    assert _broken_off(talk)
    talk.close()


@pytest.mark.parametrize("change", ["removed from it", "another role", "closed to all"])
def test_a_role_that_is_taken_away_ends_what_is_followed(
    server: Server, admin: Client, user: User, change: str
) -> None:
    team = admin.people.create_workspace(f"team {user.name}", everyone="viewer")
    user.job = admin.run(["sleep", "600"], workspace=team.id).id
    role = {"another role": "editor", "removed from it": "member"}.get(change)
    if role is not None:
        admin.people.change_workspace(team.id, everyone=None)
        admin.people.set_member(team.id, user.name, role)
    talks = user.opens(user.ways["token"])
    wait_until(lambda: _waiting(server) >= 3)
    began = time.monotonic()
    if change == "removed from it":
        admin.people.remove_member(team.id, user.name)
    elif change == "another role":
        admin.people.set_member(team.id, user.name, "viewer")
    else:
        admin.people.change_workspace(team.id, everyone=None)
    _all_end(talks, began, 403)
    http = Http(server.url, user.ways["token"])
    assert http("GET", f"/workloads/{user.job}").status == (200 if change == "another role" else 404)
    http.close()


def test_who_is_made_no_administrator_is_cut_off_from_others_things(server: Server, admin: Client, user: User) -> None:
    boss = f"boss{user.name}"
    admin.create_user(boss, "secret", admin=True)
    token = admin.create_token(boss)
    talks = user.opens({"Authorization": f"Bearer {token}"})
    pai = PaiClient(over(server.url), admin.create_token("admin"))
    began = time.monotonic()
    assert pai.put("/user", {"username": boss, "password": "another", "admin": False, "modify": True}).status == 201
    _all_end(talks, began)


def test_a_token_that_expires_ends_what_is_followed(
    server: Server, admin: Client, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localml.httpd.guard.AGAIN_S", 0.05)
    monkeypatch.setattr("localml.dialects.kit.guard.AGAIN_S", 0.05)
    token = admin.create_token(user.name, lifetime=1.0)
    talks = user.opens({"Authorization": f"Bearer {token}"})
    _all_end(talks, time.monotonic())


def test_a_download_is_cut_off_with_its_credentials(server: Server, admin: Client, user: User) -> None:
    common_bucket(server.platform, "big")
    with server.platform.buckets.open("fds://big/file", "wb") as file:
        for _ in range(64):
            file.write(b"x" * (1 << 20))
    talk = Talk(server.port, receive_buffer=4096)
    talk.ask("GET /localml/v1/objects/content?uri=fds://big/file", *_lines(user.ways["token"]))
    answer = talk.head()
    assert (answer.status, answer.headers["content-length"]) == (200, str(64 << 20))
    admin.people.end_credentials(user.name)
    read = 0
    with suppress(ConnectionResetError):
        while piece := talk.file.read(1 << 16):
            read += len(piece)
    assert read < 64 << 20
    talk.close()


def _lines(headers: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


@pytest.mark.parametrize("chunked", [False, True])
def test_what_arrives_after_its_sender_was_shut_out_is_not_done(server: Server, user: User, chunked: bool) -> None:
    """A body takes its time: who was let in by its head is asked for again when it is here."""
    job = json.dumps({"spec": sh("true"), "name": "late"}).encode()
    key = f"{user.name}/late"
    tree = tree_of(server.platform)
    tree.create(user.name, everyone=MemberRole.MEMBER)
    target = "/cloud_ml/v1/train"
    acts = [
        ("POST /localml/v1/workloads", user.ways["token"], job + b" " * ((1 << 20) - len(job))),  # as large as can be
        ("POST /localml/v1/workloads", user.ways["password"], job),
        (f"PUT /localml/v1/objects/content?uri=/{key}", user.ways["token"], b"x" * (1 << 18)),
        (f"POST {target}", signed(user.access, user.secret, target, job), job),
    ]
    talks = []
    for line, headers, body in acts:
        talk = Talk(server.port)
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        kind = {} if "Content-Type" in headers else {"Content-Type": "application/json"}
        lines = (f"{name}: {value}" for name, value in (headers | kind).items())
        talk.ask(line, *lines, framing, "Expect: 100-continue")
        assert talk.answer().status == 100, "it is let in"
        talks.append((talk, body))
    server.platform.identity.remove_user(user.name)
    for talk, body in talks:
        talk.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        assert talk.answer().status in (401, 403)
        talk.close()
    assert "late" not in {one.name for one in server.platform.workloads.page(Query(name="late")).items}
    assert not tree.exists(f"/{key}")


def test_who_changes_its_own_password_goes_on_with_the_token_in_the_answer(server: Server, user: User) -> None:
    with Client(server.url, user.token) as mine:
        ended = mine.people.set_password(user.name, "new")
        assert (ended.tokens, ended.keys) == (1, 1)
        assert mine.people.me() == user.name
        assert len(mine.people.tokens(user.name)) == 1
    with Client(server.url, user.token) as old, pytest.raises(ClientError, match="not known"):
        old.people.me()


@pytest.mark.parametrize(
    ("way", "call"), [("PUT /users/{}/password", "set_password"), ("DELETE /users/{}/credentials", "end_credentials")]
)
def test_no_token_is_in_the_answer_of_who_was_shut_out_meanwhile(
    server: Server, user: User, way: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever knows a password changes it at the very moment in which the administrator does."""
    identity = server.platform.identity
    act, change = getattr(identity, call), identity.set_password

    def overtaken(*given: Any, **more: Any) -> Any:
        done = act(*given, **more)
        change(user.name, "of the administrator")
        return done

    monkeypatch.setattr(identity, call, overtaken)
    method, _, path = way.partition(" ")
    mine = Http(server.url, user.ways["password"])
    body = {"password": "mine"} if method == "PUT" else None
    assert mine(method, path.format(user.name), body).status == 401
    assert server.platform.tokens.of(user.name) == []
    mine.close()


def test_ordinary_users_list_and_end_their_own_and_nobody_elses(server: Server, admin: Client, user: User) -> None:
    other = User(server, admin)
    with Client(server.url, user.token) as mine:
        made = mine.people.create_key(user.name, name="mine")
        assert made["secret_key"]
        assert {one.name for one in mine.people.keys(user.name)} == {"", "mine"}
        assert mine.people.revoke_key(user.name, "mine").id == made["id"]
        for act in (
            lambda: mine.people.keys(other.name),
            lambda: mine.people.tokens(other.name),
            lambda: mine.people.create_key(other.name),
            lambda: mine.people.revoke_key(other.name, other.access),
            lambda: mine.people.end_credentials(other.name),
            lambda: mine.people.set_password(other.name, "x"),
            lambda: mine.people.remove_user(other.name),
            lambda: mine.people.users(),
        ):
            with pytest.raises(ClientError) as caught:
                act()
            assert caught.value.status == 403
        narrow = mine.people.create_token(user.name, scope=["read"])["token"]
    with Client(server.url, narrow) as scoped:
        assert scoped.people.keys(user.name)
        for act in (
            lambda: scoped.people.create_key(user.name),
            lambda: scoped.people.end_credentials(user.name),
            lambda: scoped.people.revoke_key(user.name, user.access),
        ):
            with pytest.raises(ClientError):
                act()
    assert other.gets_in() == EVERY == user.gets_in()


def test_the_administrators_file_is_good_after_each_change(server: Server, admin: Client) -> None:
    data: Path = server.platform.data

    def held() -> dict[str, str]:
        found: dict[str, str] = json.loads((data / CREDENTIALS_NAME).read_text())
        return found

    def command_line_works() -> bool:
        with Client(*find_server(data)) as client:
            return client.people.me() == "admin"

    first = held()
    assert server.platform.identity.by_password("admin", first["password"]).admin
    admin.people.revoke_token("admin", server.platform.tokens.find(first["token"]).id)
    assert command_line_works()
    second = held()
    assert (second["password"], second["access_key"]) == (first["password"], first["access_key"])
    with Client(*find_server(data)) as client:
        client.people.revoke_key("admin", second["access_key"])
        client.people.end_credentials("admin")
    assert command_line_works()
    assert held()["password"] == first["password"]
    with Client(*find_server(data)) as client:
        client.people.set_password("admin", "chosen")
    assert command_line_works()
    third = held()
    assert third["password"] == ""  # written down nowhere
    assert {third["token"], third["secret_key"]}.isdisjoint({first["token"], second["token"], first["secret_key"]})
    assert server.platform.credentials.token == third["token"]
    assert server.platform.identity.by_key(third["access_key"])[1] == third["secret_key"]


def test_races_of_requests_with_a_removal_leave_nobody_in(server: Server, admin: Client) -> None:
    """Over the network, with every kind of credential, while users go one after the other."""
    for _ in range(10):
        user = User(server, admin)
        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(user.gets_in) for _ in range(4)]
            admin.people.remove_user(user.name)
            assert user.gets_in() == set()
            for one in asking:
                one.result(60)
        assert user.gets_in() == set()


@pytest.mark.parametrize("change", ["removed", "no member"])
def test_notebooks_of_who_is_shut_out_are_stopped_and_begin_no_more_and_jobs_go_on(
    server: Server, admin: Client, user: User, change: str
) -> None:
    team = admin.people.create_workspace(f"lab of {user.name}")
    admin.people.set_member(team.id, user.name)
    mine, boss = Http(server.url, user.ways["token"]), Http(server.url, _bearer(server))
    body = {"name": f"lab-{user.name}", "workspace": team.id, "command": ["sleep", "600"], "image": "none"}
    run = mine("POST", "/notebooks", body).json["workload_id"]
    wait_until(lambda: server.platform.workloads.row(run).state == "running")
    instance = server.platform.instances.of_run(server.platform.workloads.row(run))
    assert instance is not None
    if change == "removed":
        admin.people.remove_user(user.name)
    else:
        admin.people.remove_member(team.id, user.name)
    wait_until(lambda: server.platform.workloads.row(run).state == "stopped")
    [event] = [one for one in server.platform.instances.events(instance.row.id or 0) if one.reason == "StopRequested"]
    assert event.message == f"{user.name}, whose it is, may not be inside any more"
    refused = boss("POST", f"/notebooks/lab-{user.name}/start")
    assert (refused.status, "make another one" in refused.json["error"]["message"]) == (409, True)
    assert server.platform.workloads.row(user.job).state == "running"
    for http in (mine, boss):
        http.close()


def _bearer(server: Server) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.platform.credentials.token}"}


def test_the_gateways_table_loses_a_token_within_a_second(server: Server, admin: Client, user: User) -> None:
    with Client(server.url, user.token) as mine:
        http = Http(server.url, user.ways["token"])
        route = f"of-{user.name}"
        assert http("POST", "/endpoints", {"name": route, "image": "none/none:1", "ready_timeout": 3600}).status == 201
        http.close()

        def let_in() -> set[str]:
            table = read_routes(server.platform.data)
            found = [one for one in table.endpoints if one.name == route] if table is not None else []
            return set(found[0].token_hashes or ()) if found else set()

        best = BUSY_S
        for _ in range(5):
            token = mine.people.create_token(user.name, name="caller")["token"]
            hashed = token_hash(token)
            wait_until(lambda hashed=hashed: hashed in let_in())  # type: ignore[misc]
            began = time.monotonic()
            mine.people.revoke_token(user.name, "caller")
            wait_until(lambda hashed=hashed: hashed not in let_in())  # type: ignore[misc]
            best = min(best, time.monotonic() - began)
            if best < WITHIN_S:
                break
        assert best < WITHIN_S
    admin.people.remove_user(user.name)
    wait_until(lambda: token_hash(user.token) not in let_in())
