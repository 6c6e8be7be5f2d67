"""Which options does each attention take? Checked here without torch, so that a wrong recipe is answered at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

from w3ray._options import AS_BEFORE, Options, check_flag, check_one_of, check_whole

Placement = Literal["before", "after"]
Start = Literal["unit", "near_open", "plain"]
"""How a fresh gate lets features pass.

"unit": a gate is 2 sigmoid(z) with z = 0 at the start, so a fresh network is the network without attention, and the
gate is where the sigmoid is steepest. "near_open": sigmoid(z) with z near 3. "plain": sigmoid(z) with torch's own
initial weights, so near 0.5.
"""
DEFAULT_START: Start = "unit"
"""`docs/attention.md` says why."""
Gain = Literal["gate", "norm"]
"""Where the factor 2 of the start "unit" is. "gate": in the gate. "norm": in scale and shift of the norm before it, so
that the gate is the sigmoid of the equations; a fresh network computes the same."""
Borders = Literal["zeros", "replicate"]
"""What convolutions read beyond the first and last frame and the picture's edges."""
TemporalNorm = Literal["none", "batch"]
"""What normalises the hidden activations between the two temporal convolutions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig(Options):
    """Base of every attention's options: what is known of it by these alone. Raises ValueError that names a field."""

    kind: ClassVar[str]
    """Its name in recipes, and in `w3ray.attention.ATTENTION`."""
    stages: tuple[int, ...] | None = None
    """Stages of the network that it enters, counted from 1; None: all."""
    every: int = 1
    """It enters every so many sites of a stage (2: every second one) ..."""
    first: int = 1
    """... from this one on, counted from 1."""

    def __post_init__(self) -> None:
        check_whole(self.label, "every", self.every)
        check_whole(self.label, "first", self.first)
        if self.stages is None:
            return
        if isinstance(self.stages, str) or not isinstance(self.stages, Sequence) or not self.stages:
            raise ValueError(f"{self.label}: stages={self.stages!r}: must list stages, such as [2, 3], or be null")
        for stage in self.stages:
            check_whole(self.label, "stages", stage)
        object.__setattr__(self, "stages", tuple(self.stages))  # files hold lists

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        known = [field.name for field in fields(cls)]
        return super(AttentionConfig, cls).from_options(
            _start_of(cls.label, options) if "start" in known else dict(options)
        )

    @classmethod
    def from_before(cls, options: Mapping[str, Any]) -> Self:
        before = cls.before()
        if "identity_start" in options:
            del before["start"]
        return cls.from_options({**before, **options})

    def written_out(self) -> dict[str, Any]:
        """Kind and all options, as recipes and models on disk hold them."""
        return {"kind": self.kind, **self.values()}

    def as_before(self) -> dict[str, Any]:
        """Kind and the options that say more than their absence did: what identities are hashes of."""
        return {"kind": self.kind, **self.shortest()}

    @property
    def has_spatial_mask(self) -> bool:
        """Whether it has a spatial mask, which refinement needs."""
        return False

    def enters(self, stage: int, site: int) -> bool:
        """Whether it enters this site of this stage of the network, both counted from 0."""
        chosen = self.stages is None or stage + 1 in self.stages
        return chosen and site + 1 >= self.first and (site + 1 - self.first) % self.every == 0


def _check_odd(kind: str, name: str, value: Any) -> None:
    check_whole(kind, name, value)
    if value % 2 == 0:
        raise ValueError(f"{kind}: {name}={value}: must be odd, so that the mask keeps the size of its input")


def _check_gates(kind: str, config: "W3Config | CBAMConfig") -> None:
    check_one_of(kind, "placement", config.placement, Placement)
    check_one_of(kind, "start", config.start, Start)
    check_one_of(kind, "gain", config.gain, Gain)
    check_one_of(kind, "borders", config.borders, Borders)
    if config.gain == "norm" and config.start != "unit":
        raise ValueError(f"{kind}: gain=norm holds the factor of start=unit, but start={config.start}; remove one")
    if config.gain == "norm" and config.placement == "after":
        raise ValueError(
            f"{kind}: gain=norm with placement=after: no norm lies between the shortcut's sum and the gate; "
            "use gain=gate"
        )


def _start_of(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`identity_start`, the name and meaning of before, as `start`."""
    options = dict(options)
    if "identity_start" not in options:
        return options
    if "start" in options:
        raise ValueError(
            f"{kind}: start and identity_start are both given; identity_start is the old name, remove it "
            "(true: start=near_open, false: start=plain)"
        )
    old = options.pop("identity_start")
    if not isinstance(old, bool):
        raise ValueError(f"{kind}: identity_start={old!r}: must be true or false; better use start")
    return {**options, "start": "near_open" if old else "plain"}


@dataclass(frozen=True, slots=True, kw_only=True)
class W3Config(AttentionConfig):
    """The knobs of W3. Raises ValueError that names the field."""

    kind: ClassVar[str] = "w3"
    label: ClassVar[str] = "W3"
    reduction: int = 16
    """r of Eq. 3; the hidden width is max(1, C // r)."""
    channel_kernel: int = 3
    """K_c-vid of Eq. 4, in frames, odd."""
    spatial_kernel: int = 7
    """K_s-frm of Eq. 5, in cells of the feature map, odd."""
    temporal_kernel: int = 3
    """K_s-vid of Eq. 6, odd; the kernel is cubic."""
    depthwise: bool = True
    """Eq. 4 by channel; False: dense, C * C weights per tap."""
    hidden: int = 1
    """Hidden channels of Eq. 6."""
    placement: Placement = "before"
    """On the residual branch before the shortcut is added, or after the block."""
    start: Start = field(default=DEFAULT_START, metadata={AS_BEFORE: "near_open"})
    """How a fresh gate lets features pass. `identity_start` is read as before: true is near_open, false is plain."""
    gain: Gain = "gate"
    """Where the factor 2 of the start "unit" is."""
    borders: Borders = "zeros"
    """What the convolutions of Eq. 4-6 read beyond the borders of time and of the picture."""
    temporal_norm: TemporalNorm = "none"
    """What normalises between the two temporal convolutions of Eq. 4 and of Eq. 6."""
    channel: bool = True
    """Channel-temporal attention (Eq. 3-4)."""
    spatial: bool = True
    """Spatio-temporal attention (Eq. 5-6)."""
    temporal: bool = True
    """The temporal convolutions (Eq. 4 and 6); False: M^c = M^c-frm and M^s = M^s-frm."""

    def as_before(self) -> dict[str, Any]:
        options = AttentionConfig.as_before(self)
        if options.get("start") == "plain":  # under the name that it had then
            del options["start"]
            options["identity_start"] = False
        return options

    @property
    def has_spatial_mask(self) -> bool:
        return self.spatial

    def __post_init__(self) -> None:
        AttentionConfig.__post_init__(self)
        for name in ("reduction", "hidden"):
            check_whole("W3", name, getattr(self, name))
        for name in ("channel_kernel", "spatial_kernel", "temporal_kernel"):
            _check_odd("W3", name, getattr(self, name))
        for name in ("depthwise", "channel", "spatial", "temporal"):
            check_flag("W3", name, getattr(self, name))
        _check_gates("W3", self)
        check_one_of("W3", "temporal_norm", self.temporal_norm, TemporalNorm)
        if not (self.channel or self.spatial):
            raise ValueError("W3: channel=False with spatial=False: nothing is left; use no attention instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class CBAMConfig(AttentionConfig):
    """The knobs of CBAM. Raises ValueError that names the field."""

    kind: ClassVar[str] = "cbam"
    label: ClassVar[str] = "CBAM"
    reduction: int = 16
    """r of its Eq. 2; the hidden width is max(1, C // r)."""
    spatial_kernel: int = 7
    """Of its Eq. 3, in cells of the feature map, odd."""
    placement: Placement = "before"
    """On the residual branch before the shortcut is added (its Fig. 3), or after the block."""
    start: Start = field(default=DEFAULT_START, metadata={AS_BEFORE: "plain"})
    """How a fresh gate lets features pass; its authors start as "plain"."""
    gain: Gain = "gate"
    """Where the factor 2 of the start "unit" is."""
    borders: Borders = "zeros"
    """What the convolution of its Eq. 3 reads beyond the picture's edges."""

    @property
    def has_spatial_mask(self) -> bool:
        return True

    def __post_init__(self) -> None:
        AttentionConfig.__post_init__(self)
        check_whole("CBAM", "reduction", self.reduction)
        _check_odd("CBAM", "spatial_kernel", self.spatial_kernel)
        _check_gates("CBAM", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class NonLocalConfig(AttentionConfig):
    """The knobs of the non-local block. Raises ValueError that names the field."""

    kind: ClassVar[str] = "nonlocal"
    label: ClassVar[str] = "non-local"
    reduction: int = 2
    """The inner width is max(1, C // reduction)."""
    subsample: bool = True
    """Keys and values are max-pooled 2x2 over space."""

    stages: tuple[int, ...] | None = (2, 3)
    """With `every`: the five blocks of the paper's network on ResNet-50, as TSM's code has them."""
    every: int = 2

    def __post_init__(self) -> None:
        AttentionConfig.__post_init__(self)
        check_whole("non-local", "reduction", self.reduction)
        check_flag("non-local", "subsample", self.subsample)
