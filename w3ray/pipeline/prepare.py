"""How does a recipe become stages that can start? Finds the data, the identities and the states. Starts nothing."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray.data.balance import Balance
from w3ray.data.boxes import BoxFile, read_boxes
from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import require_decoder
from w3ray.data.manifest import CLIP_COLUMNS, Manifest, read_manifest
from w3ray.data.modality import require_modality
from w3ray.data.roots import check_roots
from w3ray.data.schedule import Schedule, stable_key
from w3ray.data.stamps import changes_since_import
from w3ray.errors import InputError
from w3ray.pipeline.explained_clips import explained_clips
from w3ray.pipeline.heads_of_stage import fitted
from w3ray.pipeline.identity import (
    bank_determinants,
    bank_identity,
    resolved_clip,
    stage_determinants,
    stage_identity,
)
from w3ray.pipeline.initial_weights import find_weights
from w3ray.pipeline.planned import BankStore, Planned, PlannedBank, PlannedStage, PreparedData
from w3ray.pipeline.stage_store import StageStore
from w3ray.plugins import check_contracts, source_of, sources_of
from w3ray.recipe import Data, Recipe, ResolvedBank, ResolvedStage, Synthetic
from w3ray.storage import StoragePath, storage_path

if TYPE_CHECKING:
    from w3ray.models._common import LoadedWeights

_ROWS_AT_ONCE = 100_000


def synthetic_root(recipe: Recipe) -> StoragePath:
    """The folder of the recipe's generated data set. Its name holds a hash of everything that decides its content."""
    from w3ray.data.synthetic import SYNTHETIC_VERSION

    assert recipe.data.synthetic is not None
    arguments = Synthetic.shortest(recipe.data.synthetic.determinants())
    key = stable_key(SYNTHETIC_VERSION, *(f"{name}={arguments[name]}" for name in sorted(arguments)))
    return storage_path(recipe.storage) / "data" / f"motion-{key:016x}"


def prepare_data(recipe: Recipe) -> PreparedData:
    """Read the manifest, or compute that of a generated data set, and select the splits. Draws nothing.

    Raises:
        InputError: the manifest is missing or cannot be used, a split is empty, clips are flipped without a flip map,
            or `tracking.explain_clips` names a clip that is in no split, or a clip has no boxes in `data.boxes`.
    """
    data = recipe.data
    to_generate = None
    if data.synthetic is not None:
        from w3ray.data.synthetic import motion_manifest

        root = synthetic_root(recipe)
        if (root / "manifest.parquet").is_file():
            manifest = read_manifest(str(root / "manifest.parquet"))
        else:
            foreseen = motion_manifest(root.name, **data.synthetic.model_dump())
            manifest, to_generate = replace(foreseen, location=str(root / "manifest.parquet")), root
    else:
        assert data.manifest is not None
        manifest = read_manifest(data.manifest)
        check_roots(manifest, data.roots)
    manifest = data.chosen(manifest)
    test_split = data.test_split if recipe.evaluation.split == "test" else data.val_split
    assert test_split is not None, "the recipe was checked"
    clip = recipe.data.clip_spec()
    require_decoder(clip.decoder)
    clip.require_flip_map(manifest.flip_map)
    if to_generate is None:
        require_modality(manifest, clip.flow_fields, "the recipe")
    wanted = {"train": data.train_split, "val": data.val_split, "test": test_split}
    names = {kind: manifest.split_named(name) for kind, name in wanted.items()}
    boxes = None if data.boxes is None else read_boxes(data.boxes)
    rows = {name: _rows(manifest, name, boxes) for name in dict.fromkeys(names.values())}
    for name, table in rows.items():
        _require_labels(table, name, manifest)
    explained = explained_clips(recipe, rows, manifest.heads)
    files = changes_since_import(manifest, names.values())
    fingerprint = manifest.fingerprint()
    prepared = PreparedData(
        heads=manifest.heads,
        flip_map=manifest.label_flips,
        location=manifest.location,
        fingerprint=fingerprint,
        splits={kind: rows[name] for kind, name in names.items()},
        clip=clip,
        determinants=data_determinants(
            recipe.data,
            manifest=fingerprint,
            splits=names,
            changed=files.digest,
            boxes=None if boxes is None else boxes.digest,
        ),
        to_generate=to_generate,
        explained=explained,
        files=files,
    )
    del manifest, boxes  # its rows are not needed any more: give their memory back to the system
    pa.default_memory_pool().release_unused()
    return prepared


def data_determinants(
    data: Data,
    *,
    manifest: str,
    splits: Mapping[str, str],
    changed: str | None = None,
    boxes: str | None = None,
) -> dict[str, Any]:
    """Everything about the data that decides a stage's result, as JSON values.

    Args:
        manifest: its fingerprint.
        splits: `train`, `val` and `test` -> the manifest's names for them.
        changed: digest of the changes to the videos since the import (`FileChanges.digest`); None: no changes.
        boxes: digest of the file of boxes; None: the clips have none.
    """
    clip = data.clip_spec().values()
    parts = sources_of(data.parts())
    more = ({} if changed is None else {"changed_videos": changed}) | ({"plugins": parts} if parts else {})
    more |= {} if boxes is None else {"boxes": boxes}
    return more | {
        "manifest": manifest,
        "synthetic": None if data.synthetic is None else data.synthetic.determinants(),
        "splits": dict(splits),
        "clip": resolved_clip({**clip, **{name: list(clip[name]) for name in ("scales", "augmentations")}}),
    }


def _rows(manifest: Manifest, split: str, boxes: BoxFile | None = None) -> pa.Table:
    """The rows of a split, with uris that can be opened from anywhere. In one chunk, so that finding a row is fast.

    Columns are copied one at a time, so that two copies of the whole table never exist.
    """
    columns = {}
    for name in CLIP_COLUMNS:
        column = manifest.split(split, [name])[name]
        if name == "uri":
            column = manifest.resolved(column)
        # The table's method, not the column's: it keeps several chunks if one would pass the 2 GiB of `pa.string()`.
        columns[name] = pa.table({name: column}).combine_chunks()[name]
    table = pa.table(columns)
    where = f"{manifest.location}, split {split!r}"
    return table if boxes is None else boxes.joined(table, where, own_times=manifest.own_times)


def _require_labels(rows: pa.Table, split: str, manifest: Manifest) -> None:
    """Raises: InputError if a clip for training or evaluation has no label, or no multi-label clip has a class."""
    where = manifest.location
    if unknown := rows["label"].null_count:
        first = rows["clip_id"][pc.index(pc.is_null(rows["label"]), True).as_py()].as_py()
        raise InputError(
            f"{where}: {unknown} of {rows.num_rows} clips of split {split!r} have no label (the first is {first!r}); a "
            "run cannot train on them or evaluate them; `w3ray evaluate` can write their scores"
        )
    sets = manifest.label_sets
    if sets is not None and not any(sets[label] for label in rows["label"].unique().to_pylist()):
        raise InputError(
            f"{where}: no clip of split {split!r} has one of the {manifest.num_classes} classes; label its clips"
        )


def _plan_bank(stage: ResolvedBank, of: PlannedStage, data: Mapping[str, Any], storage: StoragePath) -> PlannedBank:
    """A stage of kind bank, with its identity and its state.

    Args:
        stage: the bank.
        of: the training whose network makes the features.
        data: determinants of the data.
        storage: of the run.
    """
    determinants = bank_determinants(stage, of=of.identity, data=data)
    identity = bank_identity(determinants)
    store = BankStore(storage, stage.name, identity)
    return PlannedBank(
        stage=stage, of=of, identity=identity, determinants=determinants, store=store,
        status=store.status(determinants),
    )  # fmt: skip


def plan_stages(recipe: Recipe, data: PreparedData) -> list[Planned]:
    """The stages in order, each with its identity and its state.

    Raises:
        InputError: the initial weights of a stage that has not started cannot be read or do not fit its model, a part
            of a plugin breaks its contract, a network does not take the clips or its bank, or an attention enters no
            site.
    """
    trainings: dict[str, PlannedStage] = {}
    banks: dict[str, PlannedBank] = {}
    for stage in recipe.chain():
        if isinstance(stage, ResolvedBank):
            banks[stage.name] = _plan_bank(stage, trainings[stage.of], data.determinants, storage_path(recipe.storage))
            continue
        teacher = None if stage.teacher is None else trainings[stage.teacher]
        bank = None if stage.bank is None else banks[stage.bank]
        trainings[stage.name] = _planned(recipe, data, stage, teacher, bank)
    for item in list(trainings.values()):
        if item.status.state != "reuse":
            check_contracts([*item.stage.parts(), *item.stage.watchers(), *recipe.data.parts()])
            check_network(item.stage, data.clip, num_classes=data.heads.num_scores)
            _require_bank_fits(item, data)
            _require_trained_parts(item, data)
        if item.status.state == "run" and item.stage.model.weights is not None:
            trainings[item.stage.name] = replace(item, loaded=_loaded(item, data))
    planned: dict[str, Planned] = {**trainings, **banks}
    return [planned[stage.name] for stage in recipe.stages]


def _planned(
    recipe: Recipe, data: PreparedData, stage: ResolvedStage, teacher: PlannedStage | None, bank: PlannedBank | None
) -> PlannedStage:
    stage = fitted(stage, data.heads)
    weights = find_weights(stage.model.weights, recipe, data.heads)
    determinants = stage_determinants(
        stage,
        seed=stage.seed,
        data=data.determinants,
        weights=weights.key,
        teacher_identity=None if teacher is None else teacher.identity,
        bank=None if bank is None else bank.identity,
    )
    identity = stage_identity(determinants)
    store = StageStore(storage_path(recipe.storage), stage.name, identity)
    return PlannedStage(
        stage=stage,
        seed=stage.seed,
        identity=identity,
        determinants=determinants,
        store=store,
        status=store.status(determinants),
        schedule=_schedule(stage, data),
        teacher=stage.teacher,
        bank=bank,
        weights=weights,
    )


def _loaded(item: PlannedStage, data: PreparedData) -> "LoadedWeights | None":
    """What the stage's network takes of its initial weights.

    Raises:
        InputError: they cannot be read, or do not fit.
    """
    from w3ray.models import build_model

    arguments = item.model_arguments(data)
    try:
        loaded = build_model(**arguments).loaded_weights
    except InputError as error:
        # The user knows the place that the recipe names, not where a copy lies.
        raise InputError(str(error).replace(str(item.weights.place), str(item.weights.source))) from error
    if loaded is None:
        return None
    return replace(loaded, left_out=(*loaded.left_out, *item.weights.left_out))


def _require_bank_fits(item: PlannedStage, data: PreparedData) -> None:
    """Raises: InputError if the bank's features have other channels than the stage's network reads."""
    shape = item.stage.bank_shape()
    if item.bank is None or shape is None:
        return
    from w3ray.models.fits import feature_channels

    arguments = item.bank.of.model_arguments(data)
    made = feature_channels(arguments, data.clip.num_frames, data.clip.size)
    if made != shape[1]:
        raise InputError(
            f"stage {item.stage.name}: model.options.bank_channels is {shape[1]}, but {arguments['name']} of stage "
            f"{item.bank.of.stage.name} makes features of {made} channels; set it to {made}"
        )


def _require_trained_parts(item: PlannedStage, data: PreparedData) -> None:
    """Raises: InputError if the stage freezes or skips parts that its network does not have, or freezes all of it."""
    train = item.stage.train
    freezes = {"train.freeze": train.freeze}
    freezes |= {f"train.phases: from_epoch {phase.from_epoch}: freeze": phase.freeze or () for phase in train.phases}
    if not any(freezes.values()) and train.stochastic_depth == 0:
        return
    import torch

    from w3ray.models import build_model
    from w3ray.models.stochastic_depth import set_stochastic_depth
    from w3ray.training.freeze import frozen_names

    with torch.device("meta"):
        model = build_model(**{**item.model_arguments(data), "weights": None})
    for field, freeze in freezes.items():
        try:
            frozen_names(model, freeze)
        except ValueError as error:
            raise InputError(f"stage {item.stage.name}: {field}: {error}") from error
    try:
        set_stochastic_depth(model, train.stochastic_depth)
    except ValueError as error:
        raise InputError(f"stage {item.stage.name}: train.{error}") from error


def check_network(stage: ResolvedStage, clip: ClipSpec, *, num_classes: int = 2) -> None:
    """Check that a stage's network takes its clips, and that its attention enters a site.

    The recipe has checked what built-in networks say about themselves. So torch is imported only for parts of plugins,
    and for an attention that does not enter all sites.

    Raises:
        InputError: the network does not take them, or the attention enters no site.
    """
    attention = stage.model.attention
    chooses = attention is not None and attention.chooses_sites
    if not chooses and all(source_of(*part) is None for part in stage.model.parts()):
        return
    from w3ray.models.fits import check_network as check

    try:
        check({**stage.model.build_arguments(), "num_classes": num_classes}, clip.num_frames, clip.size)
    except ValueError as error:
        raise InputError(f"stage {stage.name}: model: {error}") from error


def _schedule(stage: ResolvedStage, data: PreparedData) -> Schedule:
    rows = {kind: data.splits[kind].num_rows for kind in ("train", "val", "test")}
    labels = data.splits["train"]["label"].to_numpy()
    schedule = stage_schedule(stage, labels, num_val=rows["val"], num_test=rows["test"])
    _require_same_clip(data.splits["train"], stage.train.rows_together, stage.name)
    return schedule


def stage_schedule(stage: ResolvedStage, labels: np.ndarray, *, num_val: int = 0, num_test: int = 0) -> Schedule:
    """The order of a stage's samples, for one worker. `labels` are those of the training rows.

    Raises:
        InputError: the stage's sizes, such as `batch_size` and `microbatch_size`, do not fit each other.
    """
    train = stage.train
    try:
        return Schedule(
            num_train=len(labels),
            num_val=num_val,
            num_test=num_test,
            batch_size=train.batch_size,
            microbatch_size=train.microbatch_size,
            rows_together=train.rows_together,
            epochs=train.epochs,
            validate_every_epochs=train.validate_every_epochs,
            seed=stage.seed,
            world_size=1,
            repeats=train.repeated_augmentation,
            balance=None if train.sampling == "shuffle" else Balance.of(labels, train.sampling),
        )
    except ValueError as error:
        raise InputError(f"stage {stage.name}: train: {error}") from error


def _require_same_clip(rows: pa.Table, rows_together: int, stage: str) -> None:
    """Check that rows which share their random frames and crop are views of one clip: else the training is meaningless.

    Raises: InputError naming the first two rows that are kept together, but show different parts or different videos.
    """
    if rows_together == 1:
        return
    for start in range(0, rows.num_rows, _ROWS_AT_ONCE * rows_together):
        part = rows.select(["uri", "start_s", "end_s"]).slice(start, _ROWS_AT_ONCE * rows_together)
        places = np.arange(part.num_rows)
        firsts = part.take(places - places % rows_together)
        same = [pc.fill_null(pc.equal(part[name], firsts[name]), False) for name in part.column_names]
        # Two absent values are equal.
        both = [pc.and_(pc.is_null(part[name]), pc.is_null(firsts[name])) for name in part.column_names]
        agree = np.logical_and.reduce([np.logical_or(*pair) for pair in zip(same, both, strict=True)])
        strangers = np.flatnonzero(~agree)
        if strangers.size:
            i = int(strangers[0])
            raise InputError(
                f"stage {stage}: train: rows_together {rows_together} would keep training rows "
                f"{start + i - i % rows_together} and {start + i} together, but they are not views of the same clip "
                f"({Path(firsts['uri'][i].as_py()).name}, {Path(part['uri'][i].as_py()).name}); set it to 1, or order "
                "the manifest so that the rows of a clip are neighbours, as 'w3ray data import --reversed-twin' does"
            )
