"""Starts JupyterLab as localml's notebooks want it."""
