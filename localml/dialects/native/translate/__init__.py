"""The core's records as JSON values, and its output as text."""
