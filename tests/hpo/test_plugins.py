"""Optimizers of other people: IBM's contract, and whatever else they do."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from helpers.algorithms import SPACE, opened, plugin_setup, run
from helpers.gateway import wait_for

from localml.core.errors import LocalmlError
from localml.core.studies.space import Parameter, Type
from localml.engines.base import Account
from localml.engines.runtimes.environments import READY
from localml.hpo.base import Asked, Proposal, Told
from localml.hpo.environments import Environments, _named
from localml.hpo.processes import Processes

HEAD = """
import numpy as np
from plugins.core.logger import logger
from plugins.core.base_plugin_opt import BasePluginOptimizer
"""
RANDOM = f"""{HEAD}
class PluginOptimizer(BasePluginOptimizer):
    def __init__(self, name, hyper_parameters, **kwargs):
        super(PluginOptimizer, self).__init__(name, hyper_parameters, **kwargs)
        logger.info("all parameters: %s", hyper_parameters)
        if kwargs.get("random_seed"):
            np.random.seed(int(kwargs.get("random_seed")))

    def search(self, number_samples, last_exp_results):
        return [{{hp.get("name"): self._one(hp) for hp in self._hyper_parameters}} for _ in range(number_samples)]

    def _one(self, hp):
        if hp.get("type") == "Range":
            if hp.get("dataType") == "INT":
                return np.random.randint(hp.get("minIntVal"), hp.get("maxIntVal"))
            return hp.get("minDbVal") + np.random.rand() * (hp.get("maxDbVal") - hp.get("minDbVal"))
        vals = hp.get({{"INT": "discreteIntVal", "DOUBLE": "discreteDbVal", "STR": "discreateStrVal"}}[hp["dataType"]])
        return vals[np.random.randint(len(vals))]

    def get_state(self):
        return {{"rng_state": np.random.get_state()}}

    def set_state(self, state_dict):
        np.random.set_state(state_dict.get("rng_state"))
"""
MIXED = (
    Parameter(name="x", low=-5, high=10),
    Parameter(name="n", type=Type.INT, low=1, high=64),
    Parameter(name="drop", low=0.1, high=0.9, step=0.1),
    Parameter(name="d", choices=(0.5, 0.25)),
    Parameter(name="i", choices=(16, 32)),
    Parameter(name="s", choices=("sgd", "adam")),
    Parameter(name="fixed", value="same"),
)
SEEDED = {"random_seed": "7"}


def searching(body: str) -> str:
    """An optimizer whose ``search`` does this."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    head = (
        f"{HEAD}\nclass PluginOptimizer(BasePluginOptimizer):\n    def search(self, number_samples, last_exp_results):"
    )
    return f"{head}\n{lines}\n"


def failing(suggesters: Processes, folder: Path, source: str) -> LocalmlError:
    """What comes of asking it for a trial."""
    with pytest.raises(LocalmlError) as caught, opened(suggesters, plugin_setup(folder, source)) as suggester:
        suggester.ask(1)
    return caught.value


def test_a_random_search_in_the_vendor_s_manner_runs(suggesters: Processes, tmp_path: Path) -> None:
    with opened(suggesters, plugin_setup(tmp_path, RANDOM, SEEDED, MIXED)) as suggester:
        asked = [one.values for one in run(suggester, 20) if isinstance(one, Asked)]
    assert len(asked) == 20
    assert all(isinstance(one["n"], int) and one["fixed"] == "same" for one in asked)
    assert {round(one["drop"] * 10 % 1, 6) for one in asked} <= {0.0, 1.0}  # on its steps
    assert {one["s"] for one in asked} == {"sgd", "adam"}


def test_its_state_goes_on_in_another_process(suggesters: Processes, tmp_path: Path) -> None:
    setup = plugin_setup(tmp_path, RANDOM, SEEDED, MIXED)
    with opened(suggesters, setup) as suggester:
        begun = run(suggester, 3)
        state = suggester.state()
        assert state is not None
        rest = run(suggester, 3, first=4)
    with opened(suggesters, setup, [], state) as suggester:
        assert run(suggester, 3, first=4) == rest
    with opened(suggesters, setup, begun, None) as suggester:  # or it is asked and told the same again
        assert run(suggester, 3, first=4) == rest
    with opened(suggesters, setup, begun[:3] + rest[:1], state) as suggester:  # what the state has is no news
        suggester.tell(4, 1.0)
        assert suggester.ask(5) == Proposal(rest[2].values)  # type: ignore[union-attr]


def test_it_gets_the_results_since_it_was_asked_last(suggesters: Processes, tmp_path: Path) -> None:
    source = searching("""
self.rounds = getattr(self, "rounds", 0) + 1
logger.error("got %s", __import__("json").dumps(last_exp_results))
if self.rounds > 3:
    raise RuntimeError(__import__("json").dumps(last_exp_results))
return [{"x": float(self.rounds), "units": 3}]
""")
    with opened(suggesters, plugin_setup(tmp_path, source)) as suggester:
        for number in (1, 2, 3):
            suggester.ask(number)
        suggester.tell(3, 0.5)
        suggester.tell(1, None)
        with pytest.raises(LocalmlError) as caught:
            suggester.ask(4)
    results = json.loads(caught.value.message.partition("RuntimeError: ")[2])
    values = {"x": 3.0, "units": 3}
    assert results[0]["id"] == 3
    assert results[0]["hyperParams"] == results[0]["hyperparams"] == values
    assert results[0]["metricVal"] == results[0]["score"] == 0.5
    assert [one["state"] for one in results] == ["FINISHED", "ERROR"]
    assert results[1]["score"] is None
    assert 'got [{"id": 3' in caught.value.details["printed"] or "got []" in caught.value.details["printed"]


def test_sets_beyond_the_one_asked_for_are_tried_next_and_none_ends_the_search(
    suggesters: Processes, tmp_path: Path
) -> None:
    source = searching("""
self.rounds = getattr(self, "rounds", 0) + 1
return [{"x": 1.0, "units": 1}, {"x": 2.0, "units": 2}] if self.rounds == 1 else []
""")
    with opened(suggesters, plugin_setup(tmp_path, source)) as suggester:
        assert [(suggester.ask(number).values or {})["units"] for number in (1, 2)] == [1, 2]
        assert suggester.ask(3) == Proposal(None, over=False)  # it may have more to say once these are over
        suggester.tell(1, 1.0)
        suggester.tell(2, 1.0)
        assert suggester.ask(3) == Proposal(None, over=True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return [{'x': 11.0, 'units': 1}]", "x: 11.0 is no value of this parameter"),
        ("return [{'x': float('nan'), 'units': 1}]", "x: nan is no value"),
        ("return [{'x': 'much', 'units': 1}]", "x: 'much' is no value"),
        ("return [{'x': 1.0, 'units': 10 ** 400}]", "units"),
        ("return [{'x': 1.0, 'units': 1.5}]", "units: 1.5 is no value"),
        ("return [{'x': 1.0}]", "units: has no value"),
        ("return [{'x': 1.0, 'units': 1, 'z': 2}]", "z: is no parameter"),
        ("return 'nonsense'", "search must return a list of dicts"),
        ("return [{'x': {1, 2}, 'units': 1}]", "TypeError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(3)", "ended with exit status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("return undefined", "NameError: name 'undefined' is not defined"),
    ],
)
def test_nonsense_fails_in_its_own_words(suggesters: Processes, tmp_path: Path, body: str, words: str) -> None:
    error = failing(suggesters, tmp_path, searching(body))
    assert words in error.message
    assert "'mine'" in error.message


def test_a_traceback_is_the_optimizer_s_own(suggesters: Processes, tmp_path: Path) -> None:
    trace = failing(suggesters, tmp_path, searching("return 1 / 0")).details["traceback"]
    assert 'File "optimizer.py"' in trace
    assert "return 1 / 0" in trace
    assert "worker.py" not in trace


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_like_it\nclass PluginOptimizer: pass", "No module named 'nothing_like_it'"),
        ("class PluginOptimizer(: pass", "SyntaxError"),
        ("class Other: pass", "PluginOptimizer"),
        ("class PluginOptimizer:\n    def __init__(self): pass", "TypeError"),
        (f"{HEAD}\nclass PluginOptimizer(BasePluginOptimizer): pass", "has no method search"),
    ],
)
def test_one_that_does_not_begin_says_why(suggesters: Processes, tmp_path: Path, source: str, words: str) -> None:
    assert words in failing(suggesters, tmp_path, source).message


@pytest.mark.parametrize("body", ["import time; time.sleep(1e6)", "while True: pass"])
def test_one_that_hangs_is_ended_and_says_where(strict: Processes, tmp_path: Path, body: str) -> None:
    error = failing(strict, tmp_path, searching(body))
    assert "did not answer within 1 seconds" in error.message
    assert "search" in error.details["traceback"]


def test_one_that_eats_memory_is_stopped(strict: Processes, tmp_path: Path) -> None:
    error = failing(strict, tmp_path, searching("eaten = []\nwhile True: eaten.append(bytes(8 << 20))"))
    assert "MemoryError" in error.message
    assert "256" in error.message


def test_endless_output_does_not_reach_the_server(suggesters: Processes, tmp_path: Path) -> None:
    source = searching("for n in range(20000): print('x' * 100)\nprint('the last')\nraise ValueError('done')")
    error = failing(suggesters, tmp_path, source)
    assert "ValueError: done" in error.message
    assert error.details["printed"].endswith("the last")
    assert len(error.details["printed"]) <= 8 << 10


@pytest.mark.parametrize("own_session", [False, True])
def test_nothing_is_left_of_one_that_is_closed(suggesters: Processes, tmp_path: Path, own_session: bool) -> None:
    source = searching(f"""
import os, subprocess
child = subprocess.Popen(["sleep", "1000"], start_new_session={own_session})
logger.error("x")
return [{{"x": 1.0, "units": child.pid % 60 + 1}}]
""")
    before = set(psutil.Process().children())  # other tests' may still end
    with opened(suggesters, plugin_setup(tmp_path, source)) as suggester:
        suggester.ask(1)
        mine = [one for one in psutil.Process().children(recursive=True) if "sleep" in one.name()]
        folder = suggester._run.top  # type: ignore[attr-defined]
        assert folder.is_dir()
        assert mine
    psutil.wait_procs(mine, timeout=10)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in mine)
    assert not folder.exists()
    assert set(psutil.Process().children()) <= before


def test_one_that_ends_and_leaves_others_is_told_at_once_and_they_end(suggesters: Processes, tmp_path: Path) -> None:
    left = tmp_path / "left"
    source = searching(f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({str(left)!r}, "w").write(str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
while not os.path.exists({str(left)!r}) or not open({str(left)!r}).read():
    time.sleep(0.01)
os._exit(3)
""")
    error = failing(suggesters, tmp_path / "mine", source)
    assert "ended with exit status 3" in error.message
    assert not psutil.pid_exists(int(left.read_text()))


def test_another_thread_may_end_one_that_is_being_asked(suggesters: Processes, tmp_path: Path) -> None:
    source = searching("open('begun', 'w').close()\nimport time; time.sleep(1e6)")
    suggester = suggesters.open(plugin_setup(tmp_path, source))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(suggester.ask, 1)
        begun = suggester._run.folder / "begun"  # type: ignore[attr-defined]
        wait_for(begun.exists)
        suggester.close()
        with pytest.raises(LocalmlError):
            asking.result()


def test_it_writes_into_a_copy_of_its_folder(suggesters: Processes, tmp_path: Path) -> None:
    source = searching("open('note', 'w').write('x')\nopen('optimizer.py', 'w').close()\nreturn []")
    with opened(suggesters, plugin_setup(tmp_path / "kept", source)) as suggester:
        assert suggester.ask(1).over
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["optimizer.py"]
    assert "PluginOptimizer" in (tmp_path / "kept" / "optimizer.py").read_text()


def test_all_end_with_a_server_that_is_killed(tmp_path: Path) -> None:
    left = tmp_path / "left"
    source = searching(f"""
import subprocess, time
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
open({str(left)!r}, "w").write(f"{{child.pid}}\\n")
time.sleep(1000)
""")
    code = f"""
import sys, threading
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
from helpers.algorithms import plugin_setup, setup_of
from localml.hpo.processes import Processes
folder = Path({str(tmp_path)!r})
suggesters = Processes(folder, folder / "data")
quiet = suggesters.open(setup_of("random"))
asleep = suggesters.open(plugin_setup(folder / "mine", {source!r}))
threading.Thread(target=lambda: asleep.ask(1), daemon=True).start()
print(quiet._link._child.pid, asleep._link._child.pid, flush=True)
sys.stdin.read()
"""
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    processes = [psutil.Process(int(pid)) for pid in server.stdout.readline().split()]
    assert len(processes) == 2
    wait_for(lambda: left.is_file() and left.read_text().endswith("\n"))
    processes.append(psutil.Process(int(left.read_text())))
    server.send_signal(signal.SIGKILL)
    server.communicate()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def wheel(folder: Path) -> Path:
    """A package of one module."""
    path = folder / "neededhere-1.0-py3-none-any.whl"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("neededhere.py", "VALUE = 7\n")
        file.writestr("neededhere.pth", "import os; os.environ['STARTED_AS'] = str(os.getuid())\n")
        file.writestr("neededhere-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: neededhere\nVersion: 1.0\n")
        file.writestr(
            "neededhere-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("neededhere-1.0.dist-info/RECORD", "")
    path.write_bytes(content.getvalue())
    return path


def test_requirements_get_an_environment_that_is_made_once(tmp_path: Path) -> None:
    source = searching("import neededhere, sys\nreturn [{'x': 1.0, 'units': neededhere.VALUE}]")
    setup = plugin_setup(tmp_path / "mine", source)
    (tmp_path / "mine" / "requirements.txt").write_text(f"{wheel(tmp_path)}\n")
    suggesters, told = Processes(tmp_path / "cache", tmp_path / "data"), []
    for _ in range(2):
        suggester = suggesters.open(setup, progress=told.append)
        assert (suggester.ask(1).values or {})["units"] == 7
        suggester.close()
    assert sum(line.startswith("making the environment") for line in told) == 1
    suggesters.close()


def test_environments_that_are_long_not_used_go_when_another_is_made(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    made = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "requirements.txt").write_text(f"# {name}\n")
        made.append(Path(environments.installed(name, tmp_path / name, lambda _: None)).parents[1])
        os.utime(made[-1] / READY, (1.0, 1.0) if name == "one" else None)
    assert [folder.exists() for folder in made] == [False, True, True]
    environments.installed("two", tmp_path / "two", lambda _: None)


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    setup = plugin_setup(tmp_path / "mine", searching("return []"))
    (tmp_path / "mine" / "requirements.txt").write_text("/nowhere/nothing-1.0-py3-none-any.whl\n")
    suggesters = Processes(tmp_path / "cache", tmp_path / "data")
    with pytest.raises(LocalmlError, match="the environment of the algorithm 'mine' could not be made"):
        suggesters.open(setup)
    suggesters.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give accounts")
def test_other_users_run_under_an_account_of_theirs(tmp_path: Path) -> None:
    """Who see of private folders what they need, and nothing of the data directory."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret.key").write_text("x")
    source = searching(f"""
import os
who = os.getuid(), os.getgid(), os.listdir({str(tmp_path / "data")!r})
open("note", "w").write("mine")
return [{{'x': 1.0, 'units': 1 if who == (165432, 165432, ["algorithm-runs"]) else 2}}]
""")
    suggesters = Processes(tmp_path / "cache", tmp_path / "data", account=lambda _: Account(165432, 165432))
    with opened(suggesters, plugin_setup(tmp_path / "mine", source)) as suggester:
        assert (suggester.ask(1).values or {})["units"] == 1
    suggesters.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give accounts")
def test_what_packages_of_other_users_run_when_python_starts_is_under_their_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel(tmp_path).parent))
    source = searching("import os\nreturn [{'x': 1.0, 'units': 1 if os.environ['STARTED_AS'] == '165432' else 2}]")
    setup = plugin_setup(tmp_path / "mine", source)
    (tmp_path / "mine" / "requirements.txt").write_text("neededhere\n")
    suggesters = Processes(tmp_path / "cache", tmp_path / "data", account=lambda _: Account(165432, 165432))
    with opened(suggesters, setup) as suggester:
        assert (suggester.ask(1).values or {})["units"] == 1
    suggesters.close()


def test_what_it_is_told_of_the_space(suggesters: Processes, tmp_path: Path) -> None:
    source = searching("raise RuntimeError(__import__('json').dumps(self.hyper_parameters))")
    setup = plugin_setup(tmp_path, source, {}, (*MIXED, SPACE[2], SPACE[3]))
    with opened(suggesters, setup) as suggester, pytest.raises(LocalmlError) as caught:
        suggester.ask(1)
    found = json.loads(caught.value.message.partition("RuntimeError: ")[2])
    assert found == [
        {"name": "x", "type": "Range", "dataType": "DOUBLE", "minDbVal": -5.0, "maxDbVal": 10.0},
        {"name": "n", "type": "Range", "dataType": "INT", "minIntVal": 1, "maxIntVal": 64},
        {"name": "drop", "type": "Range", "dataType": "DOUBLE", "minDbVal": 0.1, "maxDbVal": 0.9, "step": "0.1"},
        {"name": "d", "type": "Discrete", "dataType": "DOUBLE", "discreteDbVal": [0.5, 0.25]},
        {"name": "i", "type": "Discrete", "dataType": "INT", "discreteIntVal": [16, 32]},
        {"name": "s", "type": "Discrete", "dataType": "STR", "discreateStrVal": ["sgd", "adam"]},
        {"name": "rate", "type": "Range", "dataType": "DOUBLE", "minDbVal": -4.0, "maxDbVal": -1.0, "power": "10"},
        {
            "name": "width",
            "type": "Range",
            "dataType": "INT",
            "minIntVal": 2,
            "maxIntVal": 9,
            "step": "1",
            "power": "2",
        },
    ]


def test_results_of_trials_that_it_does_not_know_are_no_news(suggesters: Processes, tmp_path: Path) -> None:
    with opened(suggesters, plugin_setup(tmp_path, RANDOM), [Told(9, 1.0)]) as suggester:
        assert suggester.ask(1).values is not None


@pytest.mark.parametrize(
    "line",
    [
        "x @ https://example.com/x.tar.gz",
        "https://example.com/x-1.0.zip",
        "git+https://example.com/x",
        "./x",
        "/x",
        "x.tar.gz",
        "-e .",
        "--no-binary :all:",
        "--index-url https://example.com",
        "-r other.txt",
        "x==1 --global-option=a",
        "x\\",
        "x==${HOME}",
        "x; python_version > '${HOME}'",
    ],
)
def test_users_name_packages_alone(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"# what it needs\n{line}\n")
    with pytest.raises(LocalmlError, match=r"requirements.txt may have packages and their versions") as caught:
        Environments(tmp_path / "cache").installed("mine", tmp_path, lambda _: None, wheels_only=True)
    assert line[:20] in caught.value.message.replace("\\\\", "\\")
    assert not (tmp_path / "cache").exists()


def test_requirements_are_no_file_of_somebody_else_s(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "requirements.txt").symlink_to("../secret")
    with pytest.raises(LocalmlError, match=r"its requirements.txt leads out of its folder"):
        Environments(tmp_path / "cache").installed("mine", tmp_path / "mine", lambda _: None)


def test_what_pip_takes_for_packages_of_users(tmp_path: Path) -> None:
    given = [
        "numpy",
        "scikit-learn >= 1.4, < 2  # newer",
        "a[b,c]~=1.0; python_version >= '3.9'",
        "",
        "# -*- coding: utf-7 -*-",
    ]
    kept = _named("mine", "\n".join(given))
    assert kept == "numpy\nscikit-learn >= 1.4, < 2\na[b,c]~=1.0; python_version >= '3.9'"
