"""What is wrong with the banks of a recipe's chain? One line for each fault."""

from collections.abc import Iterator, Mapping
from typing import Any

from w3ray._nearest import did_you_mean
from w3ray.recipe.sections import ResolvedBank, ResolvedStage, Stage

_OF_A_TRAINING = ("teacher", "bank", "loss_weights", "train", "model", "seed_offset")
_OF_A_BANK = ("of", "every_s", "span_s")


def bank_faults(recipe: Any) -> list[str]:
    """Faults of the stages of kind bank, and of the stages that read a bank or should."""
    faults: list[str] = []
    trainings: dict[str, ResolvedStage] = {}
    banks: dict[str, ResolvedBank] = {}
    for written, stage in zip(recipe.stages, recipe.chain(), strict=True):
        if isinstance(stage, ResolvedBank):
            faults += _of_bank(written, trainings)
            banks[stage.name] = stage
        else:
            faults += _of_training(written, stage, trainings, banks)
            trainings[stage.name] = stage
    if isinstance(recipe.chain()[-1], ResolvedBank):
        name = recipe.stages[-1].name
        faults.append(
            f"stages.{name}: no stage follows that could read this bank; add one, or use `w3ray data bank` instead"
        )
    return faults


def _of_bank(stage: Stage, trainings: Mapping[str, ResolvedStage]) -> Iterator[str]:
    where = f"stages.{stage.name}"
    for name in _OF_A_TRAINING:
        if getattr(stage, name) not in (None, {}):
            yield f"{where}.{name}: a stage of kind bank trains nothing; remove it"
    if stage.of is None:
        yield f"{where}.of: is missing; name the earlier training whose network makes the features"
    elif stage.of not in trainings:
        yield f"{where}.of: {stage.of!r} is not an earlier training; {_known(stage.of, trainings, 'trainings')}"
    elif needed := _side_inputs(trainings[stage.of]):
        yield (
            f"{where}.of: {trainings[stage.of].model.name} reads {', '.join(needed)} with each clip, and there are "
            "none for all moments of a video; name a training of another network"
        )


def _of_training(
    written: Stage, stage: ResolvedStage, trainings: Mapping[str, ResolvedStage], banks: Mapping[str, ResolvedBank]
) -> Iterator[str]:
    where, model = f"stages.{stage.name}", stage.model.name
    for name in _OF_A_BANK:
        if getattr(written, name) is not None:
            yield f"{where}.{name}: only a stage of kind bank has it; remove it, or set {where}.kind to bank"
    reads = "bank" in _side_inputs(stage)
    if stage.bank is None:
        if reads:
            yield f"{where}.bank: is missing; {model} reads a bank; name an earlier stage of kind bank"
    elif not reads:
        yield f"{where}.bank: {model} reads no bank; remove it"
    elif stage.bank not in banks:
        yield f"{where}.bank: {stage.bank!r} is not an earlier stage of kind bank; {_known(stage.bank, banks, 'banks')}"
    teacher = None if stage.teacher is None else trainings.get(stage.teacher)
    if teacher is not None and teacher.bank is not None and teacher.bank != stage.bank:
        # The teacher looks at the clips of the student, which come with the student's bank.
        yield f"{where}.bank: its teacher {teacher.name} reads the bank {teacher.bank!r}; name the same"


def _side_inputs(stage: ResolvedStage) -> tuple[str, ...]:
    names: tuple[str, ...] = () if stage.model.options is None else stage.model.options.side_inputs
    return names


def _known(name: str, earlier: Mapping[str, Any], what: str) -> str:
    if not earlier:
        return f"there are no earlier {what}"
    return did_you_mean(name, earlier) + f"earlier {what}: {', '.join(earlier)}"
