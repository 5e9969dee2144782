"""The Docker engine: every replica is a container of the daemon that ``DOCKER_HOST`` names, or the local one."""

from localml.engines.docker.daemon import docker_available
from localml.engines.docker.engine import DockerEngine
from localml.engines.docker.gpu import GpuOptions, GpuRuntime, gpu_options

__all__ = ["DockerEngine", "GpuOptions", "GpuRuntime", "docker_available", "gpu_options"]
