"""From videos to the microbatches of a training step."""

STREAM_VERSION = 2
"""Raised when the same manifest and seed would give other samples, another order or other pixels.

2: the exact reader; frames of AVI and MPEG files, and the turn of mirrored ones, are others than before.
"""
