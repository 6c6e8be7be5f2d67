"""Which options does each attention take? Checked here without torch, so that a wrong recipe is answered at once.

A config is a frozen dataclass; recipes, models on disk and modules hold it whole. A field whose default was changed, or
is not what networks did before there was the field, names the old value (`AS_BEFORE`): finished stages keep their
identities.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, get_args

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


AS_BEFORE = "as_before"
"""Metadata of a field: what its absence means in what older versions wrote; where absent, the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """Base of every attention's options: what is known of it by these alone. Raises ValueError that names a field."""

    kind: ClassVar[str]
    """Its name in recipes, and in `w3ray.attention.ATTENTION`."""
    label: ClassVar[str]
    """Its name in messages."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """The config of a recipe's options. Raises ValueError that names an unknown one."""
        known = [field.name for field in fields(cls)]
        options = _start_of(cls.label, options) if "start" in known else dict(options)
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"{cls.label}: unknown option {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**options)

    @classmethod
    def from_before(cls, options: Mapping[str, Any]) -> Self:
        """The config of options that an older version wrote: what is absent is as it was then.

        Raises:
            ValueError: an option is unknown or out of range.
        """
        before = cls._before()
        if "identity_start" in options:
            del before["start"]
        return cls.from_options({**before, **options})

    @classmethod
    def _before(cls) -> dict[str, Any]:
        """Option -> what its absence meant in the first recipes."""
        return {field.name: field.metadata.get(AS_BEFORE, field.default) for field in fields(cls)}

    def written_out(self) -> dict[str, Any]:
        """Kind and all options, as recipes and models on disk hold them."""
        return {"kind": self.kind, **asdict(self)}

    def as_before(self) -> dict[str, Any]:
        """Kind and the options that say more than their absence did: what identities are hashes of."""
        before = self._before()
        return {"kind": self.kind} | {name: value for name, value in asdict(self).items() if value != before[name]}

    @property
    def has_spatial_mask(self) -> bool:
        """Whether it has a spatial mask, which refinement needs."""
        return False

    def enters(self, stage: int, block: int) -> bool:
        """Whether it enters this block of this stage of residual blocks, both counted from 0."""
        return True


def _check_whole(kind: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{kind}: {name}={value!r}: must be a whole number >= 1")
    if name.endswith("_kernel") and value % 2 == 0:
        raise ValueError(f"{kind}: {name}={value}: must be odd, so that the mask keeps the size of its input")


def _check_one_of(kind: str, name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{kind}: {name}={value!r}: must be one of {', '.join(get_args(choices))}")


def _check_gates(kind: str, config: "W3Config | CBAMConfig") -> None:
    _check_one_of(kind, "placement", config.placement, Placement)
    _check_one_of(kind, "start", config.start, Start)
    _check_one_of(kind, "gain", config.gain, Gain)
    _check_one_of(kind, "borders", config.borders, Borders)
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
        for name in ("reduction", "hidden", "channel_kernel", "spatial_kernel", "temporal_kernel"):
            _check_whole("W3", name, getattr(self, name))
        for name in ("depthwise", "channel", "spatial", "temporal"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"W3: {name}={getattr(self, name)!r}: must be true or false")
        _check_gates("W3", self)
        _check_one_of("W3", "temporal_norm", self.temporal_norm, TemporalNorm)
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
        for name in ("reduction", "spatial_kernel"):
            _check_whole("CBAM", name, getattr(self, name))
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

    def enters(self, stage: int, block: int) -> bool:
        """Every second block of the second and third stage, as in the paper's 5-block network."""
        return stage in (1, 2) and block % 2 == 0

    def __post_init__(self) -> None:
        _check_whole("non-local", "reduction", self.reduction)
        if not isinstance(self.subsample, bool):
            raise ValueError(f"non-local: subsample={self.subsample!r}: must be true or false")
