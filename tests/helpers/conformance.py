"""What any engine must do. A new engine gives a kit in conftest.py and passes this, or says why it cannot."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from helpers.engine_kits import DEADLINE, EngineKit, wait_until
from localml.engines.base import LABEL_WORKLOAD, EngineError, ExecStream, GpuGrant, Observed, Phase


def ended_by(seen: Observed, signal: int) -> bool:
    """Whether a signal ended it, in either of the two ways in which engines say so."""
    return seen.signal == signal or seen.exit_code == 128 + signal


def read_all(stream: ExecStream) -> dict[str, bytes]:
    """All that a command still writes."""
    found = {"stdout": b"", "stderr": b""}
    while (piece := stream.read()) is not None:
        found[piece[0]] += piece[1]
    return found


def read_until(stream: ExecStream, end: bytes) -> bytes:
    """What a command writes up to these words."""
    found = b""
    while not found.endswith(end):
        piece = stream.read()
        assert piece is not None, f"ended after {found!r}"
        found += piece[1]
    return found


@contextmanager
def watching(kit: EngineKit) -> Iterator[set[str]]:
    """The names that the engine's watcher tells, once it tells of what happens now: Docker's begins a moment later."""
    stop, told = threading.Event(), set[str]()
    names = kit.engine.watch(stop)
    reader = threading.Thread(target=lambda: told.update(names), daemon=True)
    reader.start()
    tries: set[str] = set()

    def begun() -> bool:
        if kit.engine.name == "docker" and not tries & told:
            plan = kit.ending()
            kit.run(plan)
            tries.add(plan.name)
        return kit.engine.name != "docker" or bool(tries & told)

    wait_until(begun, "the watcher's first hint")
    yield told
    stop.set()
    reader.join(DEADLINE)
    assert not reader.is_alive()


class EngineConformance:
    """Tests over the fixture ``engine_kit``."""

    # start

    def test_a_started_replica_runs_and_is_listed(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.endless(labels={LABEL_WORKLOAD: "7"})
        seen = engine_kit.engine.start(plan)
        assert seen.name == plan.name
        assert seen.phase is Phase.RUNNING
        assert (seen.exit_code, seen.signal, seen.finished_at) == (None, None, None)
        assert engine_kit.engine.list()[plan.name].phase is Phase.RUNNING
        assert engine_kit.engine.inspect(plan.name).phase is Phase.RUNNING

    def test_labels_come_back(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.endless(labels={LABEL_WORKLOAD: "7", "localml.role": "wörker"})
        engine_kit.engine.start(plan)
        for seen in (engine_kit.engine.inspect(plan.name), engine_kit.engine.list()[plan.name]):
            assert plan.labels.items() <= seen.labels.items()

    def test_a_second_start_finds_the_first(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("echo begun; sleep 600")
        first = engine_kit.engine.start(plan)
        engine_kit.wait_ready(plan.name)
        second = engine_kit.engine.start(plan)
        assert second.phase is Phase.RUNNING
        assert dict(second.handle) == dict(first.handle)
        engine_kit.engine.stop(plan.name, 0)
        engine_kit.wait_end(plan.name)
        assert engine_kit.output(plan.name)["stdout"] == b"begun\n"

    def test_eight_starts_at_once_make_one_replica(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("echo begun")
        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(lambda _: engine_kit.engine.start(plan), range(8)))
        assert {one.name for one in seen} == {plan.name}
        engine_kit.wait_end(plan.name)
        assert engine_kit.output(plan.name)["stdout"] == b"begun\n"
        assert list(engine_kit.engine.list()) == [plan.name]

    def test_what_has_ended_is_not_started_again(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.ending(3)
        first = engine_kit.run(plan)
        again = engine_kit.engine.start(plan)
        assert again.phase is Phase.EXITED
        assert (again.exit_code, again.finished_at) == (3, first.finished_at)

    def test_a_program_that_is_not_there_fails_with_its_name(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("")
        plan = type(plan)(name=plan.name, image=plan.image, command=("no-such-program",), labels=plan.labels)
        try:
            engine_kit.engine.start(plan)
        except EngineError as error:
            said = str(error)
        else:
            assert engine_kit.wait_end(plan.name).exit_code == 127
            said = engine_kit.output(plan.name)["stderr"].decode()
        assert "no-such-program" in said

    # ends

    @pytest.mark.parametrize("code", [0, 1, 42, 125, 255])
    def test_exit_codes_are_exact(self, engine_kit: EngineKit, code: int) -> None:
        seen = engine_kit.run(engine_kit.ending(code))
        assert (seen.exit_code, seen.signal, seen.oom_killed) == (code, None, False)
        assert seen.started_at is not None
        assert seen.finished_at is not None
        assert seen.started_at <= seen.finished_at

    def test_a_signal_is_told_from_an_exit(self, engine_kit: EngineKit) -> None:
        seen = engine_kit.run(engine_kit.plan("sh -c 'kill -SEGV $$'; exit $?"))
        assert ended_by(seen, 11)

    def test_an_unknown_name_is_gone(self, engine_kit: EngineKit) -> None:
        seen = engine_kit.engine.inspect("lml-nothing-here")
        assert (seen.name, seen.phase) == ("lml-nothing-here", Phase.GONE)

    # stop and remove

    def test_stop_lets_the_program_end_in_its_own_way(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan('trap "echo saved; exit 7" TERM; echo ready; sleep 600 & wait')
        engine_kit.engine.start(plan)
        engine_kit.wait_ready(plan.name)
        engine_kit.engine.stop(plan.name, DEADLINE)
        seen = engine_kit.wait_end(plan.name)
        assert (seen.exit_code, seen.signal) == (7, None)
        assert engine_kit.output(plan.name)["stdout"] == b"ready\nsaved\n"

    def test_stop_ends_what_runs(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.endless()
        engine_kit.engine.start(plan)
        engine_kit.engine.stop(plan.name, 1)
        assert engine_kit.wait_end(plan.name).exit_code != 0

    def test_stop_kills_after_the_grace(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.stubborn()
        engine_kit.engine.start(plan)
        engine_kit.wait_ready(plan.name)
        begun = time.monotonic()
        engine_kit.engine.stop(plan.name, 1)
        engine_kit.pass_time(1)
        assert ended_by(engine_kit.wait_end(plan.name), 9)
        if engine_kit.runs_programs:
            assert time.monotonic() - begun >= 0.99

    def test_a_shorter_grace_replaces_a_longer_one(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.stubborn()
        engine_kit.engine.start(plan)
        engine_kit.wait_ready(plan.name)
        patient = threading.Thread(target=engine_kit.engine.stop, args=(plan.name, 600))
        patient.start()
        engine_kit.wait_told(plan.name)
        engine_kit.engine.stop(plan.name, 0)
        assert ended_by(engine_kit.wait_end(plan.name), 9)
        patient.join(DEADLINE)
        assert not patient.is_alive()

    def test_stop_and_remove_of_what_is_gone_or_over_succeed(self, engine_kit: EngineKit) -> None:
        engine_kit.engine.stop("lml-nothing-here", 1)
        engine_kit.engine.remove("lml-nothing-here")
        engine_kit.engine.remove_network("lml-nothing-here")
        plan = engine_kit.ending(5)
        engine_kit.run(plan)
        engine_kit.engine.stop(plan.name, 1)
        assert engine_kit.engine.inspect(plan.name).exit_code == 5

    def test_remove_leaves_nothing(self, engine_kit: EngineKit) -> None:
        ended, running = engine_kit.ending(), engine_kit.endless()
        engine_kit.run(ended)
        engine_kit.engine.start(running)
        for plan in (ended, running):
            engine_kit.engine.remove(plan.name)
            engine_kit.engine.remove(plan.name)
            assert engine_kit.engine.inspect(plan.name).phase is Phase.GONE
        assert engine_kit.engine.list() == {}

    def test_remove_returns_only_when_it_is_gone(self, engine_kit: EngineKit) -> None:
        """However many say it at once: a GPU or a name is given to others then."""
        plan = engine_kit.stubborn()
        engine_kit.engine.start(plan)

        def remove(_: int) -> Phase:
            engine_kit.engine.remove(plan.name)
            return engine_kit.engine.inspect(plan.name).phase

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(remove, range(4))) == {Phase.GONE}
        assert engine_kit.engine.list() == {}

    def test_a_removed_name_can_be_used_again(self, engine_kit: EngineKit) -> None:
        first = engine_kit.ending(1)
        engine_kit.run(first)
        engine_kit.engine.remove(first.name)
        assert engine_kit.run(engine_kit.ending(2, name=first.name)).exit_code == 2

    # logs

    def test_output_is_exact(self, engine_kit: EngineKit) -> None:
        script = (
            r"printf 'a\0\377\r\n'; printf 'err\n' >&2; "
            "head -c 300000 /dev/zero | tr '\\0' x; printf '\\nno newline at the end'"
        )
        plan = engine_kit.plan(script)
        engine_kit.run(plan)
        found = engine_kit.output(plan.name)
        assert found["stdout"] == b"a\0\xff\r\n" + b"x" * 300_000 + b"\nno newline at the end"
        assert found["stderr"] == b"err\n"

    def test_interleaved_streams_are_each_in_order(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("i=0; while [ $i -lt 200 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done")
        engine_kit.run(plan)
        found = engine_kit.output(plan.name)
        assert found["stdout"] == b"".join(b"o%d\n" % i for i in range(200))
        assert found["stderr"] == b"".join(b"e%d\n" % i for i in range(200))

    def test_opening_the_output_anew_loses_nothing(self, engine_kit: EngineKit) -> None:
        """``> /dev/stderr`` opens what is there, and cuts it off where that is a file."""
        script = "echo 1; echo 2 > /dev/stdout; echo 3; echo 4 >> /dev/stdout; echo a >&2; echo b > /dev/stderr"
        plan = engine_kit.plan(f"{script}; echo c > /proc/self/fd/2; echo d >&2")
        assert engine_kit.run(plan).exit_code == 0
        assert engine_kit.output(plan.name) == {"stdout": b"1\n2\n3\n4\n", "stderr": b"a\nb\nc\nd\n"}

    def test_reading_goes_on_from_an_offset(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("printf 0123456789; printf abcdef >&2")
        engine_kit.run(plan)
        assert engine_kit.output(plan.name, stdout=4, stderr=6) == {"stdout": b"456789", "stderr": b""}
        assert engine_kit.output(plan.name, stdout=10) == {"stdout": b"", "stderr": b"abcdef"}

    def test_what_was_carried_is_asked_for_no_more_and_the_rest_stays(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("head -c 999999 /dev/zero; echo; printf rest; printf complaint >&2")
        engine_kit.run(plan)
        engine_kit.engine.carried(plan.name, {"stdout": 1_000_000, "stderr": 4})
        engine_kit.engine.carried(plan.name, {"stdout": 1_000_000})
        rest = {"stdout": b"rest", "stderr": b"laint"}
        assert engine_kit.output(plan.name, stdout=1_000_000, stderr=4) == rest
        engine_kit.engine.remove(plan.name)
        engine_kit.engine.carried(plan.name, {"stdout": 1_000_004})

    def test_following_gives_output_as_it_comes_and_ends_with_the_replica(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan('trap "printf last; exit 0" TERM; echo first; sleep 600 & wait')
        engine_kit.engine.start(plan)
        before = time.time()
        chunks = engine_kit.engine.logs(plan.name, {}, follow=True)
        first = next(chunks)
        assert (first.stream, first.data) == ("stdout", b"first\n")
        assert abs(first.at - before) < DEADLINE
        engine_kit.engine.stop(plan.name, DEADLINE)
        assert b"".join(chunk.data for chunk in chunks) == b"last"

    def test_without_follow_reading_ends_at_once(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.stubborn()
        engine_kit.engine.start(plan)
        engine_kit.wait_ready(plan.name)
        chunks = list(engine_kit.engine.logs(plan.name, {}, follow=False))
        assert b"".join(chunk.data for chunk in chunks) == b"ready\n"
        assert engine_kit.engine.inspect(plan.name).phase is Phase.RUNNING

    def test_logs_of_what_is_gone_are_empty(self, engine_kit: EngineKit) -> None:
        assert list(engine_kit.engine.logs("lml-nothing-here", {}, follow=True)) == []

    # environment

    def test_environment_and_folder_are_as_planned(self, engine_kit: EngineKit) -> None:
        env = {"PLAIN": "a", "SPACES": " b  c ", "UMLAUT": "äöü", "LINES": "1\n2", "EMPTY": ""}
        plan = engine_kit.plan(
            'printf "%s|" "$PLAIN" "$SPACES" "$UMLAUT" "$LINES" "${EMPTY-unset}" "${ABSENT-unset}"; pwd',
            env=env,
            workdir="/tmp",
        )
        engine_kit.run(plan)
        expected = "a| b  c |äöü|1\n2||unset|/tmp\n"
        assert engine_kit.output(plan.name)["stdout"] == expected.encode()

    def test_without_gpus_none_can_be_asked_for(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan('printf "$NVIDIA_VISIBLE_DEVICES"', env={"NVIDIA_VISIBLE_DEVICES": "all"})
        engine_kit.run(plan)
        assert engine_kit.output(plan.name)["stdout"] == b"void"

    def test_leased_gpus_are_exactly_those_seen(self, engine_kit: EngineKit) -> None:
        if not engine_kit.grants_any_gpu:
            pytest.skip("needs GPUs that exist")
        plan = engine_kit.plan(
            'printf "$NVIDIA_VISIBLE_DEVICES $CUDA_VISIBLE_DEVICES"',
            env={"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0"},
            gpus=(GpuGrant("GPU-aa", 2), GpuGrant("MIG-bb", 3)),
        )
        engine_kit.run(plan)
        assert engine_kit.output(plan.name)["stdout"] == b"GPU-aa,MIG-bb GPU-aa,MIG-bb"

    # while it runs

    def test_use_of_a_running_replica(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.endless(memory=64 << 20)
        engine_kit.engine.start(plan)
        use = wait_until(lambda: (now := engine_kit.engine.stats(plan.name)) and now.memory > 0 and now, "stats")
        assert use.cpu_seconds >= 0
        engine_kit.engine.stop(plan.name, 0)
        engine_kit.wait_end(plan.name)
        assert engine_kit.engine.stats(plan.name) is None

    def test_a_command_runs_inside(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("sleep 600", env={"INSIDE": "yes"})
        engine_kit.engine.start(plan)
        script = 'printf "$INSIDE"; printf warned >&2; exit 4'
        result = engine_kit.engine.exec(plan.name, ("sh", "-c", script))
        assert (result.exit_code, result.stdout, result.stderr) == (4, b"yes", b"warned")

    def test_no_command_runs_in_what_does_not(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.ending()
        engine_kit.run(plan)
        for name in (plan.name, "lml-nothing-here"):
            with pytest.raises(EngineError):
                engine_kit.engine.exec(name, ("true",))

    def test_a_command_is_attached_to(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("sleep 600", env={"INSIDE": "yes"}, workdir="/tmp")
        engine_kit.engine.start(plan)
        script = 'echo "$INSIDE $ADDED $(pwd)"; echo warned >&2; cat; [ ! -t 0 ] && exit 4'
        stream = engine_kit.engine.open(plan.name, ("sh", "-c", script), env={"ADDED": "more"})
        big = b"line of input\n" * 20_000
        writer = threading.Thread(target=lambda: (stream.write(big), stream.close_stdin()), daemon=True)
        writer.start()
        output = read_all(stream)
        writer.join(DEADLINE)
        assert (output["stdout"], output["stderr"]) == (b"yes more /tmp\n" + big, b"warned\n")
        assert stream.wait() == 4
        stream.close()

    def test_a_command_has_a_terminal(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("sleep 600")
        engine_kit.engine.start(plan)
        # Docker sets the first size a moment after the start, so that a signal may come for that one too.
        wait = "trap 'size=$(stty size)' WINCH; echo ready; until [ \"$size\" = '40 100' ]; do sleep 0.05; done"
        shell = ("sh", "-c", f"stty size; echo $TERM; {wait}; echo $size; exit 3")
        stream = engine_kit.engine.open(plan.name, shell, tty=(90, 30), env={"TERM": "vt100"})
        seen = read_until(stream, b"ready\r\n")
        stream.resize(100, 40)
        rest = read_all(stream)["stdout"]
        assert b"vt100\r\n" in seen
        assert seen.startswith(b"30 90\r\n") or engine_kit.engine.name == "docker"  # which sets the size just after
        assert rest == b"40 100\r\n"
        assert stream.wait() == 3
        stream.close()

    def test_a_command_is_interrupted_from_its_terminal(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("sleep 600")
        engine_kit.engine.start(plan)
        stream = engine_kit.engine.open(plan.name, ("sh", "-c", "echo ready; exec sleep 600"), tty=(80, 24))
        read_until(stream, b"ready\r\n")
        stream.write(b"\x03")
        read_all(stream)
        assert stream.wait() == 128 + 2
        stream.close()

    def test_a_signal_reaches_a_command(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("sleep 600")
        engine_kit.engine.start(plan)
        script = "trap 'echo told; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
        stream = engine_kit.engine.open(plan.name, ("sh", "-c", script))
        read_until(stream, b"ready\n")
        stream.signal(10)
        assert read_all(stream)["stdout"] == b"told\n"
        assert stream.wait() == 9
        stream.close()

    def test_letting_go_of_a_command_ends_it(self, engine_kit: EngineKit) -> None:
        seconds = f"4711.{os.getpid()}"  # this run's own
        plan = engine_kit.plan("sleep 600")
        engine_kit.engine.start(plan)
        stream = engine_kit.engine.open(plan.name, ("sh", "-c", f"echo ready; sleep {seconds} & wait"))
        read_until(stream, b"ready\n")
        reader = threading.Thread(target=read_all, args=(stream,), daemon=True)
        reader.start()
        stream.close()
        stream.close()
        reader.join(DEADLINE)
        assert not reader.is_alive()
        look = ("sh", "-c", f"ps -ef | grep -q 's[l]eep {seconds}'")
        wait_until(lambda: engine_kit.engine.exec(plan.name, look).exit_code == 1, "its end")

    def test_a_command_that_reads_nothing_can_be_signalled_and_let_go_of(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.plan("sleep 600")
        engine_kit.engine.start(plan)
        script = "trap 'echo told' USR1; echo ready; while :; do sleep 0.05; done"
        stream = engine_kit.engine.open(plan.name, ("sh", "-c", script))
        read_until(stream, b"ready\n")
        writer = threading.Thread(target=stream.write, args=(b"x" * (32 << 20),), daemon=True)
        writer.start()
        stream.signal(10)
        read_until(stream, b"told\n")
        assert writer.is_alive()  # it fills whatever lies between
        closers = [threading.Thread(target=stream.close, daemon=True) for _ in range(8)]
        for one in closers:
            one.start()
        for one in (*closers, writer):
            one.join(DEADLINE)
            assert not one.is_alive()

    def test_attached_commands_end_with_the_replica(self, engine_kit: EngineKit) -> None:
        if engine_kit.engine.name == "process":
            pytest.skip("without isolation nothing ties a command to a replica")
        plan = engine_kit.plan("sleep 600")
        engine_kit.engine.start(plan)
        stream = engine_kit.engine.open(plan.name, ("sh", "-c", "echo ready; sleep 600"))
        read_until(stream, b"ready\n")
        engine_kit.engine.remove(plan.name)
        assert read_all(stream) == {"stdout": b"", "stderr": b""}
        assert stream.wait() == 137
        stream.close()

    def test_nothing_is_attached_to_what_does_not_run(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.ending()
        engine_kit.run(plan)
        for name in (plan.name, "lml-nothing-here"):
            with pytest.raises(EngineError):
                engine_kit.engine.open(name, ("true",))

    def test_watch_tells_of_an_end(self, engine_kit: EngineKit) -> None:
        with watching(engine_kit) as told:
            plan = engine_kit.ending()
            engine_kit.engine.start(plan)
            wait_until(lambda: plan.name in told, "the hint")
            engine_kit.wait_end(plan.name)

    # beyond one engine object

    def test_a_restarted_server_sees_everything(self, engine_kit: EngineKit) -> None:
        ended, running = engine_kit.ending(9), engine_kit.endless()
        engine_kit.run(ended)
        engine_kit.engine.start(running)
        engine_kit.engine.close()
        engine_kit.engine = engine_kit.reopen()
        # A supervisor that began a moment ago may need milliseconds to show itself to a new server.
        wait_until(lambda: engine_kit.engine.inspect(running.name).phase is Phase.RUNNING, "it is found running")
        seen = engine_kit.engine.list()
        assert {name: one.phase for name, one in seen.items()} == {
            ended.name: Phase.EXITED,
            running.name: Phase.RUNNING,
        }
        assert seen[ended.name].exit_code == 9
        assert running.labels.items() <= seen[running.name].labels.items()
        assert engine_kit.engine.start(running).phase is Phase.RUNNING
        engine_kit.engine.stop(running.name, 0)
        engine_kit.wait_end(running.name)

    def test_a_restarted_server_is_told_of_an_end(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.endless()
        engine_kit.engine.start(plan)
        engine_kit.engine.close()
        engine_kit.engine = engine_kit.reopen()
        with watching(engine_kit) as told:
            engine_kit.engine.stop(plan.name, 0)
            wait_until(lambda: plan.name in told, "the hint")

    def test_another_installation_is_left_alone(self, engine_kit: EngineKit) -> None:
        plan = engine_kit.endless()
        engine_kit.engine.start(plan)
        stranger = engine_kit.reopen(f"{engine_kit.install}x")
        assert plan.name not in stranger.list()
        stranger.stop(plan.name, 0)
        stranger.remove(plan.name)
        assert engine_kit.engine.inspect(plan.name).phase is Phase.RUNNING

    def test_the_machine_has_a_size(self, engine_kit: EngineKit) -> None:
        node, *_ = engine_kit.engine.nodes()
        assert node.cpu >= 1
        assert node.memory > 1 << 20
        assert node.engine == engine_kit.engine.name
        assert node.isolation
