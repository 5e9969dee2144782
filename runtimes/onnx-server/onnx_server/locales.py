"""Locales that a text model names and the system lacks: containers seldom have any.

``StringNormalizer`` changes the case of letters by the rules of a locale (``en_US.UTF-8`` unless it says otherwise) and
cannot be loaded without it. Those rules are Unicode's, so those of ``C.UTF-8``, which comes with the C library, in all
languages but a few that tell a dotted from a dotless i: these are needed themselves.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from types import TracebackType

_MISSING = re.compile(r"Failed to construct locale with name:([A-Za-z0-9_.@-]+):")
_OWN_RULES = re.compile(r"(az|crh|ku|tr|tt)(_|\.|@|$)", re.IGNORECASE)
_UNICODE = ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8", "/usr/lib64/locale/C.utf8")


class StandIns:
    """While a model is loaded, the C library finds ``C.UTF-8`` under the names of locales that it lacks."""

    def __init__(self) -> None:
        self._before = os.environ.get("LOCPATH")
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> StandIns:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._folder is None:
            return
        self._folder.cleanup()  # what was loaded stays loaded
        if self._before is None:
            del os.environ["LOCPATH"]
        else:
            os.environ["LOCPATH"] = self._before

    def help(self, trouble: str) -> bool:
        """Whether another try makes sense after a failure with this message."""
        name = missing(trouble)
        source = next((path for path in map(Path, _UNICODE) if path.is_dir()), None)
        if not name or _OWN_RULES.match(name) or source is None:
            return False
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="onnx-server-locales-", ignore_cleanup_errors=True)
            os.environ["LOCPATH"] = self._folder.name
        link = Path(self._folder.name, name)
        if link.is_symlink():
            return False
        link.symlink_to(source)
        return True


def missing(trouble: str) -> str:
    """The locale that a failure of onnxruntime names as missing; empty where it is about something else."""
    found = _MISSING.search(trouble)
    return found[1] if found is not None else ""
