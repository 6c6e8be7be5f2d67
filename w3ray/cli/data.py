"""`w3ray data`: make a manifest (import), read every clip of one (check), write a motion data set (synth); describe
(stats) and draw one (show)."""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow.compute as pc
import typer

from w3ray._redact import redact, redacted
from w3ray.cli._common import EXIT_FAILED, JsonOption, finish, run_command
from w3ray.cli._console import Group, Line, RenderableType, Table, write_error
from w3ray.cli._progress import Progress
from w3ray.cli.data_show import show
from w3ray.cli.data_stats import stats
from w3ray.data.importers import IMPORTERS
from w3ray.data.manifest import Manifest, known_labels, read_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.heads import UNLABELLED

if TYPE_CHECKING:
    from w3ray.data.importers._looking import Journal

app = typer.Typer(no_args_is_help=True, help="Import, check, describe, show and synthesise clips.")
import_app = typer.Typer(no_args_is_help=True, help="Make a manifest from videos that lie somewhere.")
app.add_typer(import_app, name="import")
app.command("stats")(stats)
app.command("show")(show)


class FolderSplit(StrEnum):
    """Where `import folder` takes the splits from."""

    FOLDER = "folder"
    LIST = "list"
    GROUP = "group"
    RANDOM = "random"


class CsvSplit(StrEnum):
    """Where `import csv` takes the splits from."""

    COLUMN = "column"
    GROUP = "group"
    RANDOM = "random"


OutOption = Annotated[str, typer.Option("--out", "-o", help="Manifest to write (Parquet; a path or s3://...).")]
GroupOption = Annotated[
    str | None, typer.Option("--group", help="Regular expression with one (capture), searched in each clip's path.")
]
ValGroupsOption = Annotated[str, typer.Option(help="Groups to hold out for val, separated by commas.")]
TestGroupsOption = Annotated[str, typer.Option(help="Groups to hold out for test, separated by commas.")]
ValShareOption = Annotated[float, typer.Option(help="Share of clips for val, where no groups are named.")]
TestShareOption = Annotated[float, typer.Option(help="Share of clips for test, where no groups are named.")]
SeedOption = Annotated[int, typer.Option(help="Seed of what is drawn.")]
ClassesOption = Annotated[str, typer.Option(help="Class names in label order, separated by commas; else sorted.")]
FramePrefixOption = Annotated[
    str | None,
    typer.Option(
        "--frame-prefix",
        help="What the names of the frames begin with, as 'img_', in folders that hold other images too.",
    ),
]
FlipOption = Annotated[
    str,
    typer.Option(
        "--flip-map",
        help="Mirror images: 'left=right,in=out', or 'identity' where a mirrored clip keeps its class. "
        "Without one, training may not mirror clips.",
    ),
]
MissingOkOption = Annotated[bool, typer.Option("--missing-ok", help="Do not look whether the videos exist.")]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Ray cluster that looks for the videos, which each of its nodes must see; else this process."),
]
TwinOption = Annotated[
    bool,
    typer.Option("--reversed-twin", help="Each clip forward (class 0) and backward (class 1): a pure test of order."),
]


HashOption = Annotated[
    bool,
    typer.Option(
        "--hash", help="Hash each video's content: a run then knows for certain which of them changed since. Reads all."
    ),
]


@import_app.command("folder")
@run_command
def import_folder_command(
    source: Annotated[str, typer.Argument(help="Folder with SOURCE/<class>/<clip>, or SOURCE/<split>/<class>/<clip>.")],
    out: OutOption,
    split: Annotated[
        FolderSplit, typer.Option(help="From the first folder level, list files, held-out groups, or a random share.")
    ] = FolderSplit.RANDOM,
    lists: Annotated[str, typer.Option("--list", help="List files: 'train=a.txt,val=b.txt'.")] = "",
    group: GroupOption = None,
    val_groups: ValGroupsOption = "",
    test_groups: TestGroupsOption = "",
    val_share: ValShareOption = 0.2,
    test_share: TestShareOption = 0.0,
    seed: SeedOption = 0,
    classes: ClassesOption = "",
    flip_map: FlipOption = "",
    frame_prefix: FramePrefixOption = None,
    reversed_twin: TwinOption = False,
    content_hash: HashOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import class folders.

    Split folders are train, val or test in any case, or training, valid, validation, dev, testing. One folder called
    'test' among others is a class; where all of them are called so, --classes says that they are classes.
    """
    from w3ray.data.importers import Dealing, import_folder

    if lists and split is not FolderSplit.LIST:
        raise InputError(f"--list has no effect with --split {split}; add --split list")
    _check_group_options(split == "group", val_groups, test_groups)
    manifest = import_folder(
        source,
        split=split.value,
        lists=_pairs(lists, "--list") or None,
        group=group,
        dealing=Dealing(
            val_groups=_names(val_groups),
            test_groups=_names(test_groups),
            val_share=val_share,
            test_share=test_share,
            seed=seed,
        ),
        classes=_names(classes) or None,
        flip_map=_flip_map(flip_map),
        frame_prefix=frame_prefix,
    )
    _write(manifest, out, twin=reversed_twin, content=content_hash, as_json=as_json)


@import_app.command("csv")
@run_command
def import_csv_command(
    source: Annotated[
        str, typer.Argument(help="CSV with a row a clip: path, label, split, group, ...; or a list without a header.")
    ],
    out: OutOption,
    root: Annotated[str | None, typer.Option(help="What paths are relative to; else the CSV's folder.")] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="Other column names: 'path=video,label=class,split=..,group=..,start=..,end=..'; "
            "'label=verb+noun': each clip has two labels. Of a file without a header, its columns in their order: "
            "'path,label', 'path,num_frames,label', 'path,label,start,end' ('_': not read); also "
            "'path,verb,noun,label=verb+noun'."
        ),
    ] = "",
    delimiter: Annotated[
        str | None,
        typer.Option(help="Character between two values; else a comma, and without a header what fits: blanks, ..."),
    ] = None,
    split: Annotated[
        CsvSplit | None, typer.Option(help="From the column (default where there is one), groups, or a random share.")
    ] = None,
    group: GroupOption = None,
    val_groups: ValGroupsOption = "",
    test_groups: TestGroupsOption = "",
    val_share: ValShareOption = 0.2,
    test_share: TestShareOption = 0.0,
    seed: SeedOption = 0,
    classes: ClassesOption = "",
    flip_map: FlipOption = "",
    frame_prefix: FramePrefixOption = None,
    missing_ok: MissingOkOption = False,
    address: AddressOption = None,
    reversed_twin: TwinOption = False,
    content_hash: HashOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a CSV file."""
    from w3ray.data.importers import Columns, Dealing, import_csv

    _check_group_options(split == "group", val_groups, test_groups)
    header = [name for name in _names(columns) if "=" not in name]
    names = _pairs(",".join(name for name in _names(columns) if "=" in name), "--columns")
    if unknown := set(names) - set(Columns.__slots__):
        raise InputError(f"--columns: no {sorted(unknown)[0]!r}; known: {', '.join(Columns.__slots__)}")
    with _looked_for(out, address, missing_ok, content_hash) as journal:
        manifest = import_csv(
            source,
            root=root,
            columns=Columns(**names),
            header=header or None,
            delimiter=delimiter,
            split=None if split is None else split.value,
            group=group,
            dealing=Dealing(
                val_groups=_names(val_groups),
                test_groups=_names(test_groups),
                val_share=val_share,
                test_share=test_share,
                seed=seed,
            ),
            classes=_names(classes) or None,
            flip_map=_flip_map(flip_map),
            frame_prefix=frame_prefix,
            note=write_error,
        )
    _write(
        manifest, out, twin=reversed_twin, content=content_hash, as_json=as_json, look=not missing_ok, journal=journal
    )


def _add_published(name: str, importer: Callable[..., Manifest]) -> None:
    """The command of a published data set: all of them have the same options."""
    parameters = inspect.signature(importer).parameters

    @import_app.command(name, help=(importer.__doc__ or "").partition("\n")[0])
    @run_command
    def command(
        annotations: Annotated[str, typer.Argument(help="Folder with the annotation files, as they are published.")],
        videos: Annotated[str, typer.Option(help="Folder (or s3://...) of the videos or frame folders.")],
        out: OutOption,
        fold: Annotated[int | None, typer.Option(help="Which one of several official splits; else the first.")] = None,
        val_groups: Annotated[
            str,
            typer.Option(
                help="Groups to hold out for val, separated by commas, where the data set has no val; 'none': no val."
            ),
        ] = "",
        partial: Annotated[
            bool, typer.Option("--partial", help="Take what is there of an unfinished download.")
        ] = False,
        missing_ok: MissingOkOption = False,
        address: AddressOption = None,
        content_hash: HashOption = False,
        as_json: JsonOption = False,
    ) -> None:
        if fold is not None and "fold" not in parameters:
            raise InputError(f"--fold has no effect: {name} has one official split")
        if val_groups and "val_groups" not in parameters:
            raise InputError(f"--val-groups has no effect: {name} has official splits")
        options: dict[str, Any] = {} if fold is None else {"fold": fold}
        if val_groups:
            options["val_groups"] = [] if val_groups == "none" else _names(val_groups)
        with _looked_for(out, address, missing_ok, content_hash) as journal:
            manifest = importer(annotations, videos=videos, partial=partial, note=write_error, **options)
        _write(manifest, out, twin=False, content=content_hash, as_json=as_json, look=not missing_ok, journal=journal)


@contextmanager
def _looked_for(out: str, address: str | None, missing_ok: bool, content: bool) -> Iterator["Journal"]:
    """Imports in here look for videos with progress, on a cluster where there is an address, and with this journal."""
    from w3ray.cluster.connect import connect, disconnect, job_address
    from w3ray.data.importers._looking import Journal, Looking, looking

    if missing_ok and content:
        raise InputError("--hash has no effect with --missing-ok: no video is looked at")
    if missing_ok and address:
        raise InputError("--address has no effect with --missing-ok: nothing is looked for")
    journal = Journal(f"{out}.looked")
    cluster = None if missing_ok else address or job_address()
    if cluster:
        connect(cluster)
    how = Looking(
        journal=None if missing_ok else journal,
        on_cluster=cluster is not None,
        progress=Progress("looked for {done} of {total} videos"),
        note=write_error,
        skip=missing_ok,
    )
    try:
        with looking(how):
            yield journal
    finally:
        if cluster:
            disconnect()


for _name, _importer in IMPORTERS.items():
    if _name not in ("folder", "csv"):
        _add_published(_name, _importer)


@app.command("check")
@run_command
def check(
    manifest: Annotated[str, typer.Argument(help="Manifest to check.")],
    ledger: Annotated[str | None, typer.Option(help="Parquet file for the result of every clip.")] = None,
    decoder: Annotated[str, typer.Option(help="pyav, decord or torchcodec.")] = "pyav",
    frames: Annotated[int, typer.Option(min=1, help="Frames sampled of each clip.")] = 8,
    roots: Annotated[
        list[str] | None,
        typer.Option("--root", help="Videos must lie below this folder or s3:// address. Can be repeated."),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; without one, this machine.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Also hold every frame against a decode of the whole video. Slow.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 where a clip cannot be read.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read every clip on the cluster; say which cannot be read and why."""
    from w3ray.cluster.connect import connect, disconnect, job_address
    from w3ray.data.audit import check_clips, reason_counts, write_ledger
    from w3ray.data.decoders import require_decoder
    from w3ray.data.roots import check_roots

    clips = read_manifest(manifest)
    require_decoder(decoder)
    if ledger is not None and not ledger.endswith(".parquet"):
        raise InputError(f"--ledger {ledger}: is written as Parquet; give it a name that ends in .parquet")
    check_roots(clips, roots or None)
    began_s = time.perf_counter()
    connect(address or job_address())
    try:
        result = check_clips(
            clips,
            decoder,
            num_frames=frames,
            progress=Progress("checked {done} of {total} clips"),
            roots=roots or None,
            exact=exact,
        )
    finally:
        disconnect()
    if ledger is not None:
        write_ledger(result, ledger)
    bad = [row for row in result.to_pylist() if not row["ok"]]
    document = {
        "manifest": clips.location,
        "decoder": decoder,
        "exact": exact,
        "clips": result.num_rows,
        "readable": result.num_rows - len(bad),
        "unreadable": len(bad),
        "reasons": reason_counts(result),
        "failures": [{"clip_id": row["clip_id"], "uri": row["uri"], "reason": row["reason"]} for row in bad],
        "ledger": ledger,
        "seconds": round(time.perf_counter() - began_s, 3),
    }
    document = redacted(document)
    finish(document, as_json=as_json, text=_check_text(document))
    if strict and bad:
        raise typer.Exit(EXIT_FAILED)


@app.command("synth")
@run_command
def synth(
    root: Annotated[str, typer.Argument(help="Folder to make.")],
    clips: Annotated[int, typer.Option(min=1, help="Clips to train on, over all classes.")] = 320,
    val_clips: Annotated[int | None, typer.Option(help="Clips of val; else a quarter of --clips.")] = None,
    test_clips: Annotated[int | None, typer.Option(help="Clips of the held-out test; else half of --clips.")] = None,
    seed: SeedOption = 0,
    size: Annotated[int, typer.Option(min=1, help="Side of the square frames in pixels, even.")] = 64,
    difficulty: Annotated[str, typer.Option(help="easy, medium or hard: how hard the motion is to see.")] = "easy",
    as_json: JsonOption = False,
) -> None:
    """Write real H.264 videos whose classes only motion tells apart, with their manifest."""
    from w3ray.data.synthetic import write_motion_dataset

    manifest = write_motion_dataset(
        root, clips=clips, val_clips=val_clips, test_clips=test_clips, seed=seed, size=size, difficulty=difficulty
    )
    finish(_summary(manifest), as_json=as_json, text=_manifest_text(manifest))


def _write(
    manifest: Manifest,
    out: str,
    *,
    twin: bool,
    content: bool,
    as_json: bool,
    look: bool = True,
    journal: "Journal | None" = None,
) -> None:
    from w3ray.data.importers import reversed_twin
    from w3ray.data.stamps import stamped

    manifest = reversed_twin(manifest) if twin else manifest
    written = write_manifest(stamped(manifest, content=content) if look else manifest, out)
    if journal is not None:
        journal.remove()
    finish(_summary(written), as_json=as_json, text=_manifest_text(written))


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "manifest": redact(manifest.location),
        "clips": manifest.table.num_rows,
        "classes": list(manifest.classes),
        "heads": dict(manifest.head_sizes),
        "splits": manifest.splits(),
        "counts": _class_counts(manifest),
        "flip_map": {manifest.classes[label]: manifest.classes[to] for label, to in manifest.flip_map.items()},
        "fingerprint": manifest.fingerprint(),
    }


def _class_counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Clips by class, then by split; of several heads a class is named with its head, as "verb take"."""
    splits = manifest.table["split"]
    labels = {split: known_labels(manifest.table.filter(pc.equal(splits, split))) for split in manifest.splits()}
    counts: dict[str, dict[str, int]] = {}
    for head in manifest.heads.each():
        of = {split: np.bincount(head.label(some[some != UNLABELLED]), minlength=len(head.classes))
              for split, some in labels.items()}  # fmt: skip
        for place, name in enumerate(head.classes):
            counts[f"{head.name} {name}".strip()] = {split: int(count[place]) for split, count in of.items()}
    unlabelled = {split: int((some == UNLABELLED).sum()) for split, some in labels.items()}
    return counts | ({"(not known)": unlabelled} if any(unlabelled.values()) else {})


def _manifest_text(manifest: Manifest) -> RenderableType:
    splits = manifest.splits()
    table = Table(title=None, box=None, pad_edge=False)
    table.add_column("class")
    for split in splits:
        table.add_column(split, justify="right")
    for name, counts in _class_counts(manifest).items():
        table.add_row(name, *(str(counts[split]) for split in splits))
    table.add_row("all", *(str(count) for count in splits.values()))
    return Group(table, Line(f"{manifest.table.num_rows} clips in {redact(manifest.location)}"))


def _check_text(document: dict[str, Any]) -> RenderableType:
    head = Line(
        f"{document['readable']} of {document['clips']} clips can be read with {document['decoder']}"
        f"{', every frame as a whole decode shows it' if document['exact'] else ''} "
        f"({document['seconds']:.1f} s)"
    )
    if not document["unreadable"]:
        return head
    kinds = Table(box=None, pad_edge=False)
    kinds.add_column("clips", justify="right")
    kinds.add_column("reason")
    kinds.add_column("for example")
    for kind, count in document["reasons"].items():
        example = next(row["clip_id"] for row in document["failures"] if row["reason"].split(":")[0] == kind)
        kinds.add_row(str(count), kind, example)
    ledger = document["ledger"]
    foot = f"each clip's result: {ledger}" if ledger else "add --ledger FILE.parquet to keep each clip's result"
    return Group(head, kinds, Line(foot))


def _check_group_options(by_group: bool, val_groups: str, test_groups: str) -> None:
    if (val_groups or test_groups) and not by_group:
        raise InputError("--val-groups and --test-groups have no effect without --split group")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _pairs(text: str, option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in _names(text):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not (name and equals and value):
            raise InputError(f"{option}: {item!r} is not of the form name=value")
        if name in pairs:
            raise InputError(f"{option}: {name!r} is given twice")
        pairs[name] = value
    return pairs


def _flip_map(text: str) -> dict[str, str] | Literal["identity"] | None:
    if not text:
        return None
    return "identity" if text == "identity" else _pairs(text, "--flip-map")
