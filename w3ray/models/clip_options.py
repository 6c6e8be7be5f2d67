"""Options of the clip networks: I3D, SlowFast, C3D and ECO. The checks here need no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from w3ray._options import check_flag, check_one_of, check_whole
from w3ray.models.options import ModelOptions

TemporalKernels = Literal["alternate", "every"]
"""Which bottlenecks of I3D convolve over time.

"alternate": all of stage 1, every second one of stages 2 and 3, the second one of stage 4 (Wang et al.,
arXiv:1711.07971, Table 1). "every": all.
"""
BankOperator = Literal["max", "avg", "nl"]
"""How features of a bank are joined: by their maximum, their mean, or attention (arXiv:1812.05038, Sec. 3.3)."""
PixelsName = Literal["imagenet", "pytorchvideo"]
"""How pixels are normalised.

"imagenet": as torchvision's weights expect. "pytorchvideo": mean 0.45 and deviation 0.225 for each channel, as the
weights of PyTorchVideo and PySlowFast expect.
"""

WINDOW, STRIDE = 16, 8
"""C3D + LSTM + RSTTM reads windows of so many frames, and a window starts every so many frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualOptions(ModelOptions):
    """The size of a residual network of four stages. Raises ValueError naming the field."""

    width: int = 64
    """Channels of the first layer. All other layers are scaled with it."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Residual blocks of each of the four stages."""

    def __post_init__(self) -> None:
        check_whole(self.label, "width", self.width)
        if isinstance(self.blocks, str) or not isinstance(self.blocks, Sequence) or len(self.blocks) != 4:
            raise ValueError(f"{self.label}: blocks={self.blocks!r}: must list four numbers, such as [3, 4, 6, 3]")
        for count in self.blocks:
            check_whole(self.label, "blocks", count)
        object.__setattr__(self, "blocks", tuple(self.blocks))  # files hold lists


@dataclass(frozen=True, slots=True, kw_only=True)
class I3DResNet50Options(ResidualOptions):
    """The options of i3d_r50. Raises ValueError naming the field."""

    label: ClassVar[str] = "i3d_r50"
    small: ClassVar[Mapping[str, Any]] = {"width": 8, "blocks": (2, 1, 1, 2)}
    last_stride: int = 1
    """Stride of the last stage over space. 1 in Space-Time Region Graphs and in Long-Term Feature Banks, 2 in the
    non-local paper and in the public weights of PyTorchVideo and mmaction2."""
    stem_stride: int = 1
    """Stride over time of the stem's convolution and of its pool. 1 in the paper's comparison. 2 in the non-local paper
    and in mmaction2's weights `32x2x1`: only every fourth frame is left behind the stem."""
    temporal_kernels: TemporalKernels = "alternate"
    """Which blocks convolve over time."""
    pixels: PixelsName = "imagenet"
    """How pixels are normalised."""

    def __post_init__(self) -> None:
        ResidualOptions.__post_init__(self)
        for name in ("last_stride", "stem_stride"):
            value = getattr(self, name)
            if value not in (1, 2) or isinstance(value, bool):
                raise ValueError(f"{self.label}: {name}={value!r}: must be 1 or 2")
        check_one_of(self.label, "temporal_kernels", self.temporal_kernels, TemporalKernels)
        check_one_of(self.label, "pixels", self.pixels, PixelsName)

    def check_clip(self, num_frames: int, size: int) -> None:
        """Raise ValueError if less than two frames are left behind the stem: a pool joins each two."""
        least = 2 if self.stem_stride == 1 else 5
        if num_frames < least:
            raise ValueError(
                f"{self.label}: num_frames={num_frames}: must be at least {least} with stem_stride={self.stem_stride}, "
                "because a pool joins two frames"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class I3DGCNOptions(I3DResNet50Options):
    """The options of i3d_gcn: those of i3d_r50, and its graphs. Raises ValueError naming the field."""

    label: ClassVar[str] = "i3d_gcn"
    small: ClassVar[Mapping[str, Any]] = {"width": 8, "blocks": (2, 1, 1, 2), "node_channels": 16}
    side_inputs: ClassVar[tuple[str, ...]] = ("boxes",)
    node_channels: int = 512
    """Channels of a node, and of the last map behind its reduction."""
    layers: int = 3
    """Layers of graph convolution."""
    box_cells: int = 7
    """RoIAlign divides a box into so many cells along each side."""

    def __post_init__(self) -> None:
        I3DResNet50Options.__post_init__(self)
        for name in ("node_channels", "layers", "box_cells"):
            check_whole(self.label, name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class LFBOptions(I3DResNet50Options):
    """The options of lfb: those of i3d_r50, and its bank. Raises ValueError naming the field."""

    label: ClassVar[str] = "lfb"
    small: ClassVar[Mapping[str, Any]] = {
        "width": 8, "blocks": (2, 1, 1, 2), "operator": "nl", "window": 5, "bank_channels": 12, "inner": 16,
        "inner_dropout": 0.0,
    }  # fmt: skip
    side_inputs: ClassVar[tuple[str, ...]] = ("bank",)
    operator: BankOperator = "max"
    """How the features of the window are joined."""
    window: int = 40
    """Features of the bank that a clip reads, those nearest to its middle."""
    bank_channels: int = 2048
    """Channels of a feature of the bank. The bank's model decides them: 2048 for I3D ResNet-50."""
    inner: int = 512
    """Operator "nl": channels inside."""
    layers: int = 2
    """Operator "nl": layers of attention."""
    inner_dropout: float = 0.2
    """Operator "nl": dropout inside."""
    mask: bool = True
    """Places of the window outside of the video have no part. False: they count as zeros, as in the authors' code."""

    def __post_init__(self) -> None:
        I3DResNet50Options.__post_init__(self)
        check_one_of(self.label, "operator", self.operator, BankOperator)
        for name in ("window", "bank_channels", "inner", "layers"):
            check_whole(self.label, name, getattr(self, name))
        share = self.inner_dropout
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise ValueError(f"{self.label}: inner_dropout={share!r}: must be at least 0 and below 1")
        check_flag(self.label, "mask", self.mask)

    @property
    def bank_shape(self) -> tuple[int, int] | None:
        return self.window, self.bank_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class I3DResNet18Options(ResidualOptions):
    """The options of i3d_r18. Raises ValueError naming the field."""

    label: ClassVar[str] = "i3d_r18"
    small: ClassVar[Mapping[str, Any]] = {"width": 8, "blocks": (1, 1, 1, 1)}
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each of the four stages."""
    temporal_stride: bool = False
    """Stages 2, 3 and 4 each halve the number of frames."""

    def __post_init__(self) -> None:
        ResidualOptions.__post_init__(self)
        check_flag(self.label, "temporal_stride", self.temporal_stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowFastOptions(ResidualOptions):
    """The options of slowfast_r50. Raises ValueError naming the field. The names are those of the paper's Sec. 3."""

    label: ClassVar[str] = "slowfast_r50"
    small: ClassVar[Mapping[str, Any]] = {"width": 16, "blocks": (1, 1, 1, 1), "beta_inverse": 4}
    small_clips: ClassVar[tuple[tuple[int, int, int], ...]] = ((8, 32, 32), (4, 64, 32))
    alpha: int = 4
    """The slow path takes every alpha-th frame."""
    beta_inverse: int = 8
    """The slow path has beta_inverse times as many channels as the fast path."""
    fusion_kernel: int = 7
    """Frames that a lateral convolution reads, odd. 7 in the released 8x8 network, 5 in the paper."""
    lateral_norm: bool = True
    """A batch norm and a ReLU follow each lateral convolution, as in the paper. mmaction2's 8x8 network has none."""
    pixels: PixelsName = "pytorchvideo"
    """How pixels are normalised. mmaction2's weights expect "imagenet"."""

    def __post_init__(self) -> None:
        ResidualOptions.__post_init__(self)
        check_whole(self.label, "alpha", self.alpha)
        check_whole(self.label, "beta_inverse", self.beta_inverse)
        check_whole(self.label, "fusion_kernel", self.fusion_kernel)
        if self.fusion_kernel % 2 == 0:
            raise ValueError(f"{self.label}: fusion_kernel={self.fusion_kernel}: must be odd")
        if self.width % self.beta_inverse:
            raise ValueError(
                f"{self.label}: width={self.width} with beta_inverse={self.beta_inverse}: the width must be a multiple"
            )
        check_flag(self.label, "lateral_norm", self.lateral_norm)
        check_one_of(self.label, "pixels", self.pixels, PixelsName)

    def check_clip(self, num_frames: int, size: int) -> None:
        """Raise ValueError if the slow path's frames do not cover the clip evenly."""
        if num_frames < 1 or num_frames % self.alpha:
            raise ValueError(
                f"{self.label}: num_frames={num_frames}: must be a multiple of alpha={self.alpha}, because the slow "
                "path takes every alpha-th frame"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class I3DInceptionOptions(ModelOptions):
    """The options of i3d_inception. Raises ValueError naming the field."""

    label: ClassVar[str] = "i3d_inception"
    small: ClassVar[Mapping[str, Any]] = {"width": 8}
    width: int = 64
    """Channels of the first layer, a multiple of 8. All other layers are scaled with it."""

    def __post_init__(self) -> None:
        check_whole(self.label, "width", self.width)
        if self.width % 8:
            raise ValueError(f"{self.label}: width={self.width}: must be a multiple of 8")


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
