"""Starts the server in an image that it was not installed in: that of a user's own kernel.

``localml images build --onto IMAGE`` makes this folder (see ``localml.engines.runtimes.kernel_server``): the server in
``lib``, and in ``py312`` and the like what it needs for one version of Python, numpy apart. The server's process takes
its own packages first; a kernel's process takes the image's, and numpy from here only where the image has none.

Takes the server's arguments; the port comes from ``LOCALML_PORT_HTTP``. Written for any Python 3, to say what is wrong.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    """Run the server; returns its exit status."""
    version = sys.version_info
    needs = os.path.join(HERE, "py{}{}".format(*version))
    if not os.path.isdir(needs):
        ready = sorted(name for name in os.listdir(HERE) if name.startswith("py"))
        sys.stderr.write(
            "localml: this image's Python is {}.{}, for which the server was not made ready ({} are). "
            "Run: localml images build --onto IMAGE\n".format(version[0], version[1], ", ".join(ready) or "none")
        )
        return 1
    sys.path[:1] = [os.path.join(HERE, "lib"), os.path.join(needs, "site")]
    os.environ["ONNX_SERVER_LAST_PATH"] = os.path.join(needs, "numpy")
    from onnx_server.__main__ import main as serve

    return serve([*sys.argv[1:], "--port", os.environ.get("LOCALML_PORT_HTTP", "8080")])


if __name__ == "__main__":
    sys.exit(main())
