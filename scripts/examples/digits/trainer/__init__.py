"""A small classifier of handwritten digits, as a package that a training platform can run."""
