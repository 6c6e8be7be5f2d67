"""The moving average of a network's weights over the steps of its training.

It is usually better than the weights of the last step, because these still jump from step to step (Polyak and Juditsky,
"Acceleration of stochastic approximation by averaging", 1992).
"""

import copy

import torch

from w3ray.models._common import VideoModel


class MovingAverage:
    """An exponential moving average of a network, as a network of its own.

    After step n (1, 2, ...) it moves by 1 - d towards the network, with d = min(decay, n / (9 + n)): the first steps
    would otherwise weigh as much as all others in a short training. Running statistics of norms are averaged, too. All
    other buffers are those of the network.

    Args:
        model: the network before its first step.
        decay: d after many steps.
    """

    def __init__(self, model: VideoModel, decay: float) -> None:
        self.model: VideoModel = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: VideoModel) -> None:
        """Follow the network after one of its steps."""
        self.steps += 1
        weight = 1.0 - min(self.decay, self.steps / (9 + self.steps))
        theirs = model.state_dict()
        ours = self.model.state_dict()
        moving = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in moving], [theirs[name] for name in moving], weight)
        for name in ours.keys() - moving:
            ours[name].copy_(theirs[name])
