"""The version of the training arithmetic. Increase it when the same recipe would give different weights."""

TRAINING_VERSION = 2
