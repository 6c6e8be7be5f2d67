"""Synthetic videos whose classes differ only in the order of their frames.

`write_motion_dataset` draws them and writes real H.264 files. The classes come in pairs. A clip of the second class of
a pair is a clip of the first class played backwards: the same process draws it, then its frames are reversed. So the
unordered set of frames has exactly the same distribution in both classes of a pair.

A single frame, even the first one, also says nothing about the class: the action repeats with a random phase, so at any
moment every state is equally likely in both classes. Background, distractors, drift and noise have uniformly drawn
directions. Every frame is coded by itself at a fixed quantiser, because prediction between frames would leave traces
of the direction of motion.
"""

from w3ray.data.synthetic.arguments import SYNTHETIC_VERSION, split_counts
from w3ray.data.synthetic.clip import NUM_ACTORS, draw_clip, draw_cover
from w3ray.data.synthetic.data_set import (
    DrawingStopped,
    acting_cover,
    motion_manifest,
    write_motion_dataset,
    write_video,
)
from w3ray.data.synthetic.scene import ACTIONS, CLASSES, DIFFICULTIES, FLIP_MAP, Difficulty

__all__ = [
    "ACTIONS",
    "CLASSES",
    "DIFFICULTIES",
    "FLIP_MAP",
    "NUM_ACTORS",
    "SYNTHETIC_VERSION",
    "Difficulty",
    "DrawingStopped",
    "acting_cover",
    "draw_clip",
    "draw_cover",
    "motion_manifest",
    "split_counts",
    "write_motion_dataset",
    "write_video",
]
