"""Which parameters rest, and how deep in the network is each parameter?

`freeze` takes names. `stem`, `stage1`, `stage2`, ... and `head` are parts of every network: the stages are those of
its sites (`VideoModel.paths`), the head is what follows the last map. All other names are those of the network's own
modules and parameters, such as `backbone` or `backbone.layer1.*.conv1`; `*` stands for any text.
"""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from torch import nn

from w3ray.models._common import VideoModel
from w3ray.training.batch_norm import rest_batch_norms

HEAD_NAMES = ("classifier", "refinement")
"""First parts of the state names of what follows the last map."""


def depths(model: VideoModel) -> dict[str, int]:
    """Parameter name -> 0 for the stem, the number of its stage, or one more than the last stage for the head.

    What lies between two stages counts as the one before.
    """
    stage_of_site: dict[int, int] = {}
    for path in model.paths():
        for number, stage in enumerate(path.stages, start=1):
            stage_of_site |= {id(site): number for site in stage}
    sites = {name: stage_of_site[id(module)] for name, module in model.named_modules() if id(module) in stage_of_site}
    head = max(stage_of_site.values(), default=0) + 1
    found, passed = {}, []
    last = model.classifier_names()
    for name, _ in model.named_parameters():
        inside = [site for site in sites if name.startswith(f"{site}.")]
        if name in last or name.partition(".")[0] in HEAD_NAMES:
            found[name] = head
        elif inside:
            passed += [site for site in inside if site not in passed]
            found[name] = sites[max(inside, key=len)]
        else:
            # Networks of several paths are written down one after the other: a part belongs to the path that it is in.
            near = max((_common(name, site) for site in sites), default=0)
            before = [site for site in passed if _common(name, site) == near]
            found[name] = sites[before[-1]] if before else 0
    return found


def _common(one: str, other: str) -> int:
    """How many parts the beginnings of two dotted names share."""
    count = 0
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count


def frozen_names(model: VideoModel, freeze: Iterable[str]) -> frozenset[str]:
    """The names of the parameters that rest.

    Args:
        model: the network.
        freeze: parts, modules, parameters and patterns; see the module's docstring.

    Raises:
        ValueError: an entry names nothing of this network, or nothing is left to train.
    """
    depth_of = depths(model)
    last = max(depth_of.values())
    parts = {"stem": 0, **{f"stage{number}": number for number in range(1, last)}, "head": last}
    frozen: set[str] = set()
    for entry in freeze:
        if entry in parts:
            names = {name for name, depth in depth_of.items() if depth == parts[entry]}
        else:
            names = {name for name in depth_of if fnmatchcase(name, entry) or fnmatchcase(name, f"{entry}.*")}
        if not names:
            known = dict.fromkeys([*parts, *(name.partition(".")[0] for name in depth_of)])
            raise ValueError(f"{entry!r} names nothing of {type(model).__name__}; it has {', '.join(known)}")
        frozen |= names
    if all(name in frozen for name, parameter in model.named_parameters() if parameter.requires_grad):
        raise ValueError("nothing is left to train")
    return frozenset(frozen)


def rest(model: nn.Module, frozen: Collection[str], trainable: Collection[str]) -> None:
    """Let parameters rest, and wake all others, in place.

    A batch norm rests with its parameters: it keeps its running statistics and uses them. Call this outside of a step,
    and wrap the network in DistributedDataParallel after it.

    Args:
        model: the network.
        frozen: names of the parameters that rest.
        trainable: names of the parameters that may be trained at all: those of a frozen batch norm
            (`apply_batch_norm_mode`) may not.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable and name not in frozen)
    rest_batch_norms(model, frozen)
