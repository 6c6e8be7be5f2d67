"""The student of a trial as a plain loop, to compare with `sweep.py`: one process, no Ray, no checkpoints, no tracking.

    python benchmarks/_plain_trial.py TIMES STORAGE [SETTING ...]

Trains the quickstart's student TIMES times, with the teacher that a sweep left in STORAGE. It uses the same clips in
the same order, and the same training step, validations and test. Prints a JSON list of seconds, each from the first
clip to the last score.
"""

import json
import sys
import time

import numpy as np
import torch
from torch import Tensor

from w3ray.data.clip import load_clip
from w3ray.data.schedule import PADDING, Item
from w3ray.evaluation.metrics import Counts
from w3ray.models import build_model
from w3ray.models.bundle import load_model
from w3ray.pipeline.prepare import PlannedStage, PreparedData, plan_stages, prepare_data
from w3ray.recipe import load_recipe
from w3ray.training.batch_norm import apply_batch_norm_mode
from w3ray.training.lr_schedule import lr_factor
from w3ray.training.optimizer import build_optimizer, parameter_groups
from w3ray.training.randomness import microbatch_seed
from w3ray.training.step import TrainingStep


def read(item: Item, planned: PlannedStage, data: PreparedData) -> tuple[Tensor, Tensor, Tensor]:
    size, spec = len(item.samples), data.clip
    clips = np.zeros((size, spec.num_frames, spec.size, spec.size, 3), dtype=np.uint8)
    labels = np.zeros(size, dtype=np.int64)
    valid = item.samples != PADDING
    for place in np.flatnonzero(valid):
        row = data.splits[item.kind].slice(int(item.samples[place]), 1).to_pylist()[0]
        position = int(item.positions[place])
        rng = planned.schedule.augmentation_generator(item.epoch, position) if item.kind == "train" else None
        clips[place], labels[place] = load_clip(row["uri"], label=row["label"], spec=spec, rng=rng)
    return torch.as_tensor(clips), torch.as_tensor(labels), torch.as_tensor(valid)


def train(planned: PlannedStage, teacher: PlannedStage, data: PreparedData) -> float:
    settings, schedule = planned.stage.train, planned.schedule
    assert settings.precision != "auto", "a run chooses it, a plain loop does not"
    torch.manual_seed(microbatch_seed(planned.seed, "init"))
    model = apply_batch_norm_mode(build_model(**planned.model_arguments(data)), settings.batch_norm)
    groups = parameter_groups(model, lr=settings.lr, weight_decay=settings.weight_decay)
    step = TrainingStep(
        model,
        optimizer=build_optimizer(settings.optimizer, groups, momentum=settings.momentum),
        loss_weights=dict(planned.stage.loss_weights),
        teacher=load_model(str(teacher.store.model))[0],
        precision=settings.precision,
        clip_grad_norm=settings.clip_grad_norm,
        label_smoothing=settings.label_smoothing,
    )
    counts = Counts(data.heads.num_scores)
    started = time.perf_counter()
    for number in range(schedule.total_items):
        item = schedule.item(number)
        clips, labels, valid = read(item, planned, data)
        if item.kind == "train":
            seed = microbatch_seed(planned.seed, "dropout", item.step, item.slot)
            step.accumulate(clips, labels, valid, normalizer=float(valid.sum()), world_size=1, seed=seed, last=True)
            step.update(settings.lr * lr_factor(item.step, total_steps=schedule.total_steps, warmup_steps=0))
        else:
            model.eval()
            with torch.no_grad():
                counts.update(model(step.prepare(clips)).logits_BK, labels, valid)
    counts.result()
    return time.perf_counter() - started


def main() -> None:
    times, storage, *settings = sys.argv[1:]
    torch.set_num_threads(1)
    recipe = load_recipe("quickstart", [f"storage={storage}", *settings])
    data = prepare_data(recipe)
    teacher, student = (stage for stage in plan_stages(recipe, data) if isinstance(stage, PlannedStage))
    print(json.dumps([train(student, teacher, data) for _ in range(int(times))]))


if __name__ == "__main__":
    main()
