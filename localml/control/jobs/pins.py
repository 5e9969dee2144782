"""What was checked is what is mounted: folders held fast until the engine has mounted them.

Jobs write to the buckets while the server looks at them: between the look at a folder inside of one and the engine's
mount of its name, somebody can put a link to anywhere in its place. So the folder is opened, following no link from the
bucket on, and what was opened is bound to a place of our own, where nobody but this server can put anything; the engine
is given that place. (It cannot be given ``/proc/PID/fd/N``: a bind mount of another mount namespace's folder is refused
by the kernel.) Buckets themselves, and folders whose names only localml makes, go by their names.

An engine may carry out a start whose server was killed, or did not wait for the answer, long after it was asked. So
what such a start was given stays for a while; and before anything is let go of, the name goes: whoever comes too late
finds nothing there, which an engine refuses to mount, and never the empty folder below.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from localml.engines.base import Bind, Engine, EngineError, ReplicaPlan

FOLDER = "pins"
"""Below the data directory. One folder for each place, ``SECONDS-TOKEN``, with what is mounted in it."""
LATE_S = 600.0
"""So long after it was asked an engine may still carry out a start that nobody heard the end of."""
_GONE = "gone-"
_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LAST = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_libc = ctypes.CDLL(None, use_errno=True)


class Pins:
    """Holds the folders of plans. Those of starts whose end is not known are let go of some time later.

    Args:
        now: seconds since 1970.
    """

    def __init__(self, data: Path, engine: Engine, now: Callable[[], float] = time.time) -> None:
        self._folder = data / FOLDER
        self._engine = engine
        self._now = now
        self._sweep(LATE_S)

    def close(self) -> None:
        """Let go of all: nothing of anybody is mounted inside of a data directory that no server uses."""
        self._sweep(-1)

    @contextmanager
    def __call__(self, plan: ReplicaPlan) -> Iterator[ReplicaPlan]:
        """The plan with the places to mount, which are good until the block ends.

        Raises:
            EngineError: there is a link in a folder's place, or the engine cannot be given places of ours.
        """
        with ExitStack() as held:
            yield replace(plan, binds=tuple(self._pinned(bind, held) for bind in plan.binds))

    def _pinned(self, bind: Bind, held: ExitStack) -> Bind:
        reason = self._engine.hidden_mounts() if bind.base else None
        if reason is None:
            return bind
        handle = _open(bind)
        held.callback(os.close, handle)
        reason = reason if os.geteuid() == 0 else "the server does not run as root"
        if not reason:
            return replace(bind, source=held.enter_context(self._place(handle)))
        if bind.base == "/":  # only administrators mount these
            return bind
        raise EngineError(
            f"{bind.target}: a folder inside of a bucket cannot be mounted safely here, because {reason}; "
            "mount the whole bucket"
        )

    @contextmanager
    def _place(self, handle: int) -> Iterator[str]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._sweep(LATE_S)
        holder = self._folder / f"{self._now():.0f}-{secrets.token_hex(8)}"
        holder.mkdir(mode=0o700)
        place = str(holder / "mounted")
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            os.mkdir(place, 0o700)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        known = True
        try:
            _mount(f"/proc/self/fd/{handle}", place, _MS_BIND | _MS_REC)
            _mount("none", place, _MS_PRIVATE | _MS_REC)  # first of all: what is unmounted here stays elsewhere
            yield place
        except BaseException as error:
            known = isinstance(error, EngineError)  # a refusal; anything else says nothing of what the engine does
            raise
        finally:
            if known:
                _let_go(holder)

    def _sweep(self, age: float) -> None:
        """Let go of the places that were made so many seconds ago."""
        if not self._folder.is_dir():
            return
        for holder in list(self._folder.iterdir()):
            began = holder.name.partition("-")[0]
            if not began.isdecimal() or self._now() - float(began) > age:
                _let_go(holder)


def _open(bind: Bind) -> int:
    """A handle of a bind's source, with no link between it and the base."""
    handle = os.open(bind.base, _WALK)
    *above, last = Path(bind.source).relative_to(bind.base).parts or (".",)
    try:
        for part, flags in (*((part, _WALK) for part in above), (last, _LAST)):
            deeper = os.open(part, flags, dir_fd=handle)
            os.close(handle)
            handle = deeper
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            raise OSError("there is a link in its place")
    except OSError as error:
        os.close(handle)
        raise EngineError(f"{bind.target}: what was to be mounted there is gone: {error}") from error
    return handle


def _mount(source: str, place: str, flags: int) -> None:
    if _libc.mount(source.encode(), place.encode(), None, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise EngineError(f"a folder could not be held for mounting: {os.strerror(number)}")


def _let_go(holder: Path) -> None:
    """Unmount a place and remove it. What was mounted there is never looked into."""
    gone = holder if holder.name.startswith(_GONE) else holder.with_name(_GONE + holder.name)
    with suppress(OSError):  # a mount itself, as an earlier version made them, cannot be renamed
        holder.rename(gone)
    for place in (gone / "mounted", gone, holder):
        _libc.umount2(str(place).encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        with suppress(OSError):
            os.rmdir(place) if os.path.isdir(place) else os.unlink(place)
