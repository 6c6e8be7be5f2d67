"""Which networks do the tables of the W3 paper compare, what do they cost, and what was published?

Each system is one network or several whose scores are averaged. The costs are those of one clip: multiply-adds (the
"FLOPs" of the literature) and parameters. The paper is arXiv:2004.01278. Nothing here needs torch before a cost is
counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from w3ray.models import BACKBONES, MODELS

PARAMETERS_FROM = "the comparison of models in TSM's paper (arXiv:1811.08383), quoted from memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network, and the clip that it reads."""

    model: str
    """A key of `MODELS`."""
    frames: int
    """Frames of a clip."""
    backbone: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    attention: Mapping[str, Any] | None = None
    size: int = 224
    """Height and width of the frames, in pixels."""
    boxes_per_frame: int = 10
    """Of a network that reads boxes."""
    flow_fields: int | None = None
    """The network reads stacks of so many fields of optical flow instead of frames."""

    def arguments(self, num_classes: int) -> dict[str, Any]:
        """Arguments of `build_model`."""
        return {
            "name": self.model,
            "backbone": self.backbone,
            "options": dict(self.options),
            "attention": self.attention,
            "refinement": self.attention is not None and self.attention["kind"] == "w3",  # AFR is a part of W3
            "num_classes": num_classes,
            "flow_fields": self.flow_fields,
        }

    @property
    def is_here(self) -> bool:
        """Whether its model and its backbone exist."""
        return self.model in MODELS and (self.backbone is None or self.backbone in BACKBONES)

    def __str__(self) -> str:
        return self.model if self.backbone is None else f"{self.model} {self.backbone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A row of the paper's tables."""

    number: int
    """Systems of the same number are variants."""
    name: str
    tables: str
    """The tables of the paper, such as "1, 4"."""
    networks: tuple[Network, ...]
    classes: int = 174
    """Number of classes: 174 of Something-Something, 83 of EgoGesture, 400 of Kinetics."""
    gmac: str | None = None
    """Published multiply-adds of a clip, in 1e9, as they are printed. None: none are published."""
    parameters: str | None = None
    """Published parameters, in 1e6, as they are printed."""
    published_classes: int = 400
    """Number of classes of the published parameters: those of TSM's paper fit Kinetics."""
    source: str = ""
    """Where the published figures are from. "": multiply-adds from the paper, parameters from `PARAMETERS_FROM`."""
    remark: str = ""
    recipe: str | None = None
    """The shipped recipe of this row: that of its first network."""
    others: tuple[str, ...] = ()
    """The shipped recipes of its other networks."""
    needs: str = ""
    """What w3ray lacks for it. Such a system is not counted."""

    @property
    def missing(self) -> str:
        """Why the system cannot be counted; "": it can."""
        return self.needs or ", ".join(dict.fromkeys(str(one) for one in self.networks if not one.is_here))

    @property
    def frames(self) -> str:
        return " + ".join(str(one.frames) for one in self.networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a system costs by our count."""

    macs: int
    """Multiply-adds of a clip, summed over the networks."""
    parameters: int
    """Summed over the networks."""
    parameters_published: int
    """The same with the number of classes of the published figure."""


def agrees(ours: float, published: str) -> bool:
    """Whether our figure is at most 1 %, or one unit of the last printed digit, away from the published one."""
    decimals = len(published.partition(".")[2])
    return abs(ours - float(published)) <= max(0.01 * float(published), 10.0**-decimals) + 1e-9


def count(system: System) -> Cost:
    """Count a system on the meta device: nothing is computed.

    Raises:
        ValueError: a network of it is not here, or does not take its clips.
    """
    import torch

    from w3ray.models.build import build_model
    from w3ray.models.profiling import profile

    if system.missing:
        raise ValueError(f"{system.name}: {system.missing} is not here")
    macs, parameters, more_classes = 0, 0, 0
    for network in system.networks:
        with torch.device("meta"):
            model = build_model(**network.arguments(system.classes))
            other = build_model(**network.arguments(system.published_classes)) if system.parameters else model
        cost = profile(model, network.frames, network.size, network.boxes_per_frame)
        macs, parameters = macs + cost.macs, parameters + cost.parameters
        more_classes += sum(parameter.numel() for parameter in other.parameters()) - cost.parameters
    return Cost(macs=macs, parameters=parameters, parameters_published=parameters + more_classes)


def _tsm(frames: int, attention: Mapping[str, Any] | None = None) -> Network:
    return Network(model="tsm", backbone="resnet50", frames=frames, attention=attention)


def _i3d_r50(attention: Mapping[str, Any] | None = None) -> Network:
    return Network(model="i3d_r50", frames=32, attention=attention)


def _gcn(boxes: int) -> Network:
    return Network(model="i3d_gcn", frames=32, attention=BLOCKS_OF_AUTHORS, boxes_per_frame=boxes)


def _lfb(**options: Any) -> Network:
    return Network(model="lfb", frames=32, attention=BLOCKS_OF_AUTHORS, options=options)


def _lite(frames: int) -> Network:
    return Network(model="eco", frames=frames, options={"lite": True})


BLOCKS_OF_AUTHORS = {"kind": "nonlocal", "first": 2, "scale": True, "weight_start": "gaussian"}
"""The five non-local blocks as in their authors' code."""
BLOCKS_OF_TABLE_6 = {"kind": "nonlocal", "stages": [3], "every": 2, "pool": "none"}
"""The simplest setting of non-local blocks that costs what Table 6 of the W3 paper says."""
_EN_LITE = tuple(_lite(frames) for frames in (16, 20, 24, 32))
_FLOW = "networks for frames and for stacks of 5 fields of flow, scores fused"


def _with_flow(*networks: Network) -> tuple[Network, ...]:
    """The networks, and the same networks for optical flow."""
    return networks + tuple(replace(one, flow_fields=5) for one in networks)


SYSTEMS: tuple[System, ...] = (
    System(
        number=1, name="TSN, BNInception", tables="1", gmac="16", parameters="10.7",
        networks=(Network(model="tsn", backbone="bninception", frames=8),), recipe="ssv1-tsn-bninception-8f",
    ),
    System(
        number=2, name="TSN", tables="1, 4", gmac="33", parameters="24.3",
        networks=(Network(model="tsn", backbone="resnet50", frames=8),), recipe="ssv1-tsn-8f",
    ),
    System(
        number=3, name="TRN, BNInception", tables="",
        networks=(Network(model="trn", backbone="bninception", frames=8),),
    ),
    System(
        number=3, name="TRN", tables="4", recipe="epic-trn-8f",
        networks=(Network(model="trn", backbone="resnet50", frames=8),),
    ),
    System(
        number=4, name="TRN-Multiscale, BNInception", tables="1, 2", gmac="16", parameters="18.3",
        networks=(Network(model="trn_multiscale", backbone="bninception", frames=8),),
        recipe="ssv1-trn-multiscale-bninception-8f",
        remark="the published parameters do not fit this network; a public copy has 13.1",
    ),
    System(
        number=4, name="TRN-Multiscale", tables="1, 2, 4", gmac="33", parameters="31.8",
        networks=(Network(model="trn_multiscale", backbone="resnet50", frames=8),), recipe="ssv1-trn-multiscale-8f",
        remark="the published parameters do not fit this network; a public copy has 26.6 with 174 classes",
    ),
    System(
        number=5, name="TRN-Multiscale RGB + flow, BNInception", tables="1, 2",
        networks=_with_flow(Network(model="trn_multiscale", backbone="bninception", frames=8)),
        recipe="ssv1-trn-multiscale-bninception-8f", others=("ssv1-trn-multiscale-bninception-flow-8f",),
        remark=_FLOW,
    ),
    System(
        number=6, name="ECO", tables="1", gmac="32", parameters="47.5",
        networks=(Network(model="eco", frames=8),), recipe="ssv1-eco-8f",
    ),
    System(
        number=6, name="ECO", tables="1", gmac="64", parameters="47.5",
        networks=(Network(model="eco", frames=16),), recipe="ssv1-eco-16f",
    ),
    System(
        number=7, name="ECO En-Lite", tables="1", gmac="267", parameters="150", networks=_EN_LITE,
        recipe="ssv1-eco-lite-16f", others=("ssv1-eco-lite-20f", "ssv1-eco-lite-24f", "ssv1-eco-lite-32f"),
        remark="four networks of 16, 20, 24 and 32 frames",
    ),
    System(
        number=8, name="ECO En-Lite RGB + flow", tables="1", networks=_with_flow(*_EN_LITE),
        recipe="ssv1-eco-lite-16f",
        others=(
            "ssv1-eco-lite-20f", "ssv1-eco-lite-24f", "ssv1-eco-lite-32f", "ssv1-eco-lite-flow-16f",
            "ssv1-eco-lite-flow-20f", "ssv1-eco-lite-flow-24f", "ssv1-eco-lite-flow-32f",
        ),
        remark=_FLOW,
    ),
    System(
        number=9, name="I3D", tables="1", gmac="153", parameters="28.0", networks=(_i3d_r50(),),
        recipe="ssv1-i3d-r50-32f", remark="of one clip; the result is of two",
    ),
    System(
        number=10, name="I3D + non-local", tables="1", gmac="168", parameters="35.3",
        networks=(_i3d_r50(BLOCKS_OF_AUTHORS),), recipe="ssv1-i3d-r50-nl-32f",
        remark="of one clip; the result is of two. Five blocks cost 15 GMAC only in a network with 4 frames behind its "
        "second pool, which as a whole costs 41",
    ),
    System(
        number=11, name="I3D + non-local + GCN", tables="1", gmac="303", parameters="62.2",
        networks=(_gcn(10),), recipe="ssv1-i3d-nl-gcn",
        remark="10 boxes in each frame, of one clip; the result is of two. Ours is without the detector: its backbone "
        "has 26.9 M parameters, and 16 frames cost it 151 GMAC",
    ),
    System(
        number=11, name="I3D + non-local + GCN, 50 boxes", tables="", networks=(_gcn(50),),
        remark="as for Charades",
    ),
    System(
        number=12, name="SlowFast 8x8", tables="1", gmac="65",
        networks=(Network(model="slowfast_r50", frames=32, size=256),), recipe="ssv1-slowfast-r50-32f",
        remark="the published figure is that of 256 x 256 pixels",
    ),
    System(number=13, name="TSM", tables="1, 4", gmac="33", parameters="24.3",
           networks=(_tsm(8),), recipe="ssv1-tsm-8f"),
    System(number=13, name="TSM", tables="1, 2, 6", gmac="65", parameters="24.3",
           networks=(_tsm(16),), recipe="ssv1-tsm-16f"),
    System(
        number=13, name="TSM ensemble", tables="1", gmac="98", parameters="48.6",
        networks=(_tsm(8), _tsm(16)), recipe="ssv1-tsm-8f", others=("ssv1-tsm-16f",),
        remark="averaged scores of the two networks above",
    ),
    System(
        number=14, name="TSM + CBAM", tables="6, 7", gmac="66.5", networks=(_tsm(16, {"kind": "cbam"}),),
        recipe="ssv1-cbam-16f", remark="more than 0.1 GMAC can come from element-wise operations only, which we do not "
        "count",
    ),
    System(
        number=15, name="TSM + non-local", tables="6", gmac="115.0", networks=(_tsm(16, BLOCKS_OF_TABLE_6),),
        recipe="ssv1-nonlocal-16f", remark="three blocks without pooling: the simplest setting that costs so much",
    ),
    System(
        number=16, name="TAM", tables="8", gmac="32.83", parameters="23.7", published_classes=174,
        networks=(Network(model="tam", backbone="resnet50", frames=8),), recipe="ssv1-tam-8f", source="TAM's code",
    ),
    System(
        number=17, name="I3D, 3D ResNet-18", tables="8", networks=(Network(model="i3d_r18", frames=32),),
        recipe="ssv1-i3d-r18-32f",
    ),
    System(
        number=17, name="I3D, 3D ResNet-18", tables="8", networks=(Network(model="i3d_r18", frames=64),),
        recipe="ssv1-i3d-r18-64f",
    ),
    System(
        number=17, name="I3D, 3D ResNet-18, strides in time", tables="", remark="a variant of the authors' code",
        networks=(Network(model="i3d_r18", frames=32, options={"temporal_stride": True}),),
    ),
    System(
        number=18, name="VGG16 + LSTM", tables="3", classes=83, recipe="egogesture-vgg16-lstm-16f",
        networks=(Network(model="lstm", backbone="vgg16", frames=16, options={"fc6": 4096}),),
        remark="the width of the LSTM is from memory",
    ),
    System(
        number=19, name="C3D", tables="3", classes=83, networks=(Network(model="c3d", frames=8, size=112),),
        recipe="egogesture-c3d-8f",
    ),
    System(
        number=19, name="C3D", tables="3", classes=83, gmac="38.5", parameters="78.4", published_classes=101,
        networks=(Network(model="c3d", frames=16, size=112),), recipe="egogesture-c3d-16f",
        source="a public copy of C3D",
    ),
    System(
        number=20, name="C3D + LSTM + RSTTM", tables="3", classes=83,
        networks=(Network(model="c3d_rsttm", frames=40, size=112),), recipe="egogesture-c3d-rsttm-40f",
        remark="a part of the definition is our decision: see w3ray/models/c3d_rsttm.py",
    ),
    System(
        number=21, name="I3D Inception-v1", tables="3", classes=83,
        networks=(Network(model="i3d_inception", frames=32),), recipe="egogesture-i3d-inception-32f",
    ),
    System(
        number=21, name="I3D Inception-v1", tables="", classes=83, gmac="108", parameters="12",
        source="arXiv:1705.07750", networks=(Network(model="i3d_inception", frames=64),),
        remark="the published figure is of another count",
    ),
    System(
        number=22, name="Action Banks, verbs", tables="4", networks=(_lfb(operator="max"),), classes=125,
        recipe="epic-lfb-verb-32f", remark="without the network that makes the bank",
    ),
    System(
        number=22, name="Action Banks, nouns", tables="4", networks=(_lfb(operator="max", window=12),), classes=352,
        recipe="epic-lfb-noun-32f", remark="the published bank is of detected things, ours of clips",
    ),
    System(
        number=22, name="Action Banks, FBO-NL", tables="", networks=(_lfb(operator="nl"),), classes=125,
        remark="attention over 40 features instead of their maximum",
    ),
    System(
        number=22, name="Action Banks, FBO-NL, 120 features", tables="", networks=(_lfb(operator="nl", window=120),),
        classes=352, remark="the network of nouns",
    ),
    System(
        number=23, name="R(2+1)D", tables="", gmac="40.52", parameters="31.5", source="torchvision",
        networks=(Network(model="r2plus1d_18", frames=16, size=112),),
    ),
    System(number=24, name="TSM + W3", tables="1, 3, 4", gmac="33.5", networks=(_tsm(8, {"kind": "w3"}),),
           recipe="ssv1-w3-8f", remark="depthwise Eq. 4, with AFR"),
    System(number=24, name="TSM + W3", tables="1, 2, 6", gmac="67.1", networks=(_tsm(16, {"kind": "w3"}),),
           recipe="ssv1-w3-16f", remark="depthwise Eq. 4 as in the text, with AFR; the published figure fits dense "
           "convolutions"),
    System(
        number=24, name="TSM + W3, dense", tables="", gmac="67.1",
        networks=(_tsm(16, {"kind": "w3", "depthwise": False}),), remark="dense Eq. 4, with AFR",
    ),
)  # fmt: skip
"""All of them, in the order of the paper's tables."""


def here() -> list[System]:
    """The systems whose networks exist."""
    return [system for system in SYSTEMS if not system.missing]


def missing() -> dict[str, str]:
    """Name and frames of a system that cannot be counted -> what is missing."""
    return {f"{system.name}, {system.frames} frames": system.missing for system in SYSTEMS if system.missing}
