"""A task with nothing but Python: it says what it was told, and leaves that as its result.

--exec-start Python --model-main main.py --name you
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

TOLD = ("DLI_EXECID", "DATA_DIR", "RESULT_DIR", "LOG_DIR", "NODE_RANK", "WMLA_NWORKER")


def main() -> None:
    """Say it, and write it down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="world")
    given = parser.parse_args()
    told = {name: os.environ[name] for name in TOLD}
    print(f"hello {given.name}", flush=True)
    Path(os.environ["RESULT_DIR"], "told.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
