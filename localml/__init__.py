"""localml: one workstation, five machine-learning platforms' REST APIs."""

__version__ = "0.1.0"
