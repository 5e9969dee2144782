"""The Docker engine: every replica is a container of the daemon that ``DOCKER_HOST`` names, or the local one.

What a failure of the daemon means depends on what it was told, and not on its words alone:

* a question (inspect, list, stats, events): only an answer says anything. "Not found" is asked again by id, name and
  label (``lookup.py``);
* create and start: what the container's state says goes before the answer. It may have begun all the same; the daemon
  notes there what it tried and could not do, which is the verdict. The rest is tried again for two seconds
  (``starting.py``);
* stop and remove: said again until the container has ended or is gone. A removal that is under way is waited for, for
  five seconds; then the caller is told, and says it again (``engine.py``);
* no answer: after 5 seconds to a question and 60 to an act it counts as none (``daemon.py``).
"""

from localml.engines.docker.daemon import docker_available
from localml.engines.docker.engine import DockerEngine
from localml.engines.docker.gpu import GpuOptions, GpuRuntime, gpu_options

__all__ = ["DockerEngine", "GpuOptions", "GpuRuntime", "docker_available", "gpu_options"]
