"""Which options do the networks take that the paper compares W3 with? They are checked without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from w3ray._options import check_flag, check_whole
from w3ray.models.options import ModelOptions

MOST_FRAMES = 16
"""TRN-Multiscale scores all ordered tuples of 2 to T frames in evaluation: 65 519 of them at 16 frames."""

WINDOW, STRIDE = 16, 8
"""C3D + LSTM + RSTTM reads windows of so many frames, and a window starts every so many frames."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class C3DOptions(ModelOptions):
    """The options of C3D. Raises ValueError naming the field."""

    label: ClassVar[str] = "C3D"
    small: ClassVar[Mapping[str, Any]] = {"width": 4, "size": 32}
    small_clips: ClassVar[tuple[tuple[int, int, int], ...]] = ((8, 32, 32), (16, 32, 32))
    width: int = 64
    """Channels of the first convolution. The other layers are multiples of it."""
    size: int = 112
    """Height and width of the frames, in pixels. The first fully connected layer reads maps of this size only."""

    def __post_init__(self) -> None:
        check_whole(self.label, "width", self.width)
        check_whole(self.label, "size", self.size, least=16)

    def check_clip(self, num_frames: int, size: int) -> None:
        """The clip must have 8 or 16 frames of the option's size."""
        self.check_frames(num_frames)
        if size != self.size:
            raise ValueError(
                f"{self.label}: frames of {size} x {size} pixels: this network takes {self.size} x {self.size}; "
                f"set its option size to {size}"
            )

    def check_frames(self, num_frames: int) -> None:
        """Raise ValueError if the network cannot take so many frames."""
        if num_frames not in (8, 16):
            raise ValueError(f"{self.label}: clips of {num_frames} frames: this network takes 8 or 16")


@dataclass(frozen=True, slots=True, kw_only=True)
class C3DRSTTMOptions(C3DOptions):
    """The options of C3D + LSTM + RSTTM. Raises ValueError naming the field.

    Width and number of its other layers are our decisions (see `w3ray.models.c3d_rsttm`) and no options.
    """

    label: ClassVar[str] = "C3D + LSTM + RSTTM"
    small: ClassVar[Mapping[str, Any]] = {"width": 4, "size": 32, "units": 8}
    small_clips: ClassVar[tuple[tuple[int, int, int], ...]] = ((24, 32, 32), (16, 32, 32))
    units: int = 256
    """Units of the LSTM over windows (from memory of the paper)."""

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is a new class, which the bare form does not know.
        C3DOptions.__post_init__(self)
        check_whole(self.label, "units", self.units)

    def check_frames(self, num_frames: int) -> None:
        if num_frames < WINDOW or (num_frames - WINDOW) % STRIDE:
            raise ValueError(
                f"{self.label}: clips of {num_frames} frames: this network takes {WINDOW}, or {WINDOW} and a multiple "
                f"of {STRIDE} more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ECOOptions(ModelOptions):
    """The options of ECO. Raises ValueError naming the field."""

    label: ClassVar[str] = "ECO"
    small: ClassVar[Mapping[str, Any]] = {"width": 8}
    small_clips: ClassVar[tuple[tuple[int, int, int], ...]] = ((4, 32, 32), (8, 64, 32))
    lite: bool = False
    """True: ECO Lite, the 3D network alone. False: ECO Full, with the rest of the 2D network beside it."""
    width: int = 128
    """Channels of the 3D network's first stage. The second has twice, the third four times as many."""

    def __post_init__(self) -> None:
        check_flag("ECO", "lite", self.lite)
        check_whole("ECO", "width", self.width)

    def check_clip(self, num_frames: int, size: int) -> None:
        """The 3D network halves time twice, and BNInception takes multiples of 32 pixels."""
        if num_frames < 1 or num_frames % 4:
            raise ValueError(f"ECO: clips of {num_frames} frames: this network takes multiples of 4")
        if size < 1 or size % 32:
            raise ValueError(f"ECO: frames of {size} x {size} pixels: this network takes multiples of 32")
