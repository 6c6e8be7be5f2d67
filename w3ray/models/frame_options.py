"""Options of the frame networks other than TSM and TAM. The checks here need no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from w3ray._options import check_whole
from w3ray.models.options import ModelOptions

MOST_FRAMES = 16
"""TRN-Multiscale scores all ordered tuples of 2 to T frames in evaluation: 65 519 of them at 16 frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TRNOptions(ModelOptions):
    """The options of TRN. Raises ValueError naming the field."""

    label: ClassVar[str] = "TRN"
    small: ClassVar[Mapping[str, Any]] = {"num_frames": 4}
    small_clips: ClassVar[tuple[tuple[int, int, int], ...]] = ((4, 32, 32), (4, 64, 32))
    num_frames: int = 8
    """T: the relation layers read exactly so many frames. It must equal the number of frames of a clip."""

    def __post_init__(self) -> None:
        check_whole(self.label, "num_frames", self.num_frames, least=2)

    def check_clip(self, num_frames: int, size: int) -> None:
        """The clip must have the frames of the option."""
        if num_frames != self.num_frames:
            raise ValueError(
                f"{self.label}: clips of {num_frames} frames: this network reads {self.num_frames}; "
                f"set its option num_frames to {num_frames}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TRNMultiscaleOptions(TRNOptions):
    """The options of TRN-Multiscale. Raises ValueError naming the field."""

    label: ClassVar[str] = "TRN-Multiscale"

    def __post_init__(self) -> None:
        check_whole(self.label, "num_frames", self.num_frames, least=2)
        if self.num_frames > MOST_FRAMES:
            raise ValueError(f"{self.label}: num_frames={self.num_frames}: must be at most {MOST_FRAMES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LSTMOptions(ModelOptions):
    """The options of the LSTM over frames. Raises ValueError naming the field."""

    label: ClassVar[str] = "LSTM"
    units: int = 256
    """Units of the LSTM layer."""
    fc6: int = 0
    """Width of a fully connected layer over each frame's last map, pooled to 7 x 7 cells. VGG16's has 4096. 0: there is
    no such layer; the LSTM reads the mean of the map."""

    def __post_init__(self) -> None:
        check_whole("LSTM", "units", self.units)
        check_whole("LSTM", "fc6", self.fc6, least=0)
