"""Stochastic depth: in training, some clips skip some residual blocks.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016 (arXiv:1603.09382): the linear decay rule of section 3.
Scaling and draws are torchvision's (`torchvision.ops.stochastic_depth`, mode "row"). All frames of a clip share a draw:
otherwise frames of one clip would be features of different networks.
"""

from w3ray.attention.sites import Site
from w3ray.models._common import VideoModel


def residual_sites(model: VideoModel) -> list[list[Site]]:
    """The blocks with a shortcut, in running order, for each path of the network."""
    return [[site for stage in path.stages for site in stage if site.is_residual] for path in model.paths()]


def set_stochastic_depth(model: VideoModel, probability: float) -> None:
    """Let clips skip residual blocks in training. Block l of the L of a path is skipped with l / L times `probability`.

    Raises:
        ValueError: the probability is above 0 and the network has no residual block.
    """
    paths = residual_sites(model)
    if probability > 0 and not any(paths):
        raise ValueError("stochastic_depth: the network has no residual blocks; set it to 0")
    for sites in paths:
        for number, site in enumerate(sites, start=1):
            site.drop_probability = probability * number / len(sites)
