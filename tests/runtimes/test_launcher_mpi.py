"""MPI's launcher: the words of ``mpiexec``, and commands over SSH between workers, without a container."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncssh
import pytest
from helpers.launcher_bench import launcher
from helpers.ports import free_port

from localml.core.catalog import runtimes_dir

mpi = launcher("mpi")
mpi_ssh = launcher("mpi_ssh")


def new_key() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()


def environ(**members: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(runtimes_dir() / "launcher"), "LOCALML_LISTEN": "127.0.0.1", **members}


@pytest.fixture
def worker() -> Iterator[Mapping[str, str]]:
    """The environment of a run whose second worker serves on this machine; it must end well when it is told to."""
    port = free_port()
    env = environ(LOCALML_MPI_ADDRESSES=f"first:1,127.0.0.1:{port}", LOCALML_MPI_KEY=new_key(), GREETING="hello")
    program = (
        "import asyncio, signal, sys\nfrom localml_launcher.mpi_ssh import serve\n"
        "async def main():\n"
        "    stop = asyncio.Event()\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)\n"
        f"    await serve({port}, stop, lambda: print('ready', flush=True))\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield env
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


AGENT = [sys.executable, "-c", "from localml_launcher.mpi_ssh import agent; agent()"]


def agent(env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AGENT, *words], env=dict(env), capture_output=True, text=True, timeout=60)


def test_one_rank_on_each_host_in_their_order_with_the_environment_of_its_worker() -> None:
    words = mpi.mpiexec(["w-0", "w-1"], ["python", "a b"], Path("/venv/bin"))
    assert words == [
        *("/venv/bin/mpiexec", "-launcher", "ssh", "-launcher-exec", "/venv/bin/localml-mpi-agent"),
        *("-localhost", "w-0", "-hosts", "w-0,w-1", "-ppn", "1", "-n", "2", "-genvnone"),
        *("env", "-u", "LOCALML_MPI_KEY", "python", "a b"),
    ]


def test_a_command_runs_on_the_worker_with_its_environment_and_without_its_key(worker: Mapping[str, str]) -> None:
    command = """echo "$GREETING${LOCALML_MPI_KEY:-}"; echo bad >&2; exit 7"""
    found = agent({**worker, "GREETING": "not this"}, "-x", "127.0.0.1", command)
    assert (found.returncode, found.stdout, found.stderr) == (7, "hello\n", "bad\n")


def test_long_output_comes_whole(worker: Mapping[str, str]) -> None:
    found = agent(worker, "127.0.0.1", sys.executable, "-c", "'print(\"x\" * 5_000_000)'")
    assert (found.returncode, len(found.stdout)) == (0, 5_000_001)


def test_a_signal_that_ended_the_command_gives_128_and_its_number(worker: Mapping[str, str]) -> None:
    assert agent(worker, "127.0.0.1", "kill", "-9", "$$").returncode == 137


def test_who_has_another_key_is_not_let_in(worker: Mapping[str, str]) -> None:
    found = agent({**worker, "LOCALML_MPI_KEY": new_key()}, "127.0.0.1", "echo", "in")
    assert (found.returncode, found.stdout) == (255, "")
    assert "no SSH connection" in found.stderr


def test_a_command_dies_with_the_connection(worker: Mapping[str, str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = f"exec 3>{pipe}; echo started; sleep 600"  # the pipe ends when the command does
    words = [*AGENT, "127.0.0.1", command]
    with (
        subprocess.Popen(words, env=worker, stdout=subprocess.PIPE, text=True) as caller,
        pipe.open("rb") as reader,
    ):
        assert caller.stdout is not None
        assert caller.stdout.readline() == "started\n"
        caller.kill()
        closed = threading.Thread(target=reader.read, daemon=True)
        closed.start()
        closed.join(60)
        assert not closed.is_alive()


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "a:1,,b:2", "a:1,a:2,b:3"])
def test_addresses_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(mpi_ssh.LauncherError, match="LOCALML_MPI_ADDRESSES"):
        mpi_ssh.addresses({"LOCALML_MPI_ADDRESSES": text})


def test_workers_of_one_machine_have_names_of_their_own() -> None:
    found = mpi_ssh.addresses({"LOCALML_MPI_ADDRESSES": ",".join(f"10.1.2.3:{n}" for n in range(300))})
    assert found["127.0.0.1"] == ("10.1.2.3", 0)
    assert found["127.0.1.46"] == ("10.1.2.3", 299)
    assert len(found) == 300
    assert mpi_ssh.addresses({"LOCALML_MPI_ADDRESSES": "a:1,b:2"}) == {"a": ("a", 1), "b": ("b", 2)}
    assert mpi_ssh.addresses({"LOCALML_MPI_ADDRESSES": "a:1"}) == {"a": ("a", 1)}


def test_only_workers_of_the_run_are_called() -> None:
    with pytest.raises(mpi_ssh.LauncherError, match="elsewhere is no worker of this run: a, b"):
        asyncio.run(mpi_ssh.call("elsewhere", "true", {"LOCALML_MPI_ADDRESSES": "a:1,b:2"}))


@pytest.mark.parametrize(
    ("index", "key", "said"),
    [
        ("0", "k", "this image has no mpiexec"),
        ("2", "k", "LOCALML_INDEX: "),
        ("", "k", "LOCALML_INDEX: "),
        ("1", "", "LOCALML_MPI_KEY is not set"),
    ],
)
def test_what_is_missing_is_said(index: str, key: str, said: str) -> None:
    env = environ(LOCALML_MPI_ADDRESSES="a:1,b:2", LOCALML_INDEX=index, LOCALML_MPI_KEY=key)
    words = [sys.executable, "-m", "localml_launcher", "mpi", "--", "true"]
    found = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert found.returncode == 64
    assert said in found.stderr


@pytest.mark.parametrize("words", [[], ["mpi"], ["mpi", "--"], ["mpi", "true"], ["other"]])
def test_the_usage_is_shown(words: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "localml_launcher", *words], env=environ(), capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 64
    assert "usage: " in found.stderr
