"""What runs first inside a container (or child process) of a job: fetches the user's code, installs and runs it.

The package needs nothing but Python's standard library and pip, so that it works in every image. It knows nothing of
the server: all that it needs comes in environment variables, documented in the modules that read them.
"""

__version__ = "1.0.0"
