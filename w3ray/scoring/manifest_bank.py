"""A bank of the videos of a manifest, made with a finished model (`w3ray data bank`)."""

import hashlib
from collections.abc import Callable, Sequence

from w3ray._digest import digest_of
from w3ray.cluster.connection import Connection
from w3ray.data.bank import BANK_NAME, BANK_VERSION, Bank, BankAbout, read_bank, videos_of
from w3ray.data.clip import ClipSpec
from w3ray.data.manifest import CLIP_COLUMNS, read_manifest
from w3ray.data.modality import require_modality
from w3ray.data.roots import check_roots
from w3ray.data.stamps import changes_since_import
from w3ray.errors import InputError
from w3ray.models.bundle import WEIGHTS_NAME, model_folder
from w3ray.plugins import shipment
from w3ray.scoring.make_bank import BankOrder, make_bank
from w3ray.scoring.model_files import description_of, model_files
from w3ray.scoring.question import plan_scoring, require_clip_decoder
from w3ray.storage import require_writable, storage_path


def bank_of_manifest(
    model: str,
    manifest: str,
    out: str,
    *,
    every_s: float,
    span_s: float,
    roots: Sequence[str] | None = None,
    address: str | None = None,
    max_failed_share: float = 0.01,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_failure: Callable[[str, str], None] = lambda video, reason: None,
) -> Bank:
    """Make a bank of all videos of a manifest. Call it again to resume, or to read a finished one.

    Args:
        model: folder of the model that makes the features.
        manifest: path or `s3://...`.
        out: folder of the bank, where all nodes see it.
        every_s: seconds from one feature to the next.
        span_s: seconds of video that a feature is made of.
        roots: the folders that videos may lie in; None: anywhere.
        address: of a Ray cluster; None: start one on this machine.
        max_failed_share: fail if more than this share of the videos cannot be read.
        on_progress: called with the number of features done and of all features.
        on_failure: called with a video that cannot be read as a whole, and the reason.

    Raises:
        InputError: no model or manifest, a model that reads more than clips, wrong seconds, or `out` holds another bank
            or cannot be written.
        RunError: too many videos cannot be read.
    """
    for option, value in (("--every-s", every_s), ("--span-s", span_s)):
        if not 0 < value < float("inf"):
            raise InputError(f"{option} {value:g}: must be a number above 0")
    files = model_files(model_folder(model))
    description, clips = description_of(files), read_manifest(manifest)
    spec = ClipSpec(**description.clip)
    if spec.side_inputs:
        raise InputError(
            f"{model}: reads {', '.join(spec.side_inputs)} with each clip, and there are none for all moments of a "
            "video; name a model that reads clips only"
        )
    require_clip_decoder(model, spec)
    require_modality(clips, spec.flow_fields, model)
    check_roots(clips, None if roots is None else tuple(roots))
    rows = clips.table.select(list(CLIP_COLUMNS))
    rows = rows.set_column(CLIP_COLUMNS.index("uri"), "uri", clips.resolved(rows["uri"]))
    about = BankAbout(model=hashlib.sha256(files[WEIGHTS_NAME]).hexdigest(), every_s=every_s, span_s=span_s)
    videos, folder = videos_of([rows], clips.location), storage_path(out)
    fingerprint = clips.fingerprint()
    identity = digest_of(
        {
            "version": BANK_VERSION, "model": about.model, "every_s": every_s, "span_s": span_s,
            "videos": list(videos), "manifest": fingerprint,
            "changed_videos": changes_since_import(clips, list(clips.splits())).digest,
        }
    )  # fmt: skip
    if (folder / BANK_NAME).is_file() and read_bank(out).identity == identity:
        return read_bank(out)
    require_writable(folder)
    plugins = shipment((), description.sources)
    connection = Connection(address)
    try:
        plan = plan_scoring(connection.nodes())
        connection.require(plugins)
        order = BankOrder(
            folder=folder, identity=identity, files=files, about=about, videos=videos, manifest=fingerprint,
            roots=None if roots is None else tuple(roots), plugins=plugins, max_failed_share=max_failed_share,
        )  # fmt: skip
        return make_bank(order, plan, on_progress=on_progress, on_failure=on_failure)
    finally:
        connection.close()
