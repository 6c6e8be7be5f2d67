"""What is wrong with a recipe? All faults at once, one line each, worded so that the author can fix them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from w3ray._nearest import did_you_mean, nearest
from w3ray.recipe.bank_faults import bank_faults
from w3ray.recipe.sections import Model, ResolvedBank, ResolvedStage, Train, merge, merge_model
from w3ray.training.losses import LOSSES

# pydantic's name of a fault -> the message; {input} is the given value.
_MESSAGES = {
    "int_type": "must be a whole number, got {input}",
    "int_from_float": "must be a whole number, got {input}",
    "float_type": "must be a number, got {input}",
    "finite_number": "must be a finite number, got {input}",
    "bool_type": "must be true or false, got {input}",
    "string_type": "must be text, got {input}",
    "tuple_type": "must be a list, got {input}",
    "dict_type": "must be a section of keys, got {input}",
    "model_type": "must be a section of keys, got {input}",
    "model_attributes_type": "must be a section of keys, got {input}",
    "string_pattern_mismatch": "must start with a letter or digit and hold only letters, digits and . _ -, got {input}",
}


def recipe_faults(recipe: Any) -> list[str]:
    """Faults in the combination of parts of a `Recipe`, when each part alone is valid."""
    faults = override_faults(recipe.model_dump(), type(recipe))
    return faults or [
        *_chain_faults(recipe.chain()),
        *bank_faults(recipe),
        *_clip_faults(recipe),
        *_side_input_faults(recipe),
        *_evaluation_faults(recipe),
        *_explain_faults(recipe),
    ]


def override_faults(values: Mapping[str, Any], root: type[BaseModel]) -> list[str]:
    """Faults in the stages' overrides, found in a recipe's plain values, one line each. Other faults are ignored.

    Args:
        root: the type of a recipe. If a section does not know a key, the hint may name a key anywhere in this type.
    """
    faults = []
    stages = values.get("stages")
    for stage in stages if isinstance(stages, list | tuple) else ():
        for section, kind in (("train", Train), ("model", Model)):
            override = stage.get(section) if isinstance(stage, Mapping) else None
            base = values.get(section) or {}
            if not isinstance(override, Mapping) or not isinstance(base, Mapping):
                continue
            prefix = ("stages", str(stage.get("name")), section)
            inherited = _faults_of(base, kind, prefix, root)
            try:
                merged = merge_model(base, override) if kind is Model else merge(base, override)
            except ValueError as error:
                faults.append(f"{'.'.join(prefix)}: {error}")
                continue
            for line in _faults_of(merged, kind, prefix, root):
                key = line.partition(": ")[0].split(".")[len(prefix) :]
                if line not in inherited or _gives(override, key):
                    faults.append(line)
    return faults


def _faults_of(
    values: Mapping[str, Any], section: type[BaseModel], prefix: tuple[str, ...], root: type[BaseModel]
) -> list[str]:
    try:
        section.model_validate(values)
    except ValidationError as error:
        return fault_lines(error, section, prefix, root=root)
    return []


def _gives(override: Any, key: Sequence[str]) -> bool:
    """Whether the override itself has a value at `key`. Then a fault there belongs to the override."""
    for part in key:
        if not isinstance(override, Mapping) or part not in override:
            return False
        override = override[part]
    return not isinstance(override, Mapping)


def _chain_faults(stages: Sequence[ResolvedStage | ResolvedBank]) -> list[str]:
    faults = []
    earlier: dict[str, ResolvedStage] = {}
    banks: set[str] = set()
    for stage in stages:
        where = f"stages.{stage.name}"
        if stage.name in earlier or stage.name in banks:
            faults.append(f"{where}: two stages have this name; rename one")
        if isinstance(stage, ResolvedBank):
            banks.add(stage.name)
            continue
        from_teacher = {
            name: weight
            for name, weight in stage.loss_weights.items()
            if LOSSES.row(name.partition(".")[0]).needs_teacher
        }
        weighed = {name: weight for name, weight in from_teacher.items() if weight}
        if stage.teacher is None:
            for name, weight in weighed.items():
                faults.append(f"{where}.loss_weights.{name}: {weight:g} needs a teacher; set {where}.teacher")
        elif stage.teacher in banks:
            faults.append(f"{where}.teacher: {stage.teacher!r} is a bank; a teacher is a training")
        elif stage.teacher not in earlier:
            hint = did_you_mean(stage.teacher, earlier) + (f"earlier stages: {', '.join(earlier)}" if earlier else "")
            faults.append(
                f"{where}.teacher: {stage.teacher!r} is not an earlier stage; {hint or 'there is no stage before it'}"
            )
        elif not from_teacher:
            faults.append(f"{where}.teacher: has no effect without {where}.loss_weights.mfr; set this weight")
        else:
            ours, theirs = stage.model.architecture(), earlier[stage.teacher].model.architecture()
            differing = [key for key in ours if ours[key] != theirs[key]]
            if weighed and differing:
                faults.append(
                    f"{where}.model: differs from the teacher's model in {', '.join(differing)}; "
                    f"loss_weights.{next(iter(weighed))} compares features and needs the same architecture"
                )
        if not any(stage.loss_weights.values()):
            faults.append(f"{where}.loss_weights: all weights are 0, so the stage would learn nothing")
        earlier[stage.name] = stage
    return faults


def _clip_faults(recipe: Any) -> list[str]:
    """Clips that a stage's network cannot take."""
    faults: dict[str, str] = {}
    for stage in recipe.resolved_stages():
        where = "model" if stage.model == recipe.model else f"stages.{stage.name}.model"
        try:
            stage.model.check_clip(recipe.data.num_frames, recipe.data.size)
        except ValueError as error:
            faults[where] = f"{where}: {error}"
    return list(faults.values())


def _side_input_faults(recipe: Any) -> list[str]:
    """A stage's network needs boxes, and the recipe names none."""
    models = [stage.model for stage in recipe.resolved_stages()]
    needing = [model.name for model in models if model.options is not None and "boxes" in model.options.side_inputs]
    if not needing or recipe.data.boxes is not None:
        return []
    return [f"data.boxes: is missing; {needing[0]} needs boxes of things (see `w3ray data boxes`)"]


def _evaluation_faults(recipe: Any) -> list[str]:
    if recipe.evaluation.split == "test" and recipe.data.test_split is None:
        return ["evaluation.split: 'test' needs data.test_split; set it, or set evaluation.split to 'val'"]
    return []


def _explain_faults(recipe: Any) -> list[str]:
    """The same rule as in `w3ray explain`: a model without attention is refused."""
    if not recipe.tracking.explain_clips:
        return []
    plain = [stage.name for stage in recipe.resolved_stages() if stage.model.attention is None]
    return [
        f"tracking.explain_clips: stage {name!r} has no attention, so it has no masks to show; remove explain_clips, "
        "or set model.attention"
        for name in plain[:1]
    ]


def fault_lines(
    error: ValidationError,
    section: type[BaseModel],
    prefix: tuple[str, ...],
    *,
    stage_names: Sequence[str] = (),
    root: type[BaseModel] | None = None,
) -> list[str]:
    """One line for each fault: where it is, what it is, and what to do.

    Args:
        error: raised by `section`.
        section: the type that was validated.
        prefix: the section's place in the recipe.
        stage_names: names of the stages, used instead of their numbers.
        root: the type of the whole recipe, if `section` is a part of it.
    """
    lines: dict[str, list[str]] = {}
    for detail in error.errors():
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counts only valid items; each invalid item has its own fault
        location = _location(detail["loc"], section)
        if len(location) > 1 and location[0] == "stages" and int(location[1]) < len(stage_names):
            location = ("stages", stage_names[int(location[1])], *location[2:])
        where = ".".join((*prefix, *location))
        lines.setdefault(where, []).append(_say(detail, section, location, prefix, root or section))
    # A fault of the whole recipe names its own place; it may have several lines.
    return [
        line
        for where, said in lines.items()
        for line in ([f"{where}: {_either(said)}"] if where else "\n".join(said).splitlines())
    ]


def _either(said: list[str]) -> str:
    """One message from the messages that the members of a union have for the same value."""
    wishes = [text.partition(", got ")[0].removeprefix("must be ") for text in said]
    return said[0] if len(said) == 1 else f"must be {' or '.join(wishes)}, got {said[0].partition(', got ')[2]}"


def _location(loc: tuple[int | str, ...], section: type[BaseModel]) -> tuple[str, ...]:
    """The place of a fault in the recipe, without the names that pydantic adds for the members of a union."""
    location: list[str] = []
    kind: type[BaseModel] | None = section
    in_dict = False
    for part in loc:
        if isinstance(part, int) or (in_dict and part != "[key]"):
            location.append(str(part))
        elif kind is not None:
            location.append(part)
            field = kind.model_fields.get(part)
            in_dict = field is not None and get_origin(field.annotation) is dict
            kind = None if field is None else next(_models_in(field.annotation), None)
    return tuple(location)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _say(
    detail: ErrorDetails,
    section: type[BaseModel],
    location: tuple[str, ...],
    prefix: tuple[str, ...],
    root: type[BaseModel],
) -> str:
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return f"unknown key; {_suggest_key(section, location, prefix, root)}"
    if kind == "missing":
        return "is missing; " + (_description(section, location) or "add it")
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "literal_error":
        expected = detail["ctx"]["expected"]
        match = did_you_mean(str(given), re.findall(r"'([^']*)'", expected))
        return f"must be {expected}, got {show(given)}" + (f"; {match.strip()}" if match else "")
    if kind in _MESSAGES:
        message = _MESSAGES[kind].format(input=show(given))
    else:
        text = detail["msg"].replace("Input should", "must").replace("Tuple", "list")
        message = f"{text[0].lower()}{text[1:]}, got {show(given)}"
    description = _description(section, location)
    return f"{message} ({description})" if description else message


def _field(section: type[BaseModel], location: tuple[str, ...]) -> tuple[type[BaseModel] | None, Any]:
    """The section that holds the key at `location`, and the key's field if there is one."""
    holder: type[BaseModel] | None = section
    field = None
    for depth, part in enumerate(location):
        if holder is None:
            return None, None
        if location[0] == "stages" and depth == 1:
            continue
        field = holder.model_fields.get(part)
        if depth < len(location) - 1:
            holder = None if field is None else next(_models_in(field.annotation), None)
    return holder, field


def _description(section: type[BaseModel], location: tuple[str, ...]) -> str:
    _, field = _field(section, location)
    return (field.description or "") if field is not None else ""


def _suggest_key(
    section: type[BaseModel], location: tuple[str, ...], prefix: tuple[str, ...], root: type[BaseModel]
) -> str:
    holder, _ = _field(section, location)
    siblings = list(holder.model_fields) if holder is not None else []
    above = (*prefix, *location[:-1])
    if (match := nearest(location[-1], siblings)) is not None:
        return f"did you mean {'.'.join((*above, match))!r}?"
    elsewhere = [path for path in _all_keys(root) if path[-1] == location[-1]]
    if elsewhere:
        return f"did you mean {'.'.join(elsewhere[0])!r}?"
    distant = {path[-1]: path for path in reversed(list(_all_keys(root)))}
    if (match := nearest(location[-1], distant)) is not None:
        return f"did you mean {'.'.join(distant[match])!r}?"
    return f"known: {', '.join(siblings)}"


def _all_keys(section: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        if name != "stages":
            yield (*above, name)
            for inner in _models_in(field.annotation):
                yield from _all_keys(inner, (*above, name))


def show(value: Any) -> str:
    """A value as the user would write it, shortened, with its type."""
    if value is None:
        return "nothing (null)"
    kinds = {str: "text", bool: "true/false", int: "number", float: "number", dict: "a section", list: "a list"}
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    return f"{text} ({kinds.get(type(value), type(value).__name__)})"
