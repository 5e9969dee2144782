"""How much one request, or one user, may have in all. ``docs/limits.md`` is the table for users; a test compares both.

A limit stands where one small request would otherwise make work without bound: rows, containers, ports, file names,
repeated text. What is over one is refused when it is asked for, by :func:`over` and with both numbers; what was stored
by an earlier version is not looked at again. Limits of single amounts (cores, a port's number) are with their types.
"""

from __future__ import annotations

from localml.core.errors import Code, LocalmlError

# -- what a workload is ---------------------------------------------------------------------------

MOST_ROLES = 100
"""Roles of a workload. The vendors' own schemas have no more."""
MOST_REPLICAS = 1_000
"""Replicas of all roles together, and of an endpoint. Each is a container with a row, a log and threads that look after
it; sixteen for each core run at a time anyway."""
MOST_PORTS = 4_096
"""Ports of all replicas together: each may take one of the machine's, of which some 20,000 are there to be given."""
MOST_VARIABLES = 1_000
"""Environment variables of a role."""
MOST_STRING = 128 << 10
"""Bytes of one word of a command, or of one variable with its name: ``execve`` takes no longer one (MAX_ARG_STRLEN)."""
MOST_ARGUMENTS = 1 << 20
"""Bytes of a role's command and variables together, with the references in them written out. Linux has 2 MiB for both
(a quarter of the usual stack), and the engine and the image add variables of their own."""
MOST_MOUNTS = 100
"""Mounts of a workload; each is looked at, for every replica."""
MOST_FILES = 100
"""Small files that a workload brings in its spec."""
MOST_FILE_BYTES = 256 << 10
"""Bytes of all of them with their names: they are kept with each workload. What is larger is code, or data."""
MOST_OBJECTS = 1_000
"""Object URIs that a workload names."""
MOST_DEPENDENCIES = 1_000
"""Workloads that one waits for."""
MOST_PATH = 4_096
"""Bytes of a path, a URI or an image's name: Linux takes no longer path (PATH_MAX)."""
MOST_SECONDS = 10 * 366 * 86_400
"""The longest time that can be asked for: ten years."""
MOST_PIDS = 1 << 22
"""Processes and threads: a kernel has no more (PID_MAX_LIMIT)."""
MOST_BYTES = 1 << 50
"""Bytes of memory or disk that can be asked for: a pebibyte."""

# -- what there may be of something ---------------------------------------------------------------

MOST_WAITING = 50_000
"""Workloads that are not over, of everybody together. A pass of the loop looks at all that wait."""
MOST_WAITING_OF_ONE = 25_000
"""Of one user, once half of :data:`MOST_WAITING` are there: nobody fills the queue alone."""
MOST_SERIES = 10_000
"""Posted series of a workload: a thousand replicas with ten each."""
MOST_METRICS = 5_000
"""Of these, series that are read from what a job prints and from files in its output folder."""
MOST_PARAMETERS = 500
"""Parameters of a job that are kept: of its command and variables, and of a file."""
MOST_COMPARED = 500
"""Jobs in one comparison: the points of each are looked through."""
MOST_POINTS = 100_000
"""Points in one request."""
MOST_OF_ONE = 1_000
"""Tokens, key pairs, buckets, workspaces, notebooks and their like, or live endpoints that one user has."""
MOST_MODELS = 10_000
"""Models of one user: each job that writes one makes one of its own name, unless it is told another."""
MOST_POOLS = 5_000
"""Pools in all: who names one that is not there makes it, with those that it is in, and it stays."""
MOST_VARIANTS = 100
"""Versions in one request, and versions of an endpoint that are not over."""
MOST_POOL_LEVELS = 16
"""Pools in each other: each asks its ancestors."""
MOST_POOL_PATH = 1_024
"""Characters of a pool's path."""
MOST_LABELS = 100
"""Labels of a resource plan."""

MOST_DIMENSIONS = 200
"""Parameters of a study's search space; each costs at every proposal."""
MOST_CHOICES = 10_000
"""Values that one parameter chooses from."""
MOST_GRID_POINTS = 100_000
"""Points of a grid, and experiments of a search that lists them: each is a trial, with a row and a container."""
MOST_TRIALS = 1_000_000
"""Trials of one study."""
MOST_PARALLEL = 1_000
"""Trials of one study at a time."""
MOST_STUDIES = 10_000
"""Studies of one user that were not deleted."""
MOST_ALGORITHMS = 100
"""Algorithms that were installed, of everybody together: each may have an environment of its own."""

MOST_CONNECTIONS = 32
"""Ssh connections of one user to one replica: each is a task, and what runs in it."""
MOST_COMMANDS = 64
"""Commands, shells and forwarded ports at a time in one ssh connection: each takes threads of the server's."""

# -- what a request holds -------------------------------------------------------------------------

MOST_LEVELS = 100
"""Levels of lists and objects in each other in a body of JSON: what reads and writes it calls itself for each."""
MOST_VALUES = 20_000
"""Values in a body of JSON, lists and objects among them; fields of a form. Each costs more than a hundred times its
bytes where it is wrong, and what is checked holds up all other threads. Points of series have as many as they need."""
MOST_CODE = 1 << 30
"""Bytes of an archive of code: what is larger is data, and belongs into a bucket, where it lies once."""
MOST_MEMBERS = 100_000
"""Files, links and folders that one archive makes."""
FREE_MEMBERS = 10_000
"""Those that an archive of any size may make."""
BYTES_PER_MEMBER = 16
"""Of the archive for each of the others. A megabyte of gzip can hold 150,000 empty files, each of which costs the disk
more than a hundred times what it costs to send."""


def over(field: str, given: int | float, allowed: int | float, what: str, code: Code = Code.INVALID) -> LocalmlError:
    """The failure for more than a limit.

    Args:
        what: what is counted, such as ``replicas of all roles together``.
    """
    words = f"{field}: at most {allowed} {what}, not {given}"
    return LocalmlError(code, words, field=field, details={"given": given, "limit": allowed})


def need_at_most(field: str, given: int | float, allowed: int | float, what: str) -> None:
    """Refuse more than a limit.

    Raises:
        LocalmlError: ``INVALID`` with both numbers, which are in ``details``, too.
    """
    if given > allowed:
        raise over(field, given, allowed, what)
