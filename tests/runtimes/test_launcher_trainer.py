"""A trainer package from its archive to its exit status, without a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from helpers.launcher_bench import SETUP, Bench

from localml.core.catalog import runtimes_dir


def test_the_module_runs_with_its_arguments_and_its_output_is_the_jobs(bench: Bench) -> None:
    uri = bench.trainer("import sys; print(sys.argv[1:])")
    code, out, err = bench.run({"trainer_uri": uri, "job_args": "--name 'two words' --dollar $HOME"})
    assert (code, out) == (0, "['--name', 'two words', '--dollar', '$HOME']\n")
    assert err.splitlines()
    assert all(line.startswith("[localml] ") for line in err.splitlines())


def test_a_package_with_pyproject_at_the_top_of_its_archive_works_too(bench: Bench) -> None:
    pyproject = "[build-system]\nrequires=['setuptools']\nbuild-backend='setuptools.build_meta'\n"
    pyproject += "[project]\nname='demo'\nversion='1'\n[tool.setuptools]\npackages=['demo']\n"
    uri = bench.pack({"./pyproject.toml": pyproject, "./demo/__init__.py": "", "./demo/main.py": "print('here')"})
    assert bench.run({"trainer_uri": uri})[:2] == (0, "here\n")


def test_the_environment_and_the_working_directory_stay_clean(bench: Bench) -> None:
    uri = bench.trainer("import demo; print(demo.__file__)")
    code, out, _ = bench.run({"trainer_uri": uri})
    assert code == 0
    assert out.startswith(str(bench.work))
    assert list(bench.work.iterdir()) == []


@pytest.mark.parametrize("status", [3])
def test_the_exit_code_of_the_program_is_the_jobs(bench: Bench, status: int) -> None:
    code, _, err = bench.run({"trainer_uri": bench.trainer(f"raise SystemExit({status})")})
    assert code == status
    assert f"demo.main ended with status {status}" in err


def test_a_program_ended_by_a_signal_gives_128_and_the_signals_number(bench: Bench) -> None:
    uri = bench.trainer("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    code, _, err = bench.run({"trainer_uri": uri})
    assert code == 128 + signal.SIGKILL
    assert "signal 9" in err


def test_a_stop_reaches_the_program_which_may_end_in_its_own_way(bench: Bench) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    launch = {"trainer_uri": bench.trainer(program), "finish_command": "echo finished $LOCALML_EXIT_CODE"}
    with bench.start(launch) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (42, "finished 42\n")


def test_a_stop_that_interrupts_no_call_reaches_the_program_all_the_same() -> None:
    """As one that comes just before the launcher waits: here another thread takes it, so nothing is interrupted."""
    launcher = (
        "import os, signal, sys, threading\n"
        "from localml_launcher.process import Runner\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "runner = Runner()\n"
        "with runner.forwarding():\n"
        "    program = [sys.executable, '-c', 'import signal, time;'\n"
        "               'signal.pthread_sigmask(signal.SIG_SETMASK, []); print(1, flush=True); time.sleep(600)']\n"
        "    sys.exit(runner.run(program, os.environ))\n"
    )
    command = [sys.executable, "-c", launcher]
    env = {**os.environ, "PYTHONPATH": str(runtimes_dir() / "launcher")}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM


def test_a_stop_during_preparation_keeps_the_program_from_starting(bench: Bench) -> None:
    prepare = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    with bench.start({"trainer_uri": bench.trainer("print('ran')"), "prepare_command": prepare}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + signal.SIGTERM, "")


def test_prepare_and_finish_commands_run_around_the_program(bench: Bench) -> None:
    launch = {
        "trainer_uri": bench.trainer("print(open('data').read().strip())"),
        "prepare_command": "echo prepared | tee data",
        "finish_command": "cat data; rm data",
    }
    assert bench.run(launch)[:2] == (0, "prepared\nprepared\nprepared\n")


def test_a_failing_prepare_command_fails_the_job_with_its_status(bench: Bench) -> None:
    launch = {"trainer_uri": bench.trainer("print('ran')"), "prepare_command": "exit 9", "finish_command": "echo f"}
    code, out, err = bench.run(launch)
    assert (code, out) == (9, "")
    assert "prepare_command failed with status 9" in err


@pytest.mark.parametrize(("program", "finish", "job"), [(0, 5, 5), (4, 5, 4)])
def test_the_finish_command_always_runs_and_the_programs_failure_wins(
    bench: Bench, program: int, finish: int, job: int
) -> None:
    uri = bench.trainer(f"raise SystemExit({program})")
    code, out, _ = bench.run({"trainer_uri": uri, "finish_command": f"echo $LOCALML_EXIT_CODE; exit {finish}"})
    assert (code, out) == (job, f"{program}\n")


def test_a_module_that_is_not_in_the_package_is_named(bench: Bench) -> None:
    code, _, err = bench.run({"trainer_uri": bench.trainer(""), "module_name": "demo.absent"})
    assert code == 1
    assert "demo.absent" in err


def test_a_missing_package_is_named(bench: Bench) -> None:
    code, _, err = bench.run({"trainer_uri": "fds://code/absent.tar.gz"})
    assert code == 66
    assert "'fds://code/absent.tar.gz' does not exist" in err


def test_an_archive_without_a_project_says_what_it_holds(bench: Bench) -> None:
    code, _, err = bench.run({"trainer_uri": bench.pack({"notes.txt": "x", "demo/main.py": ""})})
    assert code == 65
    assert "no setup.py or pyproject.toml" in err
    assert "demo, notes.txt" in err


def test_a_package_whose_setup_fails_shows_why(bench: Bench) -> None:
    code, _, err = bench.run({"trainer_uri": bench.pack({"setup.py": "raise RuntimeError('odd package')"})})
    assert code == 65
    assert "odd package" in err
    assert "pip could not install the package" in err


def test_a_build_tool_that_the_image_lacks_is_named(bench: Bench) -> None:
    pyproject = "[build-system]\nrequires=['exotic-builder>=3']\nbuild-backend='exotic_builder'\n"
    code, _, err = bench.run({"trainer_uri": bench.pack({"pyproject.toml": pyproject})})
    assert code == 65
    assert "it is built with exotic-builder>=3, which this image does not have" in err


def test_dependencies_that_the_image_lacks_are_named_and_the_program_is_tried(bench: Bench) -> None:
    needs = ("exotic-package>=2", "pip>=999", "pip", "never; python_version < '3'")
    code, out, err = bench.run({"trainer_uri": bench.trainer("print('ran')", needs)})
    assert (code, out) == (0, "ran\n")
    warnings = [line for line in err.splitlines() if "warning" in line]
    assert len(warnings) == 2
    assert "demo needs 'exotic-package>=2', but this image does not have it" in warnings[0]
    assert "demo needs 'pip>=999', but this image has" in warnings[1]


def test_the_output_folder_is_there_when_the_program_starts(bench: Bench) -> None:
    uri = bench.trainer("import os; print(os.environ['LOCALML_OUTPUT_URI'])")
    code, out, _ = bench.run({"trainer_uri": uri, "output_uri": "fds://models/new/one"})
    assert (code, out) == (0, "fds://models/new/one\n")
    assert (bench.buckets / "models/new/one").is_dir()


CLUSTER = {"roles": {"ps": ["a:1"], "worker": ["b:1", "c:2"], "master": ["d:1"]}, "role": "worker", "index": 1}


def test_a_replica_of_a_distributed_job_gets_tf_config(bench: Bench) -> None:
    uri = bench.trainer("import os; print(os.environ['TF_CONFIG'])")
    code, out, _ = bench.run({"trainer_uri": uri}, {"LOCALML_CLUSTER": json.dumps(CLUSTER)})
    assert code == 0
    assert json.loads(out) == {
        "cluster": {"ps": ["a:1"], "worker": ["b:1", "c:2"], "master": ["d:1"]},
        "task": {"type": "worker", "index": 1},
    }


def test_a_single_replica_gets_no_tf_config(bench: Bench) -> None:
    cluster = {"roles": {"worker": [], "master": ["d:1"]}, "role": "master", "index": 0}
    uri = bench.trainer("import os; print('TF_CONFIG' in os.environ)")
    assert bench.run({"trainer_uri": uri}, {"LOCALML_CLUSTER": json.dumps(cluster)})[:2] == (0, "False\n")


@pytest.mark.parametrize(
    "cluster", ["{", "[]", "{}", json.dumps({**CLUSTER, "index": 2}), json.dumps({**CLUSTER, "role": "chief"})]
)
def test_a_wrong_cluster_description_ends_the_job(bench: Bench, cluster: str) -> None:
    code, out, err = bench.run({"trainer_uri": "fds://code/any"}, {"LOCALML_CLUSTER": cluster})
    assert (code, out) == (64, "")
    assert "LOCALML_CLUSTER" in err


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        (None, "LOCALML_LAUNCH is not set"),
        ("{", "no JSON object"),
        ("[1]", "no JSON object"),
        ({"trainer_uri": None}, "trainer_uri: missing"),
        ({"trainer_uri": "fds://a/b", "module_name": ""}, "module_name: missing"),
        ({"trainer_uri": "fds://a/b", "job_args": 3}, "'job_args' must be a string"),
        ({"trainer_uri": "fds://a/b", "job_args": "'open"}, "job_args: No closing quotation"),
        ({"trainer_uri": "fds://a/b", "extra": "x"}, "unknown member 'extra'"),
        ({"trainer_uri": "fds://a/../../b"}, "trainer_uri: 'fds://a/../../b': '..' is not allowed"),
        ({"trainer_uri": "gs://a/b"}, "unknown scheme 'gs://'"),
    ],
)
def test_a_wrong_job_description_ends_the_job_with_the_reason(bench: Bench, launch: object, reason: str) -> None:
    code, out, err = bench.run(launch)
    assert (code, out) == (64, "")
    assert reason in err
    assert "Traceback" not in err


def test_an_old_style_package_of_single_modules_works(bench: Bench) -> None:
    setup = SETUP.format(needs=[]).replace("packages=['demo']", "py_modules=['solo']")
    uri = bench.pack({"demo-1/setup.py": setup, "demo-1/solo.py": "print('solo')"})
    assert bench.run({"trainer_uri": uri, "module_name": "solo"})[:2] == (0, "solo\n")
