"""What the server is told on its command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a server.

    Attributes:
        token: what every request must carry as ``X-Localml-Replica-Token``; empty lets everybody in.
        model_dir: the model's folder.
        name: the model's name in URLs.
        kernel: ``module:Class`` of a Python kernel; empty where the folder tells.
        max_batch: rows that are run together at most; 1 turns batching off.
        max_delay: seconds that a request waits at most for others to be run with, when there are others.
        queue: requests that wait at most; more are refused with 503.
        threads: threads of one operator; 0 means one for each CPU.
        provider: ``auto``, ``cpu`` or ``cuda``.
        allow_cpu_fallback: serve on the CPU where CUDA is wanted and does not work.
        memory_limit: bytes for each version's worker process, on CUDA also of the device; 0 means no limit.
        settle: seconds for which the files must not have changed before they are loaded.
        frozen: the files are never changed, so that those of an ONNX model are used where they lie.
        run_timeout: seconds that a run of the model may take before its worker is killed; 0 means no limit.
        max_body: bytes of a request's body at most.
        body_timeout: seconds that a client has for sending a body.
        drain_delay: seconds between becoming unready and closing, for a router to notice.
        drain_timeout: seconds that requests in flight have to finish then.
    """

    model_dir: Path
    name: str
    host: str = "127.0.0.1"
    port: int = 8080
    kernel: str = ""
    max_batch: int = 32
    max_delay: float = 0.0
    queue: int = 1024
    threads: int = 0
    provider: str = "auto"
    allow_cpu_fallback: bool = False
    memory_limit: int = 0
    settle: float = 0.5
    frozen: bool = False
    run_timeout: float = 0.0
    max_body: int = 64 << 20
    body_timeout: float = 60.0
    drain_delay: float = 0.2
    drain_timeout: float = 30.0
    token: str = field(default="", repr=False)
