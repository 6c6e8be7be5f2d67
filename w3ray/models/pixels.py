"""The normalisation of a network's input."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Mean and standard deviation of each channel, for values in [0, 1]. The network's input is (x - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"pixels: mean has {len(self.mean)} values, std has {len(self.std)}: both need one per channel"
            )

    @property
    def channels(self) -> int:
        """C of a frame."""
        return len(self.mean)


IMAGENET = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""RGB, as torchvision's weights expect."""

CAFFE = Pixels(mean=(128 / 255, 117 / 255, 104 / 255), std=(1 / 255, 1 / 255, 1 / 255))
"""RGB in 0 to 255 minus a mean, for weights from Caffe. Those expect BGR: the import flips the first layer."""
