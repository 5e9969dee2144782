"""The Python client against a live server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.outputs import append
from helpers.rig import wait_until

from localml.client import Client, ClientError
from localml.client.transport import find_server, server_directory
from localml.core.logs.sources import ALL
from localml.testing import Localml, start


def test_run_and_wait(localml: Localml) -> None:
    done = localml.client.run(
        ["sh", "-c", "echo $GREETING; echo $CUDA_VISIBLE_DEVICES"], gpus=1, memory="64M", env={"GREETING": "hello"},
        wait=True, timeout=60,
    )  # fmt: skip
    assert (done.state, done.exit_code, done.ended) == ("succeeded", 0, True)
    [replica] = done.replicas
    assert localml.client.text(done.id) == f"hello\n{replica.gpus[0]['uuid']}\n"


def test_many_last_lines_come_as_a_whole(localml: Localml) -> None:
    """More of them than fit into one answer."""
    made = localml.client.run(["seq", "1000000", "1300000"], wait=True, timeout=60)
    text = localml.client.text(made.id, tail=200_000)
    assert text.splitlines() == [str(number) for number in range(1_100_001, 1_300_001)]
    assert localml.client.text(made.id, tail=2, limit=3) == "1299999\n1300000\n"


def test_output_that_grows_faster_than_it_is_read_ends(localml: Localml) -> None:
    """What there is by now is what there was when it was asked for."""
    made = localml.client.run(["sleep", "600"])
    wait_until(lambda: localml.client.get(made.id).state == "running")
    source = ALL.sources(localml.platform.workloads.get(made.id).attempts)[0]
    append(localml.platform.logs, source, 1, b"1234567\n" * 4)
    found = b""
    for part in localml.client.parts(made.id, limit=8):
        found += part.data
        assert part.left("40,0") == 40 - len(found)
        append(localml.platform.logs, source, 2, b"7654321\n" * 4)
    assert found == b"1234567\n" * 4
    localml.client.delete(made.id)


def test_follow_gives_text_as_it_comes_and_tells_the_states(localml: Localml) -> None:
    made = localml.client.run(["sh", "-c", "echo out; echo err >&2; exit 1"])
    states: list[str] = []
    pieces = list(localml.client.follow(made.id, state=states.append))
    assert sorted((one.stream, one.text) for one in pieces) == [("stderr", "err\n"), ("stdout", "out\n")]
    assert {(one.replica, one.attempt) for one in pieces} == {("main-0", 1)}
    assert states[-1] == "failed"


def test_wait_gives_up_in_time(localml: Localml) -> None:
    made = localml.client.run(["sleep", "600"])
    with pytest.raises(TimeoutError, match=made.name):
        localml.client.wait(made.id, timeout=0.05)
    localml.client.delete(made.id)


def test_refusals_carry_code_field_and_sentence(localml: Localml) -> None:
    with pytest.raises(ClientError) as refused:
        localml.client.run(["true"], gpus=99)
    error = refused.value
    assert (error.code, error.field, error.status) == ("capacity", "gpu", 422)
    assert error.details == {"asked": 99, "available": 2}
    assert "99" in error.message


def test_a_server_that_is_not_there(unused_port: int) -> None:
    with pytest.raises(ClientError) as failed, Client(f"http://127.0.0.1:{unused_port}") as client:
        client.status()
    assert failed.value.code == "unreachable"


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Nobody listens there, and as it is held, nobody else can begin to."""
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def test_all_walks_through_the_pages(localml: Localml) -> None:
    made = [localml.client.submit({"roles": [{"command": ["true"]}]}, pool="walk").id for _ in range(3)]
    assert [one.id for one in localml.client.all(pool="walk", limit=1, order="asc")] == made


def test_objects(localml: Localml) -> None:
    data = bytes(range(256)) * 5000
    assert localml.client.put("fds://client/a b/é", io.BytesIO(data)) == len(data)
    assert b"".join(localml.client.fetch("fds://client/a b/é")) == data
    assert [one.name for one in localml.client.objects("fds://client/a b")] == ["é"]
    localml.client.delete_object("fds://client/a b", recursive=True)
    with pytest.raises(ClientError, match="does not exist"):
        localml.client.object_info("fds://client/a b")


def test_samples(localml: Localml) -> None:
    made = localml.client.run(["true"])
    localml.client.add_samples(made.id, [{"name": "loss", "value": 0.5, "at": 7.0}], replica="main-0")
    # a job that runs for long enough is measured too
    assert localml.client.samples(made.id, name="loss") == {("main-0", "loss"): [(7.0, 0.5)]}


def test_machine_and_pools(localml: Localml) -> None:
    assert [one.simulated for one in localml.client.gpus()] == [True, True]
    localml.client.drain("0", reason="test")
    assert localml.client.gpus()[0].drained
    localml.client.undrain("0")
    assert localml.client.set_limits("client-pool", gpu=1).gpu == 1
    assert "client-pool" in {one.name for one in localml.client.pools()}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    running = start(tmp_path_factory.mktemp("other"))
    yield running
    running.close()


class TestFinding:
    """Which server is meant."""

    def test_that_of_a_data_directory(self, other: Localml) -> None:
        with Client.connect(other.platform.data) as client:
            assert client.status()["data"] == str(other.platform.data)

    def test_the_variables(self, other: Localml, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCALML_URL", "http://somewhere:1/")
        monkeypatch.setenv("LOCALML_TOKEN", "t")
        assert find_server() == ("http://somewhere:1", "t")
        monkeypatch.delenv("LOCALML_TOKEN")
        monkeypatch.setenv("LOCALML_DATA", str(other.platform.data))
        token = json.loads((other.platform.data / "credentials.json").read_text())["token"]
        assert find_server() == (other.url, token)

    def test_address_and_token_are_of_one_source(
        self, other: Localml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever an old shell still has in its environment."""
        data = other.platform.data
        here = (other.url, json.loads((data / "credentials.json").read_text())["token"])
        there, pair = "http://somewhere:1", ("http://somewhere:1", "old")
        cases = [
            # (--data, LOCALML_DATA, LOCALML_URL, LOCALML_TOKEN) -> the server and its token
            ((data, None, None, "old"), here),
            ((data, None, there, "old"), here),
            ((data, tmp_path, there, "old"), here),
            ((data, tmp_path, there, None), here),
            ((None, data, None, "old"), here),
            ((None, data, there, None), here),
            ((None, data, there, "old"), pair),
            ((None, None, there, "old"), pair),
            ((None, None, there, None), (there, "")),
        ]
        for (given, folder, url, token), expected in cases:
            for name, value in (("DATA", folder), ("URL", url), ("TOKEN", token)):
                monkeypatch.delenv(f"LOCALML_{name}", raising=False)
                if value is not None:
                    monkeypatch.setenv(f"LOCALML_{name}", str(value))
            assert find_server(given) == expected, (given, folder, url, token)

    def test_the_default_directory_has_its_own_token(
        self, other: Localml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LOCALML_DATA", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".localml").symlink_to(other.platform.data)
        monkeypatch.setenv("LOCALML_TOKEN", "old")
        with Client.connect() as client:
            assert client.status()["url"] == other.url

    def test_what_is_done_to_a_server_is_done_to_the_one_that_is_meant(
        self, other: Localml, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = other.platform.data
        monkeypatch.setenv("LOCALML_DATA", str(data))
        monkeypatch.setenv("LOCALML_TOKEN", "t")
        port = other.url.rpartition(":")[2]
        for url in (other.url, f"http://localhost:{port}/"):
            monkeypatch.setenv("LOCALML_URL", url)
            assert server_directory(None) == data
        for url in ("http://127.0.0.1:1", f"http://elsewhere:{port}", "http://elsewhere:x"):
            monkeypatch.setenv("LOCALML_URL", url)
            with pytest.raises(ClientError, match=f"LOCALML_URL means {url}; .* is --data {data}"):
                server_directory(None)
            assert server_directory(data) == data
        monkeypatch.delenv("LOCALML_TOKEN")
        assert server_directory(None) == data

    @pytest.mark.parametrize("url", ["nonsense", "ftp://x", "127.0.0.1:7070", " http://x"])
    def test_what_is_no_address_is_said_to_be_none(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCALML_URL", url)
        monkeypatch.setenv("LOCALML_TOKEN", "t")
        with pytest.raises(ClientError, match="LOCALML_URL") as failed:
            Client.connect()
        assert failed.value.code == "invalid"

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(ClientError, match="localml up --detach") as failed:
            find_server(tmp_path)
        assert failed.value.code == "no_server"

    @pytest.mark.parametrize("token", ["two\nlines", "schlüssel"])
    def test_a_token_that_is_none_is_said_to_be_so(
        self, other: Localml, monkeypatch: pytest.MonkeyPatch, token: str
    ) -> None:
        monkeypatch.setenv("LOCALML_URL", other.url)
        monkeypatch.setenv("LOCALML_TOKEN", token)
        with pytest.raises(ClientError, match="LOCALML_TOKEN"), Client.connect() as client:
            client.status()
