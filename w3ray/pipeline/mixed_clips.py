"""Which clips does a training step mix, and what does the network see? For `w3ray data show`."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch

from w3ray.data.contact_sheet import SheetRow
from w3ray.data.schedule import Schedule
from w3ray.recipe import ResolvedStage
from w3ray.training.mixing import Mixing
from w3ray.training.randomness import microbatch_seed


def mixed_rows(rows: Sequence[SheetRow], stage: ResolvedStage, schedule: Schedule, epoch: int) -> list[SheetRow]:
    """The rows of whole microbatches, as the training step mixes them. Unreadable clips are left as they are.

    Args:
        rows: the first clips of the epoch, from `training_rows`; the last microbatch must be complete.
        stage: the stage, with `train.mix`.
        schedule: its order.
        epoch: of the rows, counted from 0.
    """
    assert stage.train.mix is not None
    mixing = Mixing(**stage.train.mix.model_dump())

    def place(row: SheetRow) -> tuple[int, int]:
        step, within = divmod(row.position, schedule.batch_size)
        return epoch * schedule.steps_per_epoch + step, within // schedule.microbatch_size

    found: list[SheetRow] = []
    for (step, slot), group in groupby(rows, place):
        together = list(group)
        readable = [row for row in together if row.clip is not None]
        torch.manual_seed(microbatch_seed(stage.seed, "dropout", step, slot))
        found += _mixed(readable, mixing) + [row for row in together if row.clip is None]
    return found


def _mixed(rows: list[SheetRow], mixing: Mixing) -> list[SheetRow]:
    if not rows:
        return []
    frames = np.stack([row.clip.frames_TSSC for row in rows if row.clip is not None])
    clips_BTCHW = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float()
    mixed = mixing(clips_BTCHW, torch.arange(len(rows)))
    if mixed is None:
        return rows
    pixels = mixed.clips_BTCHW.round().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().numpy()
    pairs = zip(mixed.labels_B.tolist(), mixed.others_B.tolist(), pixels, strict=True)
    return [
        replace(
            rows[one], clip=replace(rows[one].clip, frames_TSSC=frames_TSSC), share=mixed.share, mixed_with=rows[other]
        )
        for one, other, frames_TSSC in pairs
    ]
