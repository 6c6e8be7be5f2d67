"""The options of each attention. The checks need no torch, so a wrong recipe fails at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

from w3ray._options import AS_BEFORE, Options, check_flag, check_one_of, check_whole

Placement = Literal["before", "after"]
Start = Literal["unit", "near_open", "plain"]
"""How the gates start.

"unit": a gate is 2 sigmoid(z) with z = 0 at the start. A fresh network then computes the same as the network without
attention, and the sigmoid is at its steepest point. "near_open": sigmoid(z) with z near 3. "plain": sigmoid(z) with
torch's own initial weights, so near 0.5.
"""
DEFAULT_START: Start = "unit"
"""`docs/attention.md` says why."""
Gain = Literal["gate", "norm"]
"""Where the factor 2 of the start "unit" is. "gate": in the gate. "norm": in the scale and shift of the norm before the
gate, so that the gate is the sigmoid of the equations. A fresh network computes the same with both."""
Borders = Literal["zeros", "replicate"]
"""What convolutions read outside the clip: before the first frame, after the last, and beyond the edges of frames."""
TemporalNorm = Literal["none", "batch"]
"""What normalises the hidden activations between the two temporal convolutions."""
Pooling = Literal["none", "input", "output"]
"""Where keys and values of a non-local block are pooled: nowhere, before their convolutions, or after them."""
WeightStart = Literal["torch", "gaussian"]
"""How the convolutions of a non-local block start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig(Options):
    """Base of every attention's options, and what follows from the options alone. Raises ValueError naming a field."""

    kind: ClassVar[str]
    """Name of the attention in recipes and in `w3ray.attention.ATTENTION`."""
    stages: tuple[int, ...] | None = None
    """Stages of the network that the attention enters, counted from 1. None: all."""
    every: int = 1
    """The attention enters every n-th site of a stage (2: every second site), starting at `first`."""
    first: int = 1
    """The first site of a stage that the attention enters, counted from 1."""

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
        """Kind and all options, as recipes and stored models hold them."""
        return {"kind": self.kind, **self.values()}

    def as_before(self) -> dict[str, Any]:
        """Kind, and the options that differ from what their absence meant in older versions. Identities hash this."""
        return {"kind": self.kind, **self.shortest()}

    @property
    def has_spatial_mask(self) -> bool:
        """Whether the attention has a spatial mask. Refinement needs one."""
        return False

    @property
    def looks_ahead(self) -> bool:
        """Whether the output at a frame depends on later frames. Then frames cannot be streamed one by one."""
        return True

    @property
    def chooses_sites(self) -> bool:
        """Whether the attention enters a part of the sites only, so that it may find none in a small network."""
        return self.stages is not None or self.every > 1 or self.first > 1

    def enters(self, stage: int, site: int) -> bool:
        """Whether the attention enters this site of this stage of the network. Both are counted from 0."""
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
            f"{kind}: gain=norm with placement=after: there is no norm between the sum with the shortcut and the gate; "
            "use gain=gate"
        )


def _start_of(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the old name `identity_start` translated to `start`."""
    options = dict(options)
    if "identity_start" not in options:
        return options
    if "start" in options:
        raise ValueError(
            f"{kind}: start and identity_start are both given; remove identity_start, the old name "
            "(true: start=near_open, false: start=plain)"
        )
    old = options.pop("identity_start")
    if not isinstance(old, bool):
        raise ValueError(f"{kind}: identity_start={old!r}: must be true or false; or use start, the new name")
    return {**options, "start": "near_open" if old else "plain"}


@dataclass(frozen=True, slots=True, kw_only=True)
class W3Config(AttentionConfig):
    """The options of W3. Raises ValueError naming the field."""

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
    """Eq. 4 works on each channel separately. False: dense, with C * C weights per tap."""
    hidden: int = 1
    """Hidden channels of Eq. 6."""
    placement: Placement = "before"
    """"before": on the residual branch, before the shortcut is added. "after": on the block's output."""
    start: Start = field(default=DEFAULT_START, metadata={AS_BEFORE: "near_open"})
    """How the gates start. The old name `identity_start` is still read: true is near_open, false is plain."""
    gain: Gain = "gate"
    """Where the factor 2 of the start "unit" is."""
    borders: Borders = "zeros"
    """What the convolutions of Eq. 4-6 read outside the clip, in time and in space."""
    temporal_norm: TemporalNorm = "none"
    """The norm between the two temporal convolutions of Eq. 4, and between the two of Eq. 6."""
    channel: bool = True
    """Channel-temporal attention (Eq. 3-4)."""
    spatial: bool = True
    """Spatio-temporal attention (Eq. 5-6)."""
    temporal: bool = True
    """The temporal convolutions (Eq. 4 and 6); False: M^c = M^c-frm and M^s = M^s-frm."""
    causal: bool = False
    """The temporal convolutions read the last K frames, not the frames after. A stream of frames (`w3ray.stream`)
    needs this. Not in the paper."""

    def as_before(self) -> dict[str, Any]:
        options = AttentionConfig.as_before(self)
        if options.get("start") == "plain":  # under its old name
            del options["start"]
            options["identity_start"] = False
        return options

    @property
    def has_spatial_mask(self) -> bool:
        return self.spatial

    @property
    def looks_ahead(self) -> bool:
        return self.temporal and not self.causal

    def __post_init__(self) -> None:
        AttentionConfig.__post_init__(self)
        for name in ("reduction", "hidden"):
            check_whole("W3", name, getattr(self, name))
        for name in ("channel_kernel", "spatial_kernel", "temporal_kernel"):
            _check_odd("W3", name, getattr(self, name))
        for name in ("depthwise", "channel", "spatial", "temporal", "causal"):
            check_flag("W3", name, getattr(self, name))
        _check_gates("W3", self)
        check_one_of("W3", "temporal_norm", self.temporal_norm, TemporalNorm)
        if self.causal and self.borders != "zeros":
            raise ValueError(
                f"W3: causal=True with borders={self.borders}: before its first frame a stream has zeros only; "
                "use borders=zeros"
            )
        if not (self.channel or self.spatial):
            raise ValueError("W3: channel=False with spatial=False: nothing is left; set no attention instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class CBAMConfig(AttentionConfig):
    """The options of CBAM. Raises ValueError naming the field."""

    kind: ClassVar[str] = "cbam"
    label: ClassVar[str] = "CBAM"
    reduction: int = 16
    """r of CBAM's Eq. 2; the hidden width is max(1, C // r)."""
    spatial_kernel: int = 7
    """Kernel of CBAM's Eq. 3, in cells of the feature map, odd."""
    placement: Placement = "before"
    """"before": on the residual branch, before the shortcut is added (CBAM, Fig. 3). "after": on the block's output."""
    start: Start = field(default=DEFAULT_START, metadata={AS_BEFORE: "plain"})
    """How the gates start. CBAM's authors use "plain"."""
    gain: Gain = "gate"
    """Where the factor 2 of the start "unit" is."""
    borders: Borders = "zeros"
    """What the convolution of CBAM's Eq. 3 reads beyond the edges of a frame."""

    @property
    def has_spatial_mask(self) -> bool:
        return True

    @property
    def looks_ahead(self) -> bool:
        return False

    def __post_init__(self) -> None:
        AttentionConfig.__post_init__(self)
        check_whole("CBAM", "reduction", self.reduction)
        _check_odd("CBAM", "spatial_kernel", self.spatial_kernel)
        _check_gates("CBAM", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class NonLocalConfig(AttentionConfig):
    """The options of the non-local block. Raises ValueError naming the field."""

    kind: ClassVar[str] = "nonlocal"
    label: ClassVar[str] = "non-local"
    reduction: int = 2
    """The inner width is max(1, C // reduction)."""
    pool: Pooling = "input"
    """Where keys and values are max-pooled 2x2 over space. "input": the features that phi and g read (authors' code).
    "output": what phi and g compute (TSM's code; it costs more). "none": nowhere, so each place looks at all places.
    The old name `subsample` is still read: true is input, false is none."""
    scale: bool = False
    """Multiply the affinity by inner width^-1/2, as the authors' code does. The paper's equations and TSM's code do
    not."""
    weight_start: WeightStart = "torch"
    """How the convolutions start. "torch": torch's own initial weights, as in TSM's code. "gaussian": N(0, 0.01) and
    biases of 0, as in the authors' code. In both cases the norm's scale starts at 0, so the block is the identity."""

    stages: tuple[int, ...] | None = (2, 3)
    """With `every`, these are the five blocks of the paper's ResNet-50 network, as in TSM's code."""
    every: int = 2

    def __post_init__(self) -> None:
        AttentionConfig.__post_init__(self)
        check_whole("non-local", "reduction", self.reduction)
        check_one_of("non-local", "pool", self.pool, Pooling)
        check_flag("non-local", "scale", self.scale)
        check_one_of("non-local", "weight_start", self.weight_start, WeightStart)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        return super(NonLocalConfig, cls).from_options(_pool_of(options))

    @classmethod
    def from_before(cls, options: Mapping[str, Any]) -> Self:
        return super(NonLocalConfig, cls).from_before(_pool_of(options))

    def as_before(self) -> dict[str, Any]:
        options = AttentionConfig.as_before(self)
        if options.get("pool") == "none":  # under its old name
            del options["pool"]
            options["subsample"] = False
        return options


def _pool_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the old name `subsample` translated to `pool`."""
    options = dict(options)
    if "subsample" not in options:
        return options
    if "pool" in options:
        raise ValueError(
            "non-local: pool and subsample are both given; remove subsample, the old name (true: pool=input, false: "
            "pool=none)"
        )
    old = options.pop("subsample")
    check_flag("non-local", "subsample", old)
    return {**options, "pool": "input" if old else "none"}
