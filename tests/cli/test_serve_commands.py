"""Models and endpoints from the command line, against a live server with a real gateway."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.models import serving_server, times
from helpers.rig import wait_until

from localml.client.errors import ClientError
from localml.testing import Localml

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    with serving_server(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture
def serve(command: Cli, served: Localml, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("LOCALML_DATA", str(served.platform.data))
    return command


def test_before_anything_is_served(serve: Cli) -> None:
    assert "localml serve MODEL" in serve("endpoints").out
    assert "localml register NAME FILE" in serve("models").out


def test_a_file_is_served_asked_replaced_and_stopped(serve: Cli, served: Localml, tmp_path: Path) -> None:
    (tmp_path / "double.onnx").write_bytes(times(2.0))
    (tmp_path / "triple.onnx").write_bytes(times(3.0))
    made = serve("serve", str(tmp_path / "double.onnx"), "--gpus", "1", "-o", "max_batch=8")
    assert (made.code, made.err) == (0, "")
    assert made.out.startswith("double is ready\n")
    assert f"{served.platform.gateway_url}/endpoints/double/v2/models/double/infer" in made.out

    for name, content in _inputs().items():
        (tmp_path / name).write_bytes(content)
        asked = serve("predict", "double", f"@{tmp_path / name}", "--json")
        assert asked.json["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0], name
    assert serve("predict", "double", "[[1, 2]]").out == "y FP32[1,2]\n[[2.0, 4.0]]\n"

    rolled = serve("rollout", "double", str(tmp_path / "triple.onnx"), "--json")
    assert (rolled.code, rolled.json["state"], rolled.json["variants"][0]["model"]) == (0, "ready", "double:2")
    assert serve("predict", "double", "[[1, 2]]").out.endswith("[[3.0, 6.0]]\n")
    assert "double:2" in serve("endpoints").out
    shown = serve("endpoints", "double").out
    for words in ("v2", "v1", "v2 took over", "VariantServes", "double-v2-1"):
        assert words in shown
    listed = serve("models", "--json").json["models"]
    assert [one["version"] for one in listed[0]["versions"]] == [2, 1]
    assert [one.name for one in served.client.buckets()] == ["hdfs"]  # what was uploaded is not kept twice

    assert serve("stop", "double", "--wait").out == "double stopped\n"
    assert serve("start", "double").out.startswith("double is ready")
    assert serve("rm", "double").out == "double removed\n"
    assert serve("endpoints", "double").code == 1


def test_each_user_registers_and_serves_files(
    serve: Cli, served: Localml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").write_bytes(times(2.0))
    assert serve("register", "first", str(tmp_path / "net.onnx")).code == 0
    token = served.client.create_user("uploader", "password1")["token"]
    monkeypatch.delenv("LOCALML_DATA")
    monkeypatch.setenv("LOCALML_URL", served.url)
    monkeypatch.setenv("LOCALML_TOKEN", token)
    for source in (tmp_path / "net.onnx", tmp_path):
        made = serve("register", "second", str(source))
        assert (made.code, made.err) == (0, "")
    assert "second:2" in serve("models").out


def test_several_versions_at_once(serve: Cli, served: Localml, tmp_path: Path) -> None:
    for factor in (2, 3, 5):
        (tmp_path / "net.onnx").write_bytes(times(float(factor)))
        assert serve("register", "trio", str(tmp_path / "net.onnx")).code == 0
    assert serve("serve", "trio:1").code == 0
    done = serve("rollout", "trio", "--variant", "v1@50", "--variant", "red=2@30", "--variant", "blue=trio:3@20")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("trio is ready\n")
    assert "trio:1 50%, trio:2 30%, trio:3 20%" in serve("endpoints").out
    answers = {serve("predict", "trio", "[[1, 0]]").out.split("\n")[1] for _ in range(60)}
    assert answers == {"[[2.0, 0.0]]", "[[3.0, 0.0]]", "[[5.0, 0.0]]"}
    shown = serve("endpoints", "trio").out
    for words in (
        "red",
        "blue",
        "30 %",
        "admin asked for version 1 with 50 %, version 2 with 30 %, version 3 with 20 %",
    ):
        assert words in shown

    # one that never gets ready takes the other along, and what serves goes on
    broken = served.client.put_variants(
        "trio", [{"name": "red", "weight": 90}, {"name": "bad", "image": "none", "command": ["false"], "weight": 10}]
    )
    assert broken.state == "updating"
    left = served.client.wait_endpoint("trio", 60)
    assert {one["name"]: one["weight"] for one in left.variants if one["weight"]} == {"v1": 50, "red": 30, "blue": 20}
    assert "bad was rolled back" in left.message

    done = serve("rollout", "trio", "--variant", "blue@100", "--json")
    assert (done.code, [one["name"] for one in done.json["variants"] if one["weight"]]) == (0, ["blue"])
    assert serve("rm", "trio").code == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--variant", "v1@90", "--variant", "2@9"], "--variant: the weights must add up to 100, and 90 + 9 is 99"),
        (["--variant", "v1"], "--variant: 'v1' is not [NAME=]MODEL:VERSION@WEIGHT"),
        (["--variant", "v1@much"], "'v1@much' is not [NAME=]"),
        (["--variant", "=1@100"], "'=1@100' is not [NAME=]"),
        (["--variant", "a=b@100"], "model 'b' does not exist"),
        (["--variant", "a=9@100"], "model 'wrong' has no version '9'"),
        (["2", "--variant", "v1@100"], "--variant: says version and weight of each"),
        (["--variant", "a=1@150", "--variant", "b=1@-50"], "--variant: must be more than 0 and at most 100"),
    ],
)
def test_versions_that_are_written_wrong(
    serve: Cli, served: Localml, tmp_path: Path, given: list[str], words: str
) -> None:
    if "wrong" not in serve("endpoints").out:
        (tmp_path / "wrong.onnx").write_bytes(times(2.0))
        assert serve("serve", str(tmp_path / "wrong.onnx")).code == 0
    refused = serve("rollout", "wrong", *given)
    assert (refused.code, words in refused.err) == (1, True), refused.err


def _inputs() -> dict[str, bytes]:
    """The same array in every form that is taken."""
    rows = [[1.0, 2.0], [3.0, 4.0]]
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }".ljust(117) + b"\n"
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": rows}
    return {
        "in.json": json.dumps(rows).encode(),
        "full.json": json.dumps({"inputs": [tensor]}).encode(),
        "in.csv": b"a,b\n1,2\n3,4\n",
        "in.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + struct.pack("<4d", 1, 2, 3, 4),
    }


KERNEL = """
class Doubles:
    inputs = outputs = [("x", "FP32", [-1])]
    def load(self, path): pass
    def predict(self, inputs): return {"x": inputs["x"] * 2}
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_kernel_runs_in_an_image_of_ones_own(serve: Cli, served: Localml, tmp_path: Path) -> None:
    """On this engine an unknown image means the machine's own Python, which need not have any of our packages."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "kernel.py").write_text(KERNEL)
    assert serve("register", "own", str(tmp_path / "own")).code == 0
    with pytest.raises(ClientError, match="localml images build --onto mine"):
        served.client.serve("own", image="mine")
    made = serve("serve", "own", "--image", "mine")
    assert (made.code, made.err.startswith("making the server ready to run in mine; all")) == (0, True)
    assert serve("predict", "own", "[1, 2]").out == "x FP32[2]\n[2.0, 4.0]\n"
    assert [one["datatype"] for one in serve("models", "--json").json["models"][0]["versions"][0]["inputs"]] == ["FP32"]

    rolled = serve("rollout", "own", "--image", "another", "--recreate", "--json")
    assert (rolled.code, rolled.json["variants"][0]["spec"]["image"]) == (0, "another")
    assert serve("predict", "own", "[1, 2]").out == "x FP32[2]\n[2.0, 4.0]\n"
    assert serve("stop", "own").code == 0


def test_a_scale_that_finds_no_room_says_why_and_why_says_it_once(serve: Cli, served: Localml, tmp_path: Path) -> None:
    (tmp_path / "many.onnx").write_bytes(times(2.0))
    hogs = [served.client.run(["sleep", "600"], gpus=share, cpus=0.1).name for share in (1, 0.5)]
    assert serve("serve", str(tmp_path / "many.onnx"), "--gpus", "0.25").code == 0
    assert "asked for, this machine has 2" in serve("scale", "many", "9").err  # never
    given_up = serve("scale", "many", "5", "--timeout", "5s")
    assert given_up.code != 0
    assert "0.25 GPUs (0 GPUs free)" in given_up.err
    wait_until(lambda: str(served.client.endpoint("many").message).startswith("2 of 5"), 60)
    first, waiting, held, *behind = serve("why", "many").out.splitlines()
    assert first == "many is updating: 2 of 5 replicas are ready: waits for 0.25 GPUs (0 GPUs free)"
    assert waiting.endswith(": waits for 0.25 GPUs (0 GPUs free)")
    assert ": held by " in held
    words = r"many-v1-\d+ and 1 more: waits behind 'many-v1-\d+', which waits for 0.25 GPUs \(0 GPUs free\)"
    assert re.fullmatch(words, "\n".join(behind))
    assert serve("rm", "many", *hogs).code == 0


def test_a_rollout_needs_something_new(serve: Cli) -> None:
    done = serve("rollout", "own")
    assert (done.code, done.err) == (1, "error: VERSION: give a version, or --image, or --variant for several\n")


def test_a_broken_file_is_told_before_anything_starts(serve: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    refused = serve("serve", str(tmp_path / "bad.onnx"))
    assert (refused.code, "is not an ONNX model" in refused.err) == (1, True)
    missing = serve("serve", "nowhere.onnx")
    assert (missing.code, "nowhere.onnx does not exist" in missing.err) == (1, True)
    unknown = serve("serve", "nothing", "--json")
    assert (unknown.code, unknown.json["error"]["code"]) == (1, "not_found")


def test_a_file_whose_serving_is_refused_is_not_kept(serve: Cli, tmp_path: Path) -> None:
    (tmp_path / "kept.onnx").write_bytes(times(2.0))
    refused = serve("serve", str(tmp_path / "kept.onnx"), "-o", "max_batsch=8")
    assert (refused.code, "max_batsch" in refused.err) == (1, True)
    assert "kept" not in [one["name"] for one in serve("models", "--json").json["models"]]
    assert serve("serve", str(tmp_path / "kept.onnx"), "--json").json["variants"][0]["model"] == "kept:1"
    serve("rm", "kept")


def test_a_version_that_cannot_run_leaves_the_old_one_and_exits_with_1(serve: Cli, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(times(2.0))
    assert serve("serve", str(tmp_path / "net.onnx"), "--name", "safe").code == 0
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    (kernel / "kernel.py").write_text("raise RuntimeError('this kernel is broken')\n")
    failed = serve("rollout", "safe", str(kernel))
    assert failed.code == 1
    assert "v2 was rolled back" in failed.out
    assert serve("predict", "safe", "[[1, 2]]").out.endswith("[[2.0, 4.0]]\n")
    serve("rm", "safe")


def test_predict_says_what_does_not_fit(serve: Cli, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(times(2.0))
    assert serve("serve", str(tmp_path / "net.onnx"), "--name", "fits").code == 0
    (tmp_path / "wide.csv").write_text("1,2,3\n")
    wide = serve("predict", "fits", f"@{tmp_path / 'wide.csv'}")
    assert (wide.code, "has the shape [1, 3], the model takes [-1, 2]" in wide.err) == (1, True)
    bad = serve("predict", "fits", "[[1, 2, 3]]")
    assert (bad.code, "the endpoint answered 400" in bad.err) == (1, True)
    assert "is not JSON" in serve("predict", "fits", "hello").err
    serve("rm", "fits")
