"""The interface of a video model.

Axes: B clips, T frames, C channels, H height, W width, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from w3ray.attention.sites import Site, Stages
from w3ray.models.layouts import KeyLayout
from w3ray.models.pixels import IMAGENET, Pixels
from w3ray.models.refinement import AttentionGuidedRefinement, RefinementOfPaths


class VideoOutput(NamedTuple):
    """What a video model returns."""

    logits_BK: Tensor
    """Class scores of the clip (before softmax)."""
    features: tuple[Tensor, ...]
    """y_i of Eq. 8: the last feature maps [B, T', C, H', W'], after AFR if the model has it.

    One tensor for each path of the network that the head pools. T' is smaller than T if the network strides over time.
    """


class Path(NamedTuple):
    """One way through a network, from the clip to a last map that the head pools."""

    stages: Stages
    """The stages whose masks refine the last map, in running order. Two paths may share stages."""
    channels: int
    """C of the last map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeights:
    """What `w3ray.models.weights.load_weights` did."""

    layout: str
    """"torchvision", "tsm", "w3ray", or a layout of the model."""
    loaded: int
    """Number of tensors that were loaded."""
    left_out: tuple[str, ...]
    """Tensors of the file that were ignored: a classifier for other classes, and what the network has no place for."""
    fresh: tuple[str, ...]
    """Tensors of the model that the file does not hold. They keep their initial values."""


class VideoModel(nn.Module):
    """A network over clips. A subclass defines `stages`, `forward`, the head `classifier` and `num_features`.

    Attention-guided refinement (AFR) is optional. It is one module over the masks of all stages. A network with
    several last maps also defines `paths`; it has one AFR for each path.
    """

    pixels: Pixels = IMAGENET
    """The expected input: its channels, and how they are normalised."""
    classifier: Any
    """The head (`w3ray.models.heads`)."""
    refinement: AttentionGuidedRefinement | RefinementOfPaths | None
    num_features: int
    """C of the last feature map, of the first one if there are several."""
    flow_convolutions: tuple[str, ...] = ()
    """The names of the convolutions that read optical flow. They have their own learning-rate multipliers."""
    side_inputs: tuple[str, ...] = ()
    """What the model reads besides the clip: names of further arguments of `forward`, such as "boxes"."""
    bank_shape: tuple[int, int] | None = None
    """Features of a clip and their channels, of a model that reads "bank"."""
    loaded_weights: LoadedWeights | None = None
    """What `build_model` took of the initial weights; None: they are random."""
    layouts: tuple[KeyLayout, ...] = ()
    """Layouts of public weight files of this model, in addition to torchvision's and the reference TSM's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_module("refinement", None)

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, C, H, W], normalised with `pixels` -> class scores and last feature maps."""
        raise NotImplementedError

    def stages(self) -> Stages:
        """The sites by stage, in running order: of the first path, then of the next ones. Each site is there once.

        `add_attention` works on these sites.
        """
        raise NotImplementedError

    def paths(self) -> tuple[Path, ...]:
        """One path for each last map, in the order of `VideoOutput.features`."""
        return (Path(self.stages(), self.num_features),)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the last linear layers; they have their own learning-rate multipliers."""
        return self.classifier.classifier_parameters()

    def classifier_names(self) -> tuple[str, ...]:
        """The state names of `classifier_parameters`."""
        last = {id(parameter) for parameter in self.classifier_parameters()}
        return tuple(name for name, parameter in self.named_parameters() if id(parameter) in last)

    def has_spatial_masks(self) -> bool:
        """Whether an attention of the model returns spatial masks."""
        return bool(_masked_sites(self.stages()))

    def add_refinement(self) -> None:
        """Add AFR (Eq. 7-8): to each last map, with the masks of its own path.

        Raises:
            ValueError: there is no attention, or it returns no spatial mask.
        """
        if not self.has_spatial_masks():
            raise ValueError("refinement (AFR, Eq. 7): needs an attention with spatial masks")
        each = [_refinement_of(path) for path in self.paths()]
        self.refinement = each[0] if len(each) == 1 else RefinementOfPaths(each)

    def run_stages(
        self, x: Tensor, num_frames: int | None, stages: Stages | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run stages in order. Returns the last features and the last mask [B, T, H, W] of each stage.

        A stage without a spatial mask has no entry.

        Args:
            x: features in the layout of the first site.
            num_frames: T of folded frames.
            stages: the stages to run. None: all.
        """
        masks: list[Tensor] = []
        for stage in self.stages() if stages is None else stages:
            stage_mask = None
            for site in stage:
                x, mask = site(x, num_frames, return_mask=True)
                stage_mask = stage_mask if mask is None else mask
            if stage_mask is not None:
                masks.append(stage_mask)
        return x, masks

    def finish(self, features_BTCHW: Tensor, masks_BTHW: list[Tensor]) -> VideoOutput:
        """The output of a network with one last map: AFR if the model has it, then the head."""
        if self.refinement is not None:
            features_BTCHW = self.refinement(features_BTCHW, masks_BTHW)
        return VideoOutput(self.classifier(features_BTCHW), (features_BTCHW,))

    def finish_paths(self, maps: tuple[Tensor, ...], masks: Sequence[Sequence[Tensor]]) -> VideoOutput:
        """As `finish`, for a network with several last maps.

        Args:
            maps: the last map [B, T, C, H, W] of each path.
            masks: for each path, the masks of its stages.
        """
        if self.refinement is not None:
            maps = self.refinement(maps, masks)
        return VideoOutput(self.classifier(*maps), maps)

    def whole_clip(self, parts: Tensor) -> Tensor:
        """What the sites computed for one clip, [n, T', ...] -> [T', ...]. Pictures show this.

        A network that reads a clip in n windows joins them here. The others have n = 1.
        """
        return parts[0]

    def check_clips(self, x_BTCHW: Tensor) -> None:
        """Raise ValueError if `x_BTCHW` is not a float batch of clips with the model's channels."""
        channels = self.pixels.channels
        if x_BTCHW.dim() != 5 or x_BTCHW.shape[2] != channels:
            raise ValueError(f"video model: input of shape {tuple(x_BTCHW.shape)}: must be [B, T, {channels}, H, W]")
        if not torch.is_floating_point(x_BTCHW):
            raise ValueError(f"video model: input of type {x_BTCHW.dtype}: must be float; normalise the clips first")


def _masked_sites(stages: Stages) -> list[Site]:
    """For each stage with spatial masks: its last site that has one."""
    masked = [[site for site in stage if getattr(site.attention, "has_spatial_mask", False)] for stage in stages]
    return [sites[-1] for sites in masked if sites]


def _refinement_of(path: Path) -> AttentionGuidedRefinement | None:
    """AFR of one path. None: its stages have no masks."""
    sites: list[Any] = _masked_sites(path.stages)
    if not sites:
        return None
    starts: set[float | None] = {site.attention.constant_start for site in sites}
    mask_start = starts.pop() if len(starts) == 1 else None
    return AttentionGuidedRefinement(len(sites), path.channels, mask_start)
