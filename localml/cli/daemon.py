"""Being the server, or starting one that goes on by itself."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from localml import config_file
from localml.cli.failures import in_words
from localml.client.errors import ClientError
from localml.core.errors import LocalmlError, invalid
from localml.store.lock import holder

if TYPE_CHECKING:
    from localml.config import Config
    from localml.platform import Platform
    from localml.server import Server

READY_FD = "LOCALML_READY_FD"
"""Variable with the number of the pipe in which a detached server says that it answers, or why it does not."""
LOG_NAME = "server.log"
_START_S = 60.0
_PORTS = ("port", "gateway_port")
_M_ARENA_MAX = -8  # of malloc.h

Banner = dict[str, Any]


def serve(config: Config, announce: Callable[[Banner], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` is told once requests are answered; a parent is told instead.

    Raises:
        LocalmlError: it cannot start; the message says why.
    """
    gc.disable()  # until _settle: what is imported and made at the start stays, and looking at it takes a sixth of it
    _log_to_stderr()
    _share_arenas()
    parent = os.environ.pop(READY_FD, None)
    pipe = None if parent is None else os.fdopen(int(parent), "w")
    try:
        server, moved = _open(config)
    except Exception as error:
        found = in_words(error)
        if pipe is not None:
            _tell(pipe, {"error": {"code": str(found.code), "message": found.message, "field": found.field}})
        raise

    def ready() -> None:
        banner = {**_banner(server), "moved": moved}
        _remember(server)
        logging.getLogger("localml").info("serving at %s", server.url)
        if pipe is not None:
            _tell(pipe, banner)
        else:
            announce(banner)
        threading.Thread(target=_settle, args=(server,), name="localml-warm-up", daemon=True).start()

    server.run(ready)


def _remember(server: Server) -> None:
    """Ports and GPUs are the same at the next start, unless something else is said then; what the file says is not
    needed for that, nor are GPUs that nobody chose."""
    config = server.platform.config
    values = {"port": urlsplit(server.url).port, "gateway_port": config.gateway_port or None, "gpus": config.gpus}
    if config.gpus == "auto":
        values["gpus"] = None
    with suppress(LocalmlError):  # the file was spoiled since it was read
        said = config_file.values_of(config.data)
        kept = {name: value for name, value in values.items() if value is not None and name not in said}
        config_file.remember(config.data, kept)


def _settle(server: Server) -> None:
    """Make the app, which the first request shall not pay for, and let the garbage collector begin: with what is made
    from now on, for what there is stays, and each look at all of it would be a pause for whoever waits."""
    try:
        server.app.app("/localml/v1")
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def _share_arenas() -> None:
    """Let threads share glibc's memory pools: one for each of some thirty threads keeps megabytes that nobody uses,
    and only one thread at a time runs Python anyway."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _open(config: Config) -> tuple[Server, list[str]]:
    """A server, and what is to be said of the ports that it could not have."""
    from localml.control.own_ports import settled
    from localml.platform import Platform
    from localml.server import Server

    # of two servers on one data directory the second is told of the first, and not of its port
    config, moved = settled(config) if holder(config.data) is None else (config, [])
    platform: Platform = Platform(config)
    try:
        return Server(platform), moved
    except BaseException:
        platform.close()
        raise


def _banner(server: Server) -> Banner:
    from localml import __version__

    platform = server.platform
    gpus = [{"uuid": one.uuid, "name": one.name, "simulated": one.simulated} for one in platform.gpus.devices()]
    return {
        **platform.info(),
        "version": __version__,
        "url": server.url,
        "pid": os.getpid(),
        "users": platform.accounts.words(),
        "gpus": gpus,
        "gpu_source": platform.gpus.reason,
        "opened": platform.config.opened,
    }


def _tell(pipe: Any, value: Banner) -> None:
    """One line for the parent, which may have been killed meanwhile."""
    try:
        with pipe:
            pipe.write(json.dumps(value, default=str) + "\n")
    except OSError:
        logging.getLogger("localml").info("nobody waited for this start any more")


def _log_to_stderr() -> None:
    level = os.environ.get("LOCALML_LOG", "").upper() or "INFO"
    if level not in (known := logging.getLevelNamesMapping()):
        raise invalid("LOCALML_LOG", f"must be one of {', '.join(known)}, not {level!r}")
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.captureWarnings(True)


def start_detached(config: Config) -> Banner:
    """Start a server in a session of its own and return once it answers.

    Raises:
        ClientError: one runs there already, or it could not start; the message says why.
    """
    running = holder(config.data)
    if running is not None:
        where = f" at {running['url']}" if running.get("url") else ""
        who = f"process {running['pid']}" if "pid" in running else "another process"
        raise ClientError(
            "conflict", f"a server runs on {config.data} already ({who}{where}); see 'localml status'", details=running
        )
    config.data.mkdir(parents=True, exist_ok=True)
    log = config.data / LOG_NAME
    read, write = os.pipe()
    with os.fdopen(read) as answers:
        try:
            process = _spawn(config, log, write)
        finally:
            os.close(write)
        timer = threading.Timer(_START_S, process.terminate)  # its end closes the pipe
        try:
            timer.start()
            line = answers.readline()
        except KeyboardInterrupt:  # who takes a start back wants no server
            process.terminate()
            process.wait()
            raise
        finally:
            timer.cancel()
    banner: Banner = json.loads(line) if line else {}
    if "error" in banner:
        process.wait()
        error = banner["error"]
        raise ClientError(str(error["code"]), str(error["message"]), field=error["field"])
    if not banner:
        status = process.wait()
        raise ClientError("unavailable", f"the server did not start (exit code {status}): {_last_line(log)}; see {log}")
    # it goes on without us: that it is not waited for is intended
    process.returncode = 0
    return {**banner, "log": str(log)}


def _spawn(config: Config, log: Path, ready: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, READY_FD: str(ready), **_settings(config)}
    environment["LOCALML_NO_AUTH"] = "" if config.auth else "1"
    if os.environ.get(config_file.VARIABLE):  # the child is in another folder
        environment[config_file.VARIABLE] = str(config_file.place(config.data))
    # not through the command line: its libraries would stay in the server's memory
    command = [sys.executable, "-m", "localml.cli.daemon"]
    with log.open("ab") as output:
        os.fchmod(output.fileno(), 0o600)
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(ready,),
            cwd="/",
        )


def _settings(config: Config) -> dict[str, str]:
    """The settings as environment variables, so that the child reads them exactly as they are."""
    found = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name in ("auth", "asked") or value is None or (one.name in _PORTS and one.name not in config.asked):
            continue
        if isinstance(value, Mapping):
            value = tuple(f"{pattern}={name}" for pattern, name in value.items())
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        found[f"LOCALML_{one.name.upper()}"] = text
    return found


def _last_line(log: Path) -> str:
    """Of a failure that nobody foresaw it is the one that names it."""
    try:
        return (log.read_text(errors="replace").splitlines() or ["it said nothing"])[-1]
    except OSError as error:
        return f"{log}: {error.strerror}"


def main() -> None:
    """A detached server: everything it must know is in its environment."""
    from localml.config import load

    try:
        serve(load(), lambda _: None)
    except (LocalmlError, OSError) as error:
        sys.exit(f"localml: {in_words(error).message}")


if __name__ == "__main__":
    main()
