"""What killed servers held mounted, which is in the way of whoever removes their folders, pytest the first."""

from __future__ import annotations

import subprocess
from pathlib import Path


def mounted_below(folder: Path) -> list[Path]:
    """Places in a folder where something is mounted, the last one first."""
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [Path(row.split()[4].replace("\\040", " ")) for row in rows]
    return [place for place in reversed(places) if folder in place.parents]


def let_go_below(folder: Path) -> None:
    """Unmount all that is mounted in a folder whose servers are over; what uses it goes on with it."""
    for place in mounted_below(folder):
        subprocess.run(["umount", "--lazy", place], check=False)


def let_go_of_earlier_runs(root: Path) -> None:
    """The same for the folders in which earlier runs of pytest kept theirs.

    Args:
        root: where each run has a folder, with a lock in it until it has ended, or of another name while it is removed.
    """
    for place in mounted_below(root):
        run = root / place.relative_to(root).parts[0]
        if run.name.startswith("garbage-") or not (run / ".lock").exists():
            subprocess.run(["umount", "--lazy", place], check=False)
