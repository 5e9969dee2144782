"""The quickstart's main job: train on scikit-learn's digits through the signed Cloud-ML API, and show the result."""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
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


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m", flush=True)


def localml(*words: str, quiet: bool = False) -> str:
    """Run a localml command and return what it printed."""
    run = subprocess.run([LOCALML, *words], stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode and not quiet:
        sys.stdout.write(run.stdout)
        raise SystemExit(f"quickstart: 'localml {' '.join(words)}' failed")
    return run.stdout


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


def result(api: CloudML, name: str) -> dict[str, Any]:
    """The metrics that the job wrote; ends the script when it failed."""
    job = api.call("GET", f"/cloud_ml/v1/train/{name}")
    if job["state"] != "completed":
        subprocess.run([LOCALML, "show", name], check=False)
        raise SystemExit(f"quickstart: the job ended as '{job['state']}'")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "metrics.json"
        localml("cp", f"{BUCKET}/{name}/metrics.json", str(target))
        return dict(json.loads(target.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["docker", "process"], required=True)
    engine = parser.parse_args().engine

    say("1/4  Building the runtime (the first time takes about two minutes)")
    subprocess.run([LOCALML, "images", "build", "train-sklearn", "--engine", engine], check=True)

    say("2/4  Starting the platform")
    status = start(engine)
    print(f"localml runs at {status['url']} (engine: {status['engine']}, data: {status['data']})")

    say("3/4  Training on 1,797 images of handwritten digits, through the signed Cloud-ML API")
    keys = json.loads(localml("env", "cloudml", "--format", "json"))
    api = CloudML(status["url"], keys["access_key"], keys["secret_key"])
    name = f"digits-{time.strftime('%H%M%S')}"
    train(api, name)

    metrics = result(api, name)
    say("4/4  Result")
    print(f"accuracy on held-out images: {metrics['accuracy']:.4f}")
    print(f"model, metrics and TensorBoard events: {status['data']}/buckets/quickstart/digits/{name}")
    for line in (
        "",
        "What next:",
        f"  localml show {name}                  what happened, and when",
        f"  localml logs {name}                  its output",
        f"  localml cp {BUCKET}/{name} .   its files",
        "  localml run --follow -- python -c 'print(1)'",
        "  localml ps -a                           everything that ran",
        "  localml down                            stop the platform",
    ):
        print(line)
    print(f"\n('localml' is {LOCALML.relative_to(REPO)}; put it on your PATH with: . .venv/bin/activate)")


if __name__ == "__main__":
    main()
