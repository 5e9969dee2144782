"""``python -m onnx_server --model-dir DIR --name NAME``.

With ``LOCALML_REPLICA_TOKEN`` in the environment it answers only requests that carry it: those of localml's gateway.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from onnx_server.server import run
from onnx_server.settings import Settings

TOKEN_VARIABLE = "LOCALML_REPLICA_TOKEN"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9._~-]+")


def size(text: str) -> int:
    """Bytes in a text such as ``512M``, ``2GiB`` or ``1000000``; units are powers of 1024."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; use bytes, or a number with K, M, G or T")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def name(text: str) -> str:
    """A model's name that can stand in a URL as it is."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no model name; use letters, digits and . _ ~ -")
    return text


def number(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` up."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number from {least} up")
        return int(text)

    return read


def milliseconds(text: str) -> float:
    """Seconds in a text that gives milliseconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of milliseconds")
    return value / 1000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shown = argparse.ArgumentDefaultsHelpFormatter
    made = argparse.ArgumentParser("onnx_server", description="Serve a model over HTTP.", formatter_class=shown)
    add = made.add_argument
    add("--model-dir", type=Path, required=True, help="folder of the model, or of its versions (1/, 2/ ...)")
    add("--name", type=name, required=True, help="name of the model in URLs")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=number(0), default=8080, help="port to listen on")
    add("--kernel", default="", metavar="MODULE:CLASS", help="serve this Python kernel of the model's folder")
    add("--max-batch", type=number(1), default=32, help="rows that are run together at most; 1 turns batching off")
    add("--max-delay-ms", type=milliseconds, default="0", dest="max_delay", help="wait for company, if there is any")
    add("--queue", type=number(1), default=1024, help="requests that wait at most; more get 503")
    add("--run-timeout-ms", type=milliseconds, default="0", dest="run_timeout", help="for a run; 0: no limit")
    add("--threads", type=number(0), default=0, help="threads of one operator; 0: one for each CPU")
    add("--provider", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where a GPU is visible")
    add("--allow-cpu-fallback", action="store_true", help="serve on the CPU where CUDA is wanted and runs no node")
    add("--memory-limit", type=size, default=0, metavar="SIZE", help="of each worker, on CUDA also of the GPU; 0: none")
    add("--settle-ms", type=milliseconds, default="500", dest="settle", help="load files that lay still for so long")
    add("--frozen", action="store_true", help="the files never change, so an ONNX model is used where it lies")
    add("--max-body", type=size, default="64M", metavar="SIZE", help="of a request's body")
    add("--body-timeout-ms", type=milliseconds, default="60000", dest="body_timeout", help="for sending a body")
    add("--drain-delay-ms", type=milliseconds, default="200", dest="drain_delay", help="from unready to closing")
    add("--drain-timeout-ms", type=milliseconds, default="30000", dest="drain_timeout", help="for requests in flight")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the server; returns its exit status."""
    # out of the environment, so that a kernel does not print it with its own
    settings = Settings(**vars(parser().parse_args(arguments)), token=os.environ.pop(TOKEN_VARIABLE, ""))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
