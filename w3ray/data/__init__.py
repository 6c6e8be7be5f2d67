"""From videos to the microbatches of a training step."""

STREAM_VERSION = 1
"""Raised when the same manifest and seed would give other samples, another order or other pixels."""
