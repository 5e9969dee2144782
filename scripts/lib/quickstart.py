"""The quickstart: train on scikit-learn's digits through the signed Cloud-ML API, serve the model, show the result."""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
LOCALML = Path(sys.executable).parent / "localml"
BUCKET = "fds://quickstart/digits"
MODULE = "trainer.task"
ENDPOINT = "digits"
LAST_LINES = 15
"""Of a build that failed."""


def say(text: str) -> None:
    """A heading: bold where that is a terminal's, and wanted."""
    bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(f"\n\033[1m{text}\033[0m" if bold else f"\n{text}", flush=True)


def localml(*words: str, quiet: bool = False) -> str:
    """Run a localml command and return what it printed; what it tells meanwhile is shown when it fails."""
    run = subprocess.run([LOCALML, *words], capture_output=True, text=True, check=False)
    if run.returncode and not quiet:
        sys.stdout.write(run.stdout + run.stderr)
        raise SystemExit(f"quickstart: 'localml {' '.join(words)}' failed")
    return run.stdout


def build(names: list[str], engine: str, log: Path) -> None:
    """Build the runtimes, a line for each. Their own output is a terminal's, or goes into the log."""
    with log.open("w") as file:
        for name in names:
            begin = time.monotonic()
            command = [LOCALML, "images", "build", name, "--engine", engine]
            into = None if sys.stderr.isatty() else file
            run = subprocess.run(command, stdout=subprocess.PIPE, stderr=into, text=True, check=False)
            if run.returncode:
                file.flush()
                print(*log.read_text(errors="replace").splitlines()[-LAST_LINES:], sep="\n")
                raise SystemExit(f"quickstart: {name} could not be built; all of its output is in {log}")
            print(f"{run.stdout.strip()}, {time.monotonic() - begin:.0f} s", flush=True)


class CloudML:
    """The four headers of Xiaomi's signed requests, and nothing else."""

    def __init__(self, url: str, access_key: str, secret_key: str) -> None:
        self.url, self.access_key, self.secret_key = url, access_key, secret_key

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        stamp, md5 = str(int(time.time())), hashlib.md5(data).hexdigest()
        signed = hmac.new(self.secret_key.encode(), f"{path}\n{stamp}\n{md5}\n".encode(), hashlib.sha1).digest()
        headers = {
            "X-Xiaomi-Timestamp": stamp,
            "X-Xiaomi-Content-MD5": md5,
            "X-Xiaomi-Secret-Key-Id": self.access_key,
            "Authorization": f"Galaxy V3 {b64encode(signed).decode()}",
        }
        request = urllib.request.Request(self.url + path, data=data or None, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"quickstart: {method} {path} answered {error.code}: {error.read().decode()}") from None


def start(engine: str) -> dict[str, Any]:
    """Make sure that the platform runs, and say where."""
    status = json.loads(localml("status", "--json", quiet=True) or "{}")
    if not status.get("pid"):
        localml("up", "--detach", "--engine", engine)
        status = json.loads(localml("status", "--json"))
    return status


def train(api: CloudML, name: str) -> None:
    """Upload the trainer, submit the job, follow its log."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "trainer.tar.gz"
        examples = REPO / "scripts/examples"
        subprocess.run([examples / "pack", examples / "digits", package], check=True)
        localml("cp", str(package), f"{BUCKET}/trainer.tar.gz")
    body = {
        "job_name": name,
        "module_name": MODULE,
        "trainer_uri": f"{BUCKET}/trainer.tar.gz",
        "job_args": f"--epochs 20 --output-uri {BUCKET}/{name}",
        "framework": "scikitlearn",
        "cpu_limit": 1,
        "memory_limit": "1G",
    }
    job = api.call("POST", "/cloud_ml/v1/train", body)
    print(f"submitted '{job['job_name']}' (state: {job['state']})", flush=True)
    subprocess.run([LOCALML, "logs", "--follow", name], check=True)


def fetched(uri: str) -> Any:
    """A JSON file of a bucket."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "file.json"
        localml("cp", uri, str(target))
        return json.loads(target.read_text())


def result(api: CloudML, name: str) -> dict[str, Any]:
    """The metrics that the job wrote; ends the script when it failed."""
    job = api.call("GET", f"/cloud_ml/v1/train/{name}")
    if job["state"] != "completed":
        subprocess.run([LOCALML, "show", name], check=False)
        raise SystemExit(f"quickstart: the job ended as '{job['state']}'")
    return dict(fetched(f"{BUCKET}/{name}/metrics.json"))


def deploy(name: str) -> str:
    """Serve the trained model, or roll the endpoint of an earlier run to it; returns the URL of its requests."""
    model = f"{BUCKET}/{name}/model.onnx"
    served = {one["name"]: one["state"] for one in json.loads(localml("endpoints", "--json"))["endpoints"]}
    if ENDPOINT in served:
        if served[ENDPOINT] in ("stopped", "stopping"):
            localml("start", ENDPOINT)
        localml("rollout", ENDPOINT, model)
    else:
        localml("serve", model, "--name", ENDPOINT)
    found = json.loads(localml("endpoints", "--json"))["endpoints"]
    return str(next(one["infer_url"] for one in found if one["name"] == ENDPOINT))


def ask(url: str, token: str, rows: list[list[float]]) -> list[int]:
    """Labels of some images, over the Open Inference Protocol."""
    tensor = {"name": "x", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": rows}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
    request = urllib.request.Request(url, data=body, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [int(label) for label in json.load(answer)["outputs"][0]["data"]]


def predict(url: str, token: str, name: str) -> None:
    """Send the held-out images one by one through the gateway."""
    held_out = fetched(f"{BUCKET}/{name}/test.json")
    right, times = 0, []
    for image, label in zip(held_out["x"], held_out["y"], strict=True):
        begin = time.perf_counter()
        right += ask(url, token, [image]) == [label]
        times.append(time.perf_counter() - begin)
    times.sort()
    p50, p99 = times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000
    print(f"{right} of {len(times)} held-out images right ({right / len(times):.4f}), one request each")
    print(f"latency of a request: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def tensorboard(name: str) -> str:
    """Start a TensorBoard on the run's events; returns its URL."""
    words = localml("tensorboard", "start", f"{BUCKET}/{name}/events", "--name", f"curves-{name}", "--json")
    return str(json.loads(words)["url"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["docker", "process"], required=True)
    parser.add_argument("--log", type=Path, required=True, help="gets what the builds write")
    given = parser.parse_args()

    say("1/5  Building the runtimes")
    build(["train-sklearn", "onnx-server", "tensorboard"], given.engine, given.log)

    say("2/5  Starting the platform")
    status = start(given.engine)
    print(f"localml runs at {status['url']} (engine: {status['engine']}, data: {status['data']})")

    say("3/5  Training on 1,797 images of handwritten digits, through the signed Cloud-ML API")
    keys = json.loads(localml("env", "cloudml", "--format", "json"))
    name = f"digits-{time.strftime('%H%M%S')}"
    api = CloudML(status["url"], keys["access_key"], keys["secret_key"])
    train(api, name)
    metrics = result(api, name)
    print(f"accuracy on held-out images: {metrics['accuracy']:.4f}")
    print(f"model, metrics and events: {status['data']}/buckets/quickstart/digits/{name}")

    say("4/5  Serving the model")
    url = deploy(name)
    print(f"endpoint '{ENDPOINT}': {url}")
    predict(url, keys["token"], name)

    say("5/5  Looking at its curves")
    print(f"TensorBoard: {tensorboard(name)}")

    for line in (
        "",
        "What next:",
        f"  localml show {name}            what happened, and when",
        f"  localml logs {name}            its output",
        f"  localml cp {BUCKET}/{name} .   its files",
        "  localml run --follow -- python -c 'print(1)'",
        "  localml notebook start               a JupyterLab",
        "  localml ps -a; localml endpoints     everything that ran, and what is served",
        "  localml down                         stop the platform; what runs goes on",
        "  localml stop --all; localml down     end everything",
    ):
        print(line)
    print(f"\n('localml' is {LOCALML.relative_to(REPO)}; put it on your PATH with: . .venv/bin/activate)")


if __name__ == "__main__":
    main()
