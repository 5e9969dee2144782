"""A replica that has an account of its own: what it cannot reach, and all that it can do all the same."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from helpers.engine_kits import BoxedKit, ProcessKit, wait_until

from localml.core.work.specs import most_pids
from localml.engines.base import Account, Bind, EngineError, Phase, ReplicaPlan
from localml.engines.process import boxes
from localml.engines.process import plan as plans
from localml.engines.process.box import SYS_KEYCTL
from localml.engines.process.engine import ProcessEngine

BOB = Account(2_000_000_002, 2_000_000_002, (2_000_000_000,))
ALICE = Account(2_000_000_003, 2_000_000_003, (2_000_000_000,))


@pytest.fixture
def boxed_kit(tmp_path: Path) -> Iterator[BoxedKit]:
    kit = BoxedKit(tmp_path / "replicas")
    yield kit
    kit.close()


def said(kit: ProcessKit, plan: ReplicaPlan) -> str:
    kit.run(plan)
    return kit.output(plan.name)["stdout"].decode()


def test_it_is_somebody_else_without_a_way_back(boxed_kit: BoxedKit) -> None:
    script = "id -u; id -g; id -G; grep -E 'NoNewPrivs|CapEff|CapPrm|CapBnd' /proc/self/status | cut -f 2"
    uid, gid, groups, effective, permitted, _, no_new = said(boxed_kit, boxed_kit.plan(script, account=BOB)).split(
        "\n"
    )[:7]
    assert (uid, gid, groups) == ("2000000002", "2000000002", "2000000002 2000000000")
    assert int(permitted, 16) == int(effective, 16) == 0
    assert no_new == "1"


def test_it_cannot_touch_what_decides_about_it(boxed_kit: BoxedKit) -> None:
    """Its supervisor and the files that the engine believes."""
    plan = boxed_kit.plan(
        "kill -9 $PPID; for f in exit.json running.json stop notes plan.json launch lock stdout;"
        " do echo x > ../$f; cat ../$f; done; rm -rf ..; mv ../work ../gone; ls -A ..; echo on"
    )
    seen = boxed_kit.run(plan)
    assert (seen.exit_code, boxed_kit.output(plan.name)["stdout"]) == (0, b"work\non\n")
    assert b"ermitted" in boxed_kit.output(plan.name)["stderr"] or b"denied" in boxed_kit.output(plan.name)["stderr"]


def test_another_ones_replica_is_out_of_reach(boxed_kit: BoxedKit, tmp_path: Path) -> None:
    script = "echo secret > here; echo $$; exec sleep 600"
    alice = boxed_kit.plan(script, account=ALICE, env={"WORD": "hers"})
    boxed_kit.engine.start(alice)
    boxed_kit.wait_ready(alice.name)
    pid = int(next(iter(boxed_kit.engine.logs(alice.name, {}, follow=False))).data)
    hers = tmp_path / "replicas" / alice.name
    tries = (
        f"kill -9 {pid}; cat /proc/{pid}/environ /proc/{pid}/cmdline; ls /proc/{pid}/root/ /proc/{pid}/cwd/;"
        f" cat {hers}/work/here {hers}/stdout {hers}/plan.json; ls {hers} {tmp_path}; echo bye"
    )
    bob = boxed_kit.plan(tries, account=BOB)
    boxed_kit.run(bob)
    output = boxed_kit.output(bob.name)
    assert output["stdout"] == f"{tmp_path}:\nreplicas\nbye\n".encode()
    assert boxed_kit.engine.inspect(alice.name).phase is Phase.RUNNING
    assert boxed_kit.engine.exec(alice.name, ("cat", "here")).stdout == b"secret\n"


def test_it_sees_what_it_is_given_and_nothing_beside_it(boxed_kit: BoxedKit, tmp_path: Path) -> None:
    for name in ("given", "read", "kept"):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "file").write_text(name)
    tmp_path.chmod(0o700)
    binds = (Bind(str(tmp_path / "given"), "/"), Bind(str(tmp_path / "read"), "/", read_only=True))
    script = f"cd {tmp_path}; cat */file; echo; echo new > given/made; echo new > read/made; ls; echo $?"
    plan = boxed_kit.plan(script, account=BOB, binds=binds)
    assert said(boxed_kit, plan) == "givenread\ngiven\nread\nreplicas\n0\n"
    assert b"Read-only" in boxed_kit.output(plan.name)["stderr"]
    made = (tmp_path / "given" / "made").stat()
    assert (made.st_uid, oct(made.st_mode & 0o777)) == (BOB.uid, "0o664")


@pytest.mark.parametrize("place", ["folder", "folder/below"])
def test_a_link_put_in_the_way_of_what_it_is_given_starts_nothing(
    boxed_kit: BoxedKit, tmp_path: Path, place: str
) -> None:
    """What was checked is what is shown: between the plan and the start somebody may have swapped a folder."""
    (tmp_path / "secret" / "below").mkdir(parents=True)
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "folder").symlink_to(tmp_path / "secret")
    plan = boxed_kit.plan("echo ran", account=BOB, binds=(Bind(str(tmp_path / "bucket" / place), "/x"),))
    seen = boxed_kit.run(plan)
    assert (seen.exit_code, boxed_kit.output(plan.name)["stdout"]) == (126, b"")
    assert b"symbolic links" in boxed_kit.output(plan.name)["stderr"]


def test_what_its_environment_names_is_not_shown_for_that(boxed_kit: BoxedKit, tmp_path: Path) -> None:
    hidden = tmp_path / "private" / "open"
    hidden.mkdir(parents=True)
    (hidden / "file").write_text("secret")
    hidden.parent.chmod(0o700)
    env = {"PYTHONPATH": str(hidden), "VIRTUAL_ENV": str(hidden), "PATH": f"{hidden}:/usr/bin:/bin"}
    assert said(boxed_kit, boxed_kit.plan(f"cat {hidden}/file; echo on", account=BOB, env=env)) == "on\n"


def test_a_part_of_what_it_may_write_may_be_read_only(boxed_kit: BoxedKit, tmp_path: Path) -> None:
    for path in (tmp_path / "bucket", tmp_path / "bucket" / "data", tmp_path / "bucket" / "out"):
        path.mkdir()
        path.chmod(0o777)
    sources = {tmp_path / "bucket": False, tmp_path / "bucket" / "data": True, tmp_path / "bucket" / "out": False}
    binds = tuple(Bind(str(path), "/x", read_only) for path, read_only in sources.items())
    said(boxed_kit, boxed_kit.plan(f"cd {tmp_path}/bucket; touch data/x; touch y out/z", account=BOB, binds=binds))
    assert sorted(path.name for path in (tmp_path / "bucket").rglob("*")) == ["data", "out", "y", "z"]


def test_a_user_namespace_uncovers_nothing(boxed_kit: BoxedKit, tmp_path: Path) -> None:
    """In one of its own it may mount; what was mounted over is locked there."""
    (tmp_path / "secret").write_text("secret")
    tmp_path.chmod(0o755)
    tries = "umount -l /tmp; umount /tmp; mount --bind / /mnt; mount --rbind / /mnt;"
    script = f"unshare -Urm sh -c '{tries} cat {tmp_path}/secret /mnt{tmp_path}/secret'; echo on"
    assert said(boxed_kit, boxed_kit.plan(script, account=BOB)) == "on\n"


def test_the_scratch_folders_are_its_own(boxed_kit: BoxedKit) -> None:
    script = "for d in /tmp /var/tmp /dev/shm; do ls $d; echo x > $d/mine; cat $d/mine; done"
    for account in (BOB, ALICE):
        output = said(boxed_kit, boxed_kit.plan(script, account=account)).split()
        assert output.count("x") == 3
        assert output.count("mine") == 1  # /tmp and /var/tmp are one folder
    assert not Path("/dev/shm/mine").exists()
    assert not Path("/tmp/mine").exists()


def test_no_mount_of_a_box_gets_out_or_stays(boxed_kit: BoxedKit, tmp_path: Path) -> None:
    def mounted() -> list[str]:
        places = ("/tmp", "/var/tmp", "/dev/shm", "/proc", "/root", str(tmp_path))
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in lines if line.split()[4].startswith(places)]

    before = mounted()
    plan = boxed_kit.endless(account=BOB)
    boxed_kit.engine.start(plan)
    wait_until(lambda: boxed_kit.engine.exec(plan.name, ("true",)).exit_code == 0, "the box")
    assert mounted() == before
    boxed_kit.engine.remove(plan.name)


def test_a_command_beside_it_is_in_its_box(boxed_kit: BoxedKit, tmp_path: Path) -> None:
    plan = boxed_kit.endless(account=BOB, env={"LD_PRELOAD": str(tmp_path / "evil.so"), "WORD": "its"})
    boxed_kit.engine.start(plan)
    answer = boxed_kit.engine.exec(
        plan.name, ("sh", "-c", f"id -u; echo $WORD; pwd; ls {tmp_path}; cat /proc/1/environ")
    )
    work = tmp_path / "replicas" / plan.name / "work"
    assert answer.stdout.decode().split() == [str(BOB.uid), "its", str(work), "replicas"]
    assert boxed_kit.engine.exec(plan.name, ("no-such-program",)).exit_code == 127


def test_a_terminal_in_its_box_is_its_own(boxed_kit: BoxedKit) -> None:
    plan = boxed_kit.endless(account=BOB)
    boxed_kit.engine.start(plan)
    stream = boxed_kit.engine.open(plan.name, ("sh", "-c", 'id -u; echo hello > "$(tty)"'), tty=(80, 24))
    found = b""
    while piece := stream.read():
        found += piece[1]
    assert (stream.wait(), found.split()) == (0, [str(BOB.uid).encode(), b"hello"])
    stream.close()


def test_a_later_server_knows_whose_box_it_is(boxed_kit: BoxedKit) -> None:
    plan = boxed_kit.endless(account=BOB)
    boxed_kit.engine.start(plan)
    boxed_kit.engine.close()
    later = boxed_kit.reopen()
    assert later.exec(plan.name, ("id", "-u")).stdout.split() == [str(BOB.uid).encode()]
    later.stop(plan.name, 5)
    assert wait_until(lambda: later.inspect(plan.name).phase is Phase.EXITED, "the end")


def test_python_and_its_modules_are_there(boxed_kit: BoxedKit) -> None:
    script = f"{sys.executable} -c 'import ssl, numpy, sys; print(sys.prefix)'"
    assert said(boxed_kit, boxed_kit.plan(script, account=BOB)).strip() == sys.prefix


def test_without_boxes_an_account_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather nothing than a job that runs as the server."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    engine = ProcessEngine(tmp_path, "i")
    assert not engine.capabilities.accounts
    assert "root" in engine.capabilities.exposes
    with pytest.raises(EngineError, match="account of its own"):
        engine.start(ReplicaPlan("job", "none", ("true",), account=BOB))
    assert engine.inspect("job").phase is Phase.GONE
    engine.close()


def alive(word: str) -> list[int]:
    """Processes that run ``sleep WORD``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found += [process.pid] * (process.cmdline()[-2:] == ["sleep", word])
    return found


DAEMON = "setsid -f sh -c 'exec sleep {0}' < /dev/null > /dev/null 2>&1; while ! pgrep -f '^sleep {0}$'; do :; done"


def test_what_a_command_beside_it_leaves_behind_ends(boxed_kit: BoxedKit) -> None:
    """Also what has left its session: it would run on without any job, outside of all limits."""
    plan = boxed_kit.endless(account=BOB)
    boxed_kit.engine.start(plan)
    answer = boxed_kit.engine.exec(plan.name, ("sh", "-c", f"{DAEMON.format('6001')}; exit 3"))
    assert (answer.exit_code, answer.stdout != b"") == (3, True)
    assert alive("6001") == []


def test_a_command_that_is_left_takes_all_with_it(boxed_kit: BoxedKit) -> None:
    plan = boxed_kit.endless(account=BOB)
    boxed_kit.engine.start(plan)
    stream = boxed_kit.engine.open(plan.name, ("sh", "-c", f"{DAEMON.format('6002')}; trap '' HUP; sleep 6002"))
    assert stream.read() is not None
    stream.close()
    assert alive("6002") == []
    with pytest.raises(EngineError, match="did not end within"):
        boxed_kit.engine.exec(plan.name, ("sh", "-c", f"{DAEMON.format('6003')}; sleep 6003"), timeout=0.5)
    assert alive("6003") == []


def test_what_a_command_left_may_say_all_that_it_has_to_say(boxed_kit: BoxedKit) -> None:
    plan = boxed_kit.endless(account=BOB)
    boxed_kit.engine.start(plan)
    answer = boxed_kit.engine.exec(plan.name, ("sh", "-c", "(sleep 0.2; echo late) & echo early"))
    assert answer.stdout == b"early\nlate\n"


def test_its_user_has_no_more_processes_than_a_part_of_the_machine(boxed_kit: BoxedKit) -> None:
    script = "grep processes /proc/self/limits | tr -s ' ' | cut -d ' ' -f 3,4"
    assert said(boxed_kit, boxed_kit.plan(script, account=BOB)).split() == [str(most_pids())] * 2
    plan = boxed_kit.endless(account=BOB)
    boxed_kit.engine.start(plan)
    assert boxed_kit.engine.exec(plan.name, ("sh", "-c", script)).stdout.split() == [str(most_pids()).encode()] * 2


_SESSIONS_KEY = """
import ctypes
found = ctypes.create_string_buffer(99)
keyctl = ctypes.CDLL(None).syscall
keyctl({0}, 11, keyctl({0}, 10, -3, b"user", b"localml-test", 0), found, 99)
print(found.value.decode())
"""
"""Reads a key of the session's keyring: KEYCTL_SEARCH (10), KEYCTL_READ (11)."""


def test_the_keys_of_who_started_the_server_are_not_there(tmp_path: Path) -> None:
    """Whoever has a keyring reads the keys in it, whatever user it has become."""
    number = SYS_KEYCTL[os.uname().machine]
    libc = ctypes.CDLL(None)
    if libc.syscall(number, 1, None) < 0 or libc.syscall(number - 2, b"user", b"localml-test", b"hush", 4, -3) < 0:
        pytest.skip("no keyrings here")
    kit = BoxedKit(tmp_path / "replicas")
    asks = (sys.executable, "-c", _SESSIONS_KEY.format(number))
    plain, boxed = kit.plan("", account=None), kit.endless(account=BOB)
    assert said(kit, replace(plain, command=asks)) == "hush\n"
    assert said(kit, replace(kit.plan("", account=BOB), command=asks)) == "\n"
    kit.engine.start(boxed)
    assert kit.engine.exec(boxed.name, asks).stdout == b"\n"
    kit.close()


@pytest.mark.parametrize("account", [None, BOB])
def test_a_command_beside_it_has_the_limit_of_files_of_before(
    boxed_kit: BoxedKit, account: Account | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the server's, which programs that use ``select`` cannot cope with."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for module in (boxes, plans):
        monkeypatch.setattr(module, "limit_of_children", lambda: (256, hard))
    plan = boxed_kit.endless(account=account)
    boxed_kit.engine.start(plan)
    assert boxed_kit.engine.exec(plan.name, ("sh", "-c", "ulimit -n")).stdout == b"256\n"
    stream = boxed_kit.engine.open(plan.name, ("sh", "-c", "ulimit -n; exit 5"))
    assert (stream.read(), stream.read(), stream.wait()) == (("stdout", b"256\n"), None, 5)
    stream.close()
    assert boxed_kit.engine.exec(plan.name, ("no-such-program",)).exit_code == 127


def test_a_command_that_comes_while_a_box_is_made_never_gets_what_is_around_it(
    boxed_kit: BoxedKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is a box's namespace is looked up once its first process has become somebody else, which it does last."""
    plan = boxed_kit.endless(account=BOB)
    boxed_kit.engine.start(plan)
    wait_until(lambda: boxed_kit.engine.exec(plan.name, ("true",)).exit_code == 0, "the box")
    told: list[str] = []
    real_open, real_uids = os.open, psutil.Process.uids

    def opened(path: Any, *rest: Any, **more: Any) -> int:
        told.extend(["namespace"] if str(path).endswith("/ns/mnt") else [])
        return real_open(path, *rest, **more)

    def uids(process: psutil.Process) -> Any:
        told.append("who")
        return SimpleNamespace(real=0) if len(told) < 3 else real_uids(process)  # its box is still being made

    monkeypatch.setattr(boxes.os, "open", opened)
    monkeypatch.setattr(psutil.Process, "uids", uids)
    assert boxed_kit.engine.exec(plan.name, ("true",)).exit_code == 0
    assert told == ["who", "who", "who", "namespace", "who"]


def test_where_no_other_user_can_run_python_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than that each job of a user fails with something about a missing file."""
    kit = BoxedKit(tmp_path / "replicas")
    kit.close()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(private / "python"))
    engine = ProcessEngine(tmp_path / "replicas", "i")
    assert "no other user can run the Python of localml" in engine.capabilities.exposes
    assert str(private / "python") in engine.capabilities.exposes
    assert not [one for one in (tmp_path / "replicas").iterdir() if one.is_dir()]
    engine.close()


def test_what_an_earlier_server_made_and_did_not_begin_runs_as_is_decided_now(
    boxed_kit: BoxedKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trust may have ended meanwhile, its owner have lost rights, a bucket have become another one."""
    plan = boxed_kit.plan("id -u", account=None)
    earlier = boxed_kit.reopen()
    assert isinstance(earlier, ProcessEngine)
    monkeypatch.setattr(earlier._supervisors, "spawn", lambda name: None)  # it dies here
    assert earlier.start(plan).phase is Phase.CREATED
    assert said(boxed_kit, replace(plan, account=BOB)) == f"{BOB.uid}\n"


def test_a_command_beside_it_has_no_more_memory_than_it(boxed_kit: BoxedKit) -> None:
    plan = boxed_kit.endless(account=BOB, memory=64 << 20)
    boxed_kit.engine.start(plan)
    takes = (sys.executable, "-c", "bytearray(200 << 20)")
    answer = boxed_kit.engine.exec(plan.name, takes)
    assert (answer.exit_code, b"MemoryError" in answer.stderr) == (1, True)


def test_its_shared_memory_is_as_large_as_its_plan_says(boxed_kit: BoxedKit) -> None:
    plan = boxed_kit.plan("df -B1 --output=size /dev/shm | tail -1", account=BOB, memory=256 << 20, shm=1 << 20)
    assert int(said(boxed_kit, plan)) == 1 << 20
