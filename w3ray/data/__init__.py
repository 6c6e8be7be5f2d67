"""From videos to the microbatches of a training step."""

STREAM_VERSION = 2
"""Increased when the same manifest and seed would give other samples, another order or other pixels.

2: the exact reader. Frames of AVI and MPEG files, and the rotation of mirrored videos, differ from version 1.
"""
