"""Starts TensorBoard behind a token."""
