"""The process engine's supervisor: runs one replica's command and writes down how it ended.

Forked by the zygote (:mod:`localml.engines.process.zygote`) or, where that cannot be used, started as
``python -I -S -E supervisor.pyc DIR pipes.pyc``; in a session of its own, so that it outlives both zygote and
server. It imports nothing of localml and as little as possible of the standard library: a start must cost milliseconds
(``signal`` and ``json`` would double it, hence ``_signal`` and text written by hand). What it reads and writes in DIR
is described in :mod:`localml.engines.process.folder`.
"""

from __future__ import annotations

import _signal as signals  # type: ignore[import-not-found]
import fcntl
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGHUP, SIGINT, SIGKILL, SIGALRM, SIGTERM, SIGCHLD = 1, 2, 9, 14, 15, 17
AWAITED = (SIGTERM, SIGALRM, SIGCHLD)
DEFAULT_GRACE, TOLD_WAIT = 10.0, 0.3  # seconds; the second: for whoever ends all processes to end this one, too
REST_WAIT, END_WAIT = 30.0, 600.0  # seconds for what was killed to end, and for a disk to take an end
PR_SET_CHILD_SUBREAPER = 36
LIMITS = ((b"memory", "RLIMIT_DATA"), (b"files", "RLIMIT_NOFILE"), (b"processes", "RLIMIT_NPROC"))


class Launch:
    """What to run: the file ``launch``, made by the engine.

    Three parts of NUL-ended items, the first two closed by an empty item: options (``key=value``), environment
    (``NAME=value``), words of the command.
    """

    def __init__(self, data: bytes) -> None:
        items = data.split(b"\0")[:-1]
        first = items.index(b"")
        second = items.index(b"", first + 1)
        self.options = [_pair(item) for item in items[:first]]
        self.env = dict(_pair(item) for item in items[first + 1 : second])
        self.command = items[second + 1 :]

    def option(self, key: bytes) -> bytes | None:
        """The value of an option that is given at most once."""
        return next((value for name, value in self.options if name == key), None)

    def cgroups(self) -> list[tuple[bytes, list[tuple[bytes, bytes]]]]:
        """Control groups to make, each with the files to set in it (options ``cgroup`` and ``set``, in order)."""
        found: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []
        for key, value in self.options:
            if key == b"cgroup":
                found.append((value, []))
            elif key == b"set":
                found[-1][1].append(_pair(value))
        return found


class Supervisor:
    """One replica: its child, the signals that reach it, and its end. ``pipes`` is where the output goes through."""

    def __init__(self, launch: Launch, pipes: Any = None) -> None:
        self.launch = launch
        self.pipes = pipes
        self.cgroups: list[bytes] = []
        self.child = 0
        self.stopping = False

    def run(self) -> None:
        """Run the command to its end and record it."""
        if os.path.exists("stop"):
            record_end(signal=SIGTERM, error="stopped before it began")
            return
        self._make_cgroups()
        # Waited for, never handled: a handler's signal that comes just before a blocking call is seen only after it.
        signals.pthread_sigmask(signals.SIG_BLOCK, AWAITED)
        signals.signal(SIGCHLD, signals.SIG_DFL)
        for number in (SIGINT, SIGHUP):
            signals.signal(number, signals.SIG_IGN)
        go = self._fork()
        adopt_orphans()  # before anything runs that could leave some
        record_running(self.child, self.pipes.identities())
        self.pipes.begin()
        os.write(go, b"1")
        os.close(go)
        status, usage = self._wait()
        oom = any(oom_kills(group) for group in self.cgroups)
        errors = [self._kill_rest(), self.pipes.finish(self._hurried)]
        self.stopping |= os.WTERMSIG(status) in (SIGKILL, SIGTERM) and bool(signals.sigtimedwait((SIGTERM,), TOLD_WAIT))
        record_end(
            error="; ".join(filter(None, errors)),
            exit_code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            oom=oom,
            max_rss=usage.ru_maxrss * 1024,
            cpu_user=usage.ru_utime,
            cpu_system=usage.ru_stime,
            interrupted=self.stopping and not os.path.exists("stop"),
        )

    def _fork(self) -> int:
        """Make the child, which waits until it is recorded; returns the pipe on which it is told to go on.

        If this process dies before that, the pipe closes and the child ends: no command runs unrecorded.
        """
        ready, go = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(go)
            try:
                self._become(ready)
            except Exception as error:
                os.write(2, f"localml: {error}\n".encode())
            finally:
                os._exit(126)
        os.close(ready)
        try:
            os.setpgid(self.child, self.child)
        except OSError:
            pass  # the child was faster
        return go

    def _become(self, ready: int) -> None:
        """In the child: set everything up and turn into the command."""
        os.setpgid(0, 0)
        self.pipes.give()
        if not os.read(ready, 1):
            os._exit(126)
        for number in range(1, signals.NSIG):
            try:
                signals.signal(number, signals.SIG_DFL)
            except (OSError, ValueError):
                pass  # SIGKILL, SIGSTOP and the C library's own
        self._limit()
        self._isolate()
        signals.pthread_sigmask(signals.SIG_SETMASK, ())
        workdir = self.launch.option(b"workdir") or b"work"
        try:
            os.chdir(workdir)
        except OSError as error:
            _complain(b"enter", workdir, error)
            os._exit(126)
        word = self.launch.command[0]
        try:
            os.execvpe(word, self.launch.command, self.launch.env)
        except OSError as error:
            _complain(b"run", word, error)
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)

    def _limit(self) -> None:
        """In the child: take on the limits. One that cannot be set is noted; the job runs all the same."""
        try:
            for group in self.cgroups:
                _write(group + b"/cgroup.procs", b"0")
            for key, name in LIMITS:
                value = self.launch.option(key)
                if value:
                    import resource

                    soft, _, hard = value.partition(b":")
                    resource.setrlimit(getattr(resource, name), (int(soft), int(hard or soft)))
            cpus = self.launch.option(b"cpus")
            if cpus:
                os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(b",")])
        except (OSError, ValueError) as error:
            note(f"limit not set: {error}")

    def _isolate(self) -> None:
        """In the child: move into the box, if there is to be one. If it cannot be made, nothing runs."""
        umask, box = self.launch.option(b"umask"), self.launch.option(b"box")
        if umask:
            os.umask(int(umask, 8))
        if box:
            load_program(os.fsdecode(box)).enter(self.launch.options)

    def _make_cgroups(self) -> None:
        for group, settings in self.launch.cgroups():
            try:
                os.makedirs(group, exist_ok=True)
                self.cgroups.append(group)
                for name, value in settings:
                    _write(group + b"/" + name, value)
            except OSError as error:
                note(f"limit not set: {error}")

    def _on_stop(self) -> None:
        """SIGTERM to us: SIGTERM to the group, SIGKILL when the grace written to ``stop`` is over."""
        grace = _read_grace()
        if not self.stopping:
            self.stopping = True
            _send(os.killpg, self.child, SIGTERM)
        if grace <= 0:
            self._on_deadline()
        else:
            signals.setitimer(signals.ITIMER_REAL, grace)

    def _hurried(self) -> bool:
        return self.stopping or SIGTERM in signals.sigpending()

    def _on_deadline(self) -> None:
        _send(os.killpg, self.child, SIGKILL)
        for pid in _children():
            _send(os.kill, pid, SIGKILL)

    def _wait(self) -> tuple[int, os.struct_rusage]:  # type: ignore[name-defined]
        """Reap until the child itself has ended (orphans of the job end up here too); stop it when asked."""
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == self.child:
                return status, usage
            if pid == 0:
                came = signals.sigwaitinfo(AWAITED).si_signo
                if came == SIGTERM:
                    self._on_stop()
                elif came == SIGALRM:
                    self._on_deadline()

    def _kill_rest(self) -> str:
        """The replica ends with its main process: whatever else it started is killed. What could not be, in words."""
        _send(os.killpg, self.child, SIGKILL)
        deadline, pause, error = time.monotonic() + REST_WAIT, 0.001, ""
        while time.monotonic() < deadline:
            members = _members(self.cgroups)  # also those that joined the replica, which are not ours to reap
            for pid in members:
                _send(os.kill, pid, SIGKILL)
            try:
                if os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                if not members:
                    break
            for pid in _children():
                _send(os.kill, pid, SIGKILL)
            time.sleep(pause)
            pause = min(0.1, pause * 1.2)
        else:
            error = f"processes that hang in the kernel are left: {sorted({*members, *_children()})}"
        for group in self.cgroups:
            try:
                os.rmdir(group)
            except OSError as error:
                note(f"control group not removed: {error}")
        return error


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none escapes the end of the job.

    ``ctypes`` would take 5 ms to import. Without ``_ctypes`` only those that stayed in the process group are found.
    """
    try:
        import _ctypes

        prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        _ctypes.call_function(prctl, (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    except (ImportError, AttributeError, OSError) as error:
        note(f"orphans not adopted: {error}")


def record_running(child: int, outputs: list[tuple[int, int]]) -> None:
    """Write ``running.json``: who runs, told apart from any later process of the same number."""
    me = os.getpid()
    with open("/proc/sys/kernel/random/boot_id") as source:
        boot = source.read().strip()
    text = (
        f'{{"supervisor": {me}, "start_ticks": {start_ticks(me)}, "child": {child}, '
        f'"outputs": {[list(one) for one in outputs]}, "boot_id": "{boot}", "started_at": {time.time()!r}}}\n'
    )
    file = os.open("running.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
    os.rename("running.part", "running.json")


def record_end(
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    oom: bool = False,
    max_rss: int = 0,
    cpu_user: float = 0.0,
    cpu_system: float = 0.0,
    error: str = "",
    interrupted: bool = False,
) -> None:
    """Write ``exit.json`` and do not give up soon: an end that is not recorded will be taken for a crash.

    The text goes over blocks that the engine reserved in ``exit.part``: the job may have filled the disk.
    """
    text = (
        f'{{"exit_code": {_json(exit_code)}, "signal": {_json(signal)}, "oom_killed": {_json(oom)}, '
        f'"finished_at": {time.time()!r}, "max_rss": {max_rss}, "cpu_user_seconds": {cpu_user!r}, '
        f'"cpu_system_seconds": {cpu_system!r}, "error": {_json(error)}, "interrupted": {_json(interrupted)}}}'
    )
    wait, deadline = 0.1, time.monotonic() + END_WAIT
    while os.path.exists("plan.json") and time.monotonic() < deadline:
        try:
            _replace_synced("exit.part", text.encode().ljust(4095) + b"\n", "exit.json")
            return
        except OSError:
            time.sleep(wait)
            wait = min(5.0, wait * 2)


def load_program(path: str) -> Any:
    """A compiled program beside this one, as a module; one that the zygote has is not loaded again."""
    from importlib.machinery import SourcelessFileLoader

    if path not in sys.modules:
        module = sys.modules[path] = type(sys)(path)
        SourcelessFileLoader(path, path).exec_module(module)
    return sys.modules[path]


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot (field 22 of ``/proc/PID/stat``)."""
    return int(_stat(pid)[19])


def oom_kills(group: bytes) -> int:
    """How many processes of a control group the kernel killed for memory (version 2, else version 1)."""
    for name in (b"memory.events", b"memory.oom_control"):
        try:
            with open(group + b"/" + name, "rb") as file:
                for line in file:
                    words = line.split()
                    if words[0] == b"oom_kill":
                        return int(words[1])
        except OSError:
            continue
    return 0


def note(text: str) -> None:
    """Add a line to ``notes``, which the engine shows in its log."""
    try:
        with open("notes", "a") as file:
            file.write(text + "\n")
    except OSError:
        pass  # a note is never worth a job


def take_lock() -> bool:
    """Whether this is the only supervisor of the folder; the lock goes with the process."""
    try:
        lock = os.open("lock", os.O_RDWR | os.O_CLOEXEC)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def main(directory: str, pipes: str) -> int:
    """Supervise the replica of a folder, unless it has ended or another supervisor has it."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # what the server inherited is no business of jobs
    try:
        os.chdir(directory)
    except FileNotFoundError:
        return 0  # removed meanwhile
    if not take_lock() or os.path.exists("exit.json") or not os.path.exists("plan.json"):
        return 0
    try:
        with open("launch", "rb") as file:
            launch = Launch(file.read())
        uid, gid = launch.option(b"uid"), launch.option(b"gid")
        owner = (int(uid), int(gid)) if uid and gid else None
        supervisor = Supervisor(launch, load_program(pipes).Pipes(owner))
    except (OSError, ValueError) as error:
        record_end(exit_code=125, error=f"the supervisor cannot read what to run: {error}")
        return 1
    try:
        supervisor.run()
    except OSError as error:
        if supervisor.child:
            supervisor._on_deadline()
        record_end(exit_code=125, error=f"the supervisor failed: {error}")
        return 1
    return 0


def _complain(verb: bytes, what: bytes, error: OSError) -> None:
    os.write(2, b"localml: cannot %s '%s': %s\n" % (verb, what, os.strerror(error.errno or 0).encode()))


def _replace_synced(part: str, data: bytes, name: str) -> None:
    file = os.open(part, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(part, name)
    folder = os.open(".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_grace() -> float:
    try:
        with open("stop") as file:
            return float(file.read())
    except (OSError, ValueError):
        return DEFAULT_GRACE


def _stat(pid: int) -> list[bytes]:
    """Fields of ``/proc/PID/stat`` after the command's name, which may hold anything."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def _children() -> list[int]:
    me = b"%d" % os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, parent = _stat(int(name))[:2]
            except OSError:
                continue
            if parent == me and state != b"Z":
                found.append(int(name))
    return found


def _members(groups: list[bytes]) -> list[int]:
    found: list[int] = []
    for group in groups:
        try:
            with open(group + b"/cgroup.procs", "rb") as file:
                found += [int(line) for line in file if line != b"0\n"]  # 0: seen from here it has no number
        except OSError:
            continue
    return found


def _send(send: Any, target: int, number: int) -> None:
    try:
        send(target, number)
    except OSError:
        pass  # it has ended


def _write(path: bytes, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def _pair(item: bytes) -> tuple[bytes, bytes]:
    key, _, value = item.partition(b"=")
    return key, value


def _json(value: bool | int | str | None) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(letter if " " <= letter < "\x7f" else " " for letter in text) + '"'


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
